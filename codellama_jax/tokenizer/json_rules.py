"""What a tokenizer.json does to text: which of its steps are kept, and which tokenizers are refused.

Two kinds are read. Byte-level BPE writes the bytes of UTF-8 as letters (Llama 3, Qwen2.5, DeepSeek-Coder, StarCoder,
SmolLM2). The kind of SentencePiece writes a space as U+2581 and characters without a piece as bytes (TinyLlama,
Mistral, Yi). Every step must keep the text; the normal form NFC, which Qwen2.5 has, is the one exception.

The added tokens are removed, so that no text is encoded with them, and with them the merges that would result in one.
"""

from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple

from codellama_jax.errors import UserError

SPACE = "▁"
_REMEDY = "--gin.TOKENIZER=PATH takes a tokenizer.json with BPE that keeps text, such as Llama 3's or Qwen2.5's"
_KEPT_STEPS = ("Split", "Digits", "Punctuation", "UnicodeScripts")  # they divide a text, and keep all of it


class Rules(NamedTuple):
    """How a tokenizer.json encodes text.

    Attributes:
        content: the tokenizer without added tokens, for the tokenizers library. It adds nothing to a text.
        byte_level: whether pieces are bytes written as letters; otherwise they have SPACE for spaces.
        spaces: where the original puts a space: before "each" text between control tokens; before each that has none
            ("always"); before that of these which comes "first"; or "never".
        normalization: "NFC", or None.
    """

    content: dict[str, Any]
    byte_level: bool
    spaces: str
    normalization: str | None


def read(content: dict[str, Any], control: Iterable[str], name: str) -> Rules:
    """The rules of a tokenizer.json.

    Args:
        content: the parsed file.
        control: the tokens that no text may be encoded with.
        name: names the file in error messages.

    Raises:
        UserError: it is not BPE, or one of its steps would change source code.
    """
    model = _model(content, control, name)
    spaces = "never"
    escaped = byte_level = False
    normalizers, steps, normalization = [], [], None
    for step in _flat(content.get("normalizer"), "normalizers"):
        kind = step.get("type")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            spaces = "each"
        elif kind == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == SPACE:
            escaped = True
            normalizers.append(step)
        elif kind == "NFC":
            normalization = kind
            normalizers.append(step)
        else:
            raise UserError(f"{name} normalises text ({_shown(step)}), which would change source code; {_REMEDY}")
    for step in _flat(content.get("pre_tokenizer"), "pretokenizers"):
        kind = step.get("type")
        if kind == "ByteLevel":
            if step.get("add_prefix_space", True):
                raise UserError(
                    f"{name} adds a space before a text only where there is none (ByteLevel with add_prefix_space), so"
                    f" it loses leading spaces; {_REMEDY}"
                )
            byte_level = True
            steps.append(step)
        elif kind == "Metaspace" and step.get("replacement", SPACE) == SPACE:
            scheme = step.get("prepend_scheme") or ("always" if step.get("add_prefix_space", True) else "never")
            spaces, escaped = scheme if spaces == "never" else spaces, True
            steps.append(step | {"prepend_scheme": "never", "add_prefix_space": False})
        elif kind in _KEPT_STEPS and str(step.get("behavior")).lower() != "removed":
            steps.append(step)
        else:
            raise UserError(f"{name} divides text with {_shown(step)}, which loses parts of it; {_REMEDY}")
    if byte_level == escaped:
        raise UserError(f"{name} is neither byte-level BPE nor BPE with {SPACE} for spaces; {_REMEDY}")
    if escaped and not model.get("byte_fallback"):
        raise UserError(f"{name} has no byte fallback, so it would lose characters; {_REMEDY}")
    plain: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    return Rules(plain, byte_level, spaces, normalization)


def vocabulary(content: dict[str, Any], name: str) -> dict[str, int]:
    """The pieces of a tokenizer.json and their ids. Raises UserError if its model is not BPE, or has no pieces."""
    model = content.get("model")
    kind = (model.get("type") or ("BPE" if "merges" in model else None)) if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "BPE":
        raise UserError(f"{name} has a model of the type {kind}, not BPE; {_REMEDY}")
    pieces = model.get("vocab")
    if not isinstance(pieces, dict) or not pieces or not all(isinstance(id, int) and id >= 0 for id in pieces.values()):
        raise UserError(f"{name} has no pieces with ids: fetch it again")
    return pieces


def _model(content: dict[str, Any], control: Iterable[str], name: str) -> dict[str, Any]:
    """The BPE model without the pieces of control tokens and without their merges."""
    model = content["model"]
    if model.get("dropout"):
        raise UserError(f"{name} encodes at random (dropout={model['dropout']}): set its model's dropout to null")
    for field in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise UserError(f"{name} marks parts of words ({field}={model[field]!r}), which loses spaces; {_REMEDY}")
    dropped = {piece for piece in control if piece in model["vocab"]}
    pieces = {piece: id for piece, id in model["vocab"].items() if piece not in dropped}
    merges = model.get("merges") or []
    if dropped:  # the library refuses merges of pieces that do not exist
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
        merges = [[left, right] for left, right in pairs if not dropped & {left, right, left + right}]
    return model | {"type": "BPE", "vocab": pieces, "merges": merges, "unk_token": None, "dropout": None}


def post_processor_start(content: dict[str, Any]) -> str | None:
    """The name of the token that the file itself puts before a text; None if it puts none there."""
    for step in _flat(content.get("post_processor"), "processors"):
        if step.get("type") == "TemplateProcessing" and (single := step.get("single")):
            first = single[0].get("SpecialToken")
            return first.get("id") if first else None
    return None


def letters_to_bytes() -> dict[str, int]:
    """The letter of each byte in byte-level BPE (of GPT-2): printable bytes stand for themselves, others follow 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def missing_bytes(pieces: Container[str], byte_level: bool) -> list[int]:
    """The bytes of UTF-8 for which a vocabulary has no piece: text that has them would be lost."""
    letters = {byte: letter for letter, byte in letters_to_bytes().items()}
    names = {byte: letters[byte] if byte_level else f"<0x{byte:02X}>" for byte in range(256)}
    possible = [*range(0xC0), *range(0xC2, 0xF5)]
    return [byte for byte in possible if names[byte] not in pieces]


def _flat(step: dict[str, Any] | None, key: str) -> Iterator[dict[str, Any]]:
    """The steps of a sequence, which may contain sequences."""
    if step is None:
        return
    if step.get("type") == "Sequence":
        for inner in step.get(key) or []:
            yield from _flat(inner, key)
    else:
        yield step


def _shown(step: dict[str, Any]) -> str:
    """A step in an error message, in one line."""
    text = ", ".join(f"{key}={value!r}" for key, value in step.items() if key != "type")
    return f"{step.get('type')}({text[:60]})"
