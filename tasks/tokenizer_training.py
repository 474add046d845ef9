"""The tokenizer of a run: the model file that is named, or one trained on the corpus, once.

Training follows Llama's options (its model file carries them): BPE with byte fallback, digits one by one, no
normalisation, white space kept. Pieces 0 to 2 are <unk>, <s>, </s>, then come the 256 bytes, so newline is id 13.
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
from codellama_jax.tokenizer import BOS_ID, EOS_ID, UNK_ID, Tokenizer
from tasks.sources.embedded import stream_source
from tasks.sources.folder import Document, Source, items

# Ours: enough for a few thousand pieces. More text would take longer and change the last pieces only.
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
    "num_threads": 16,  # written into the model: the same on every machine, so that the bytes are
}


def trained_tokenizer(
    corpus: Corpus, filters: Filters, settings: data.Tokenizer, say: Callable[[str], object] = print
) -> Tokenizer:
    """The tokenizer of settings.model, or one of settings.vocab_size pieces trained on the corpus's train split.

    The trained one is kept below $XDG_CACHE_HOME (or ~/.cache), under a name that tells its text and its options; the
    same text gives the same bytes. `say` is told when training begins, which takes seconds, and when it is done.

    Raises:
        UserError: the model file is not usable, a corpus is missing, or its text is too little for vocab_size pieces.
    """
    if settings.model is not None:
        return Tokenizer.from_file(settings.model, settings.infilling)
    # How documents are cut must not change the tokenizer: a cascade's stages may differ in it, and share the tokenizer.
    usual = Corpus()
    whole = dataclasses.replace(
        corpus,
        document_characters=usual.document_characters,
        group_by_repository=usual.group_by_repository,
        shuffle_bytes=usual.shuffle_bytes,
    )
    sources = [stream_source(stream, "train", whole, filters) for stream in STREAMS]
    kept = _cached(sources, settings.vocab_size)
    if kept is not None and kept.is_file():
        with contextlib.suppress(UserError):  # damaged: train it again
            return Tokenizer.from_file(kept, settings.infilling)
    say(f"training a tokenizer of {settings.vocab_size:,} pieces on the corpus (once)")
    begin = time.monotonic()
    model = train(sample(sources), settings.vocab_size)
    tokenizer = Tokenizer(model, settings.infilling)
    where = (
        f"kept in {kept}" if kept is not None and cache.store(kept, model) else "not kept: no cache folder to write to"
    )
    say(f"trained the tokenizer in {time.monotonic() - begin:.0f} s, {where}")
    return tokenizer


def sample(sources: Sequence[Source], characters: int = SAMPLE_CHARACTERS) -> Iterator[str]:
    """Texts of whole pieces of the sources, in an order drawn by hash, until there are enough characters.

    A source is there by the number of its pieces, whatever a stage's mixture is: the tokenizer is for all stages.
    """
    pieces = [(source, index) for source in sources for index in range(len(source))]
    pieces.sort(key=lambda piece: hashlib.blake2b(f"{piece[0].name} {piece[1]}".encode(), digest_size=8).digest())
    for source, index in pieces:
        for item in items(source, index):
            texts = [item.text] if isinstance(item, Document) else [message["content"] for message in item.messages]
            yield from texts
            characters -= sum(map(len, texts))
            if characters <= 0:
                return


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """A SentencePiece model of exactly vocab_size pieces, trained on the lines of texts.

    Raises:
        UserError: there is too little text for so many pieces, or they are too few for its characters.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.split("\n") if line),
            model_writer=model,
            vocab_size=vocab_size,
            minloglevel=5,  # its log would go to the terminal; what is fatal is raised
            **OPTIONS,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"no tokenizer of {vocab_size} pieces can be trained on this corpus: {_reason(str(error))}, or name a "
            "model with --gin.TOKENIZER=PATH"
        ) from None
    return model.getvalue()


def _reason(error: str) -> str:
    """What SentencePiece's error asks for, in our terms: its own speaks of options that nobody here can set."""
    if found := re.search(r"value <= (\d+)", error):
        return f"set --gin.Tokenizer.vocab_size={found[1]} or fewer, or give more text"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", error):
        return f"its characters alone are more, set --gin.Tokenizer.vocab_size={found[1]} or more"
    return f"{' '.join(error.split())}; set --gin.Tokenizer.vocab_size=N, give more text"


def _cached(sources: Sequence[Source], vocab_size: int) -> Path | None:
    """Where the tokenizer of this text and these options is kept; None if there is no home to keep it in."""
    folder = cache.directory("tokenizers")
    if folder is None:
        return None
    shaping = {
        "options": OPTIONS,
        "vocab_size": vocab_size,
        "characters": SAMPLE_CHARACTERS,
        "sentencepiece": sentencepiece.__version__,
        "text": [source.fingerprint() for source in sources],
    }
    key = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{key}.model"
