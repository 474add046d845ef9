"""The tokenizer files that transformers, vLLM and llama.cpp read: tokenizer.model, tokenizer.json and their settings.

llama.cpp and Meta's code read tokenizer.model; transformers and vLLM read tokenizer.json. The tokenizer.json that
transformers 5.23 creates from tokenizer.model orders merges by id, which is wrong; the one written here has
SentencePiece's order, by score.
"""

import json
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import INFILLING_PIECES, INFILLING_ROWS, Tokenizer

_NORMAL, _CONTROL = 1, 3  # types of pieces in a SentencePiece model
_NAMED = {"prefix_token": 7, "suffix_token": 8, "middle_token": 9, "eot_token": 10}  # numbers of the infilling pieces


def model_for(path: Path | None, vocab_size: int) -> Tokenizer | None:
    """The tokenizer of a model with `vocab_size` rows, with infilling pieces if the model has rows for them.

    None if there is no file.

    Raises:
        UserError: the file is not a Llama tokenizer, or has more pieces than the model has rows.
    """
    if path is None:
        return None
    plain = Tokenizer(path, infilling=False)
    if plain.rows > vocab_size:
        raise UserError(
            f"{path} has {plain.rows} pieces, but the model has {vocab_size} rows: pass the model's own"
            " tokenizer with --tokenizer=PATH"
        )
    return Tokenizer(plain.model, infilling=vocab_size == plain.pieces + INFILLING_ROWS)


def sentencepiece_model(tokenizer: Tokenizer) -> bytes:
    """The content of tokenizer.model, with the sixteen infilling pieces at the end if the tokenizer has them.

    They are control pieces: pieces of any other type would change how some texts are tokenized.
    """
    if not tokenizer.infilling:
        return tokenizer.model
    proto = model_pb2.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]  # protobuf defines it at import
    lowest = min(piece.score for piece in proto.pieces)
    for number, text in enumerate(INFILLING_PIECES, 1):
        proto.pieces.add(piece=text, score=lowest - number, type=_CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def write(tokenizer: Tokenizer, folder: Path, format: str, sequence_length: int) -> None:
    """Writes tokenizer.model, and for the format "hf" also the files that transformers needs."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(tokenizer))
    if format != "hf":
        return
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings: dict[str, Any] = {
        # This class uses tokenizer.json unchanged. LlamaTokenizer of transformers 5 replaces the pre-tokenizer, and
        # then drops the first of the leading spaces of a text.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": sequence_length,
        **special,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(folder / "tokenizer.json", tokenizer_json(tokenizer))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer in the format of Hugging Face's tokenizers library.

    Text is never encoded as an infilling id, because no merge produces those pieces. The four that prompts use, and
    <s>, </s> and <unk>, are special tokens: the library recognises them in a text, as with Hugging Face's own files.
    """
    proto = model_pb2.ModelProto.FromString(sentencepiece_model(tokenizer))  # type: ignore[attr-defined]
    pieces = [piece.piece for piece in proto.pieces]
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    merges.sort(key=lambda merge: merge[0])  # a stable sort: the splits of one piece keep their order
    special = [0, 1, 2] + ([tokenizer.pieces + row for row in _NAMED.values()] if tokenizer.infilling else [])
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": pieces[id], **plain} for id in special],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                begin,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {piece: id for id, piece in enumerate(pieces)},
            "merges": [[left, right] for _, left, right in merges],
        },
    }
