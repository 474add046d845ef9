"""The tokenizer of a run: a given model file, or one that is trained on the corpus once and cached.

Training uses the options in Llama's model file: BPE with byte fallback, single digits, no normalisation, white space
kept. Pieces 0 to 2 are <unk>, <s>, </s>, followed by the 256 bytes, so newline is id 13.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from codellama_jax.config import data
from codellama_jax.config.data import STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import cache
from codellama_jax.tokenizer import (
    BOS_ID,
    EOS_ID,
    UNK_ID,
    SentencePieceTokenizer,
    Tokenizer,
    TokenNames,
    open_tokenizer,
)
from tasks import sources
from tasks.sources.base import Document, Source, items

# Our choice: enough for a few thousand pieces. More text takes longer and changes only the last pieces.
SAMPLE_CHARACTERS = 6_000_000

OPTIONS: dict[str, Any] = {
    "model_type": "bpe",
    "unk_id": UNK_ID,
    "bos_id": BOS_ID,
    "eos_id": EOS_ID,
    "pad_id": -1,
    "character_coverage": 0.99995,
    "byte_fallback": True,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": True,
    "num_threads": 16,  # written into the model, so fixed: the bytes are the same on every machine
}


def trained_tokenizer(
    corpus: Corpus, filters: Filters, settings: data.Tokenizer, log: Callable[[str], object] = print
) -> Tokenizer:
    """The tokenizer of settings.model, or one of settings.vocab_size pieces trained on the corpus's train split.

    A trained tokenizer is cached below $XDG_CACHE_HOME (or ~/.cache), under a hash of its text and options. The same
    text gives the same bytes. `log` is called with a message when training starts and another when it ends.

    Raises:
        UserError: the model file is not usable, a corpus is missing, or it has too little text for vocab_size pieces.
    """
    if settings.model is not None:
        names = TokenNames(settings.bos, settings.eos, tuple(settings.infilling_tokens))
        return open_tokenizer(settings.model, settings.infilling, names)
    # The stages of a run share the tokenizer, but may cut documents differently: always train with the defaults.
    defaults = Corpus()
    uncut = dataclasses.replace(
        corpus,
        document_characters=defaults.document_characters,
        group_by_repository=defaults.group_by_repository,
        neighbour_bytes=defaults.neighbour_bytes,
        shuffle_bytes=defaults.shuffle_bytes,
        key_characters=defaults.key_characters,
    )
    streams = [sources.open(uncut.paths(stream), stream, "train", uncut, filters) for stream in STREAMS]
    cached = _cache_path(streams, settings.vocab_size)
    if cached is not None and cached.is_file():
        with contextlib.suppress(UserError):  # damaged: train it again
            return SentencePieceTokenizer.from_file(cached, settings.infilling)
    log(f"training a tokenizer of {settings.vocab_size:,} pieces on the corpus (once)")
    start = time.monotonic()
    model = train(sample(streams), settings.vocab_size)
    tokenizer = SentencePieceTokenizer(model, settings.infilling)
    stored = cached is not None and cache.store(cached, model)
    where = f"kept in {cached}" if stored else "not kept: no cache folder to write to"
    log(f"trained the tokenizer in {time.monotonic() - start:.0f} s, {where}")
    return tokenizer


def sample(sources: Sequence[Source], characters: int = SAMPLE_CHARACTERS) -> Iterator[str]:
    """Texts of the shards of the sources, in the order of a hash, until they have `characters` characters.

    Sources are sampled by their number of shards and not by a stage's mixture: all stages use the tokenizer.
    """
    shards = [(source, index) for source in sources for index in range(len(source))]
    shards.sort(key=lambda shard: hashlib.blake2b(f"{shard[0].name} {shard[1]}".encode(), digest_size=8).digest())
    for source, index in shards:
        for item in items(source, index):
            texts = [item.text] if isinstance(item, Document) else [message["content"] for message in item.messages]
            yield from texts
            characters -= sum(map(len, texts))
            if characters <= 0:
                return


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece model of exactly vocab_size pieces, trained on the lines of texts.

    Raises:
        UserError: there is too little text for so many pieces, or too few pieces for its characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            vocab_size=vocab_size,
            minloglevel=5,  # no log on the terminal; fatal errors are raised
            **OPTIONS,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"no tokenizer of {vocab_size} pieces can be trained on this corpus: {_remedy(str(error))}, or name a "
            "model with --gin.TOKENIZER=PATH"
        ) from None
    return model.getvalue()


def _remedy(error: str) -> str:
    """The remedy for an error of SentencePiece. Its own message names options that users cannot set here."""
    if match := re.search(r"value <= (\d+)", error):
        return f"set --gin.Tokenizer.vocab_size={match[1]} or fewer, or give more text"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", error):
        return f"it has more distinct characters, set --gin.Tokenizer.vocab_size={match[1]} or more"
    return f"{' '.join(error.split())}; set --gin.Tokenizer.vocab_size=N, give more text"


def _cache_path(sources: Sequence[Source], vocab_size: int) -> Path | None:
    """The cache file for the tokenizer of this text and these options; None if there is no cache folder."""
    folder = cache.directory("tokenizers")
    if folder is None:
        return None
    identity = {
        "options": OPTIONS,
        "vocab_size": vocab_size,
        "characters": SAMPLE_CHARACTERS,
        "sentencepiece": sentencepiece.__version__,
        "text": [source.fingerprint() for source in sources],
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{key}.model"
