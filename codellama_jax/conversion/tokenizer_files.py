"""Makes the tokenizer files that transformers, vLLM and llama.cpp read, for a checkpoint that carries none.

llama.cpp and Meta's code read tokenizer.model; transformers and vLLM read tokenizer.json. The tokenizer.json that
transformers 5.23 creates from tokenizer.model orders merges by id, which is wrong; the one written here has
SentencePiece's order, by score.
"""

import json
from collections.abc import Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.tokenizer import HELPERS, INFILLING_PIECES, INFILLING_ROWS, STEP_PIECE, SentencePieceTokenizer
from codellama_jax.training import assets

_NORMAL, _CONTROL = 1, 3  # types of pieces in a SentencePiece model
_NAMED = {"prefix_token": 7, "suffix_token": 8, "middle_token": 9, "eot_token": 10}  # numbers of the infilling pieces
_STEP = INFILLING_ROWS - 1
_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def infilling_names(step: bool = False) -> list[str]:
    """The names of the sixteen infilling pieces in an export, in the order of their ids.

    Code Llama's seven helper pieces ("▁<SU", "▁<EOT") exist so that SentencePiece can merge the markers from text.
    llama.cpp merges control pieces like others: with those names, it encodes " <EOT>" in a source file as the marker.
    So the helper pieces get names that no merge of other pieces results in; then no merge results in a marker either.
    The markers keep their names, by which Meta's code, transformers and llama.cpp find them.

    Args:
        step: whether the last piece is <step>, as in the dialogue format of 70B.
    """
    names = [f"<helper_{number}>" for number in range(HELPERS)] + INFILLING_PIECES[HELPERS:]
    return [*names[:-1], STEP_PIECE] if step else names


INFILLING_NAMES = tuple(infilling_names())


def sentencepiece_model(tokenizer: SentencePieceTokenizer, names: Sequence[str] = INFILLING_NAMES) -> bytes:
    """The content of tokenizer.model, with the sixteen infilling pieces at the end if the tokenizer has them.

    They are control pieces: pieces of any other type would change how some texts are tokenized.
    """
    if not tokenizer.infilling:
        return tokenizer.model
    proto = model_pb2.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]  # protobuf defines it at import
    lowest = min(piece.score for piece in proto.pieces)
    for number, text in enumerate(names, 1):
        proto.pieces.add(piece=text, score=lowest - number, type=_CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def with_step(model: bytes) -> bytes:
    """A model file with infilling pieces, whose last one is renamed to <step>."""
    proto = model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]
    proto.pieces[-1].piece = STEP_PIECE
    proto.pieces[-1].type = _CONTROL
    return proto.SerializeToString(deterministic=True)


def special_tokens(tokenizer: SentencePieceTokenizer, names: Sequence[str]) -> list[dict[str, Any]]:
    """The infilling pieces that are special tokens for Hugging Face's libraries, in the form of tokenizer.json."""
    rows = [*_NAMED.values(), *([_STEP] if names[_STEP] == STEP_PIECE else [])]
    return [_special_token(tokenizer.pieces + row, names[row]) for row in rows] if tokenizer.infilling else []


def _special_token(id: int, content: str) -> dict[str, Any]:
    return {"id": id, "content": content, **_PLAIN}


def generated(tokenizer: SentencePieceTokenizer, names: Sequence[str] = INFILLING_NAMES) -> dict[str, bytes]:
    """The files for transformers, vLLM and llama.cpp.

    Each fact has one place. A special_tokens_map.json would hide an edit of tokenizer_config.json from transformers,
    but not from llama.cpp, and vLLM would compare model_max_length with the positions in config.json.

    Args:
        tokenizer: the tokenizer of the model.
        names: the names of its infilling pieces.
    """
    settings: dict[str, Any] = {
        # This class uses tokenizer.json unchanged. LlamaTokenizer of transformers 5 replaces the pre-tokenizer, and
        # then drops the first of the leading spaces of a text.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return {
        assets.MODEL: sentencepiece_model(tokenizer, names),
        assets.TOKENIZER_CONFIG: json_bytes(settings),
        assets.TOKENIZER_JSON: json_bytes(tokenizer_json(tokenizer, names)),
    }


def json_bytes(content: Any) -> bytes:
    """The content of a JSON file."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def tokenizer_json(tokenizer: SentencePieceTokenizer, names: Sequence[str] = INFILLING_NAMES) -> dict[str, Any]:
    """The tokenizer in the format of Hugging Face's tokenizers library.

    Text is never encoded as an infilling id, because no merge produces those pieces. The four markers, <step>, <s>,
    </s> and <unk> are special tokens: the library recognises them in a text, as with Hugging Face's own files.
    """
    proto = model_pb2.ModelProto.FromString(sentencepiece_model(tokenizer, names))  # type: ignore[attr-defined]
    pieces = [piece.piece for piece in proto.pieces]
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    merges.sort(key=lambda merge: merge[0])  # a stable sort: the splits of one piece keep their order
    special = [_special_token(id, pieces[id]) for id in (0, 1, 2)] + special_tokens(tokenizer, names)
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
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
