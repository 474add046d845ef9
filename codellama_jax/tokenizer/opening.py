"""Opens a tokenizer of either kind: a file, or a folder with tokenizer.model or tokenizer.json, decided by content."""

import os
from collections.abc import Mapping
from pathlib import Path

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import companions, json_rules
from codellama_jax.tokenizer.base import JSON, MODEL, Tokenizer
from codellama_jax.tokenizer.companions import Companions
from codellama_jax.tokenizer.infilling import find_markers
from codellama_jax.tokenizer.json_tokenizer import JsonTokenizer, TokenNames
from codellama_jax.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer

_NAMED = "Tokenizer.bos, Tokenizer.eos and Tokenizer.infilling_tokens apply to tokenizer.json; remove them"


def open_tokenizer(path: str | os.PathLike[str], infilling: bool, names: TokenNames | None = None) -> Tokenizer:
    """Opens a tokenizer.

    Args:
        path: a SentencePiece model, a tokenizer.json, or a folder that has one of them.
        infilling: whether it has ids for infilling: its own, or else new ones after its last id.
        names: for tokenizer.json, special tokens that replace those that its files state.

    Raises:
        UserError: there is no such file, or it is not usable.
    """
    path = filesystem.to_path(os.fspath(path))
    files = read_files(path)
    if not files:  # raises the error of a missing file or of a folder
        return SentencePieceTokenizer.from_file(os.fspath(path), infilling)
    return from_files(files, infilling, os.fspath(path), names)


def read_files(path: Path) -> dict[str, bytes]:
    """The files of the tokenizer at a path, by their usual names; empty if there is none."""
    if path.is_dir():
        files = {name: filesystem.read_bytes(path / name) for name in (MODEL, JSON) if (path / name).is_file()}
        folder = path
    elif path.is_file():
        data, folder = filesystem.read_bytes(path), path.parent
        files = {JSON if data.lstrip()[:1] == b"{" else MODEL: data}
    else:
        return {}
    if files:
        beside = {name: folder / name for name in companions.NAMES}
        files |= {name: filesystem.read_bytes(file) for name, file in beside.items() if file.is_file()}
    return files


def from_files(
    files: Mapping[str, bytes],
    infilling: bool,
    name: str = "the tokenizer",
    names: TokenNames | None = None,
) -> Tokenizer:
    """Makes a tokenizer from the content of its files.

    Of both kinds, tokenizer.model is read if it is a model of Llama's kind.

    Args:
        files: tokenizer.model or tokenizer.json, and the files beside it.
        infilling: as in open_tokenizer.
        name: names the file or folder in error messages.
        names: as in open_tokenizer.

    Raises:
        UserError: the files are not usable.
    """
    names = names if names != TokenNames() else None
    if MODEL in files and not (names and JSON in files):
        try:
            tokenizer = SentencePieceTokenizer(files[MODEL], infilling, name, files)
        except UserError:
            if JSON not in files:
                raise
        else:
            if names:
                raise UserError(f"{name} is a SentencePiece model: {_NAMED}")
            return tokenizer
    kept = {file: content for file, content in files.items() if file != MODEL}
    return JsonTokenizer(kept, infilling, names, name)


def names_infilling(files: Mapping[str, bytes]) -> bool:
    """Whether the files of a tokenizer.json name tokens of infilling."""
    content = companions.parsed(files, JSON)
    added = {str(token.get("content")) for token in content.get("added_tokens") or [] if isinstance(token, dict)}
    named = added | json_rules.vocabulary(content, JSON).keys()
    return Companions(files).infilling_names() is not None or find_markers(named) is not None
