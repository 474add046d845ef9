"""The manifest of a build: its shards with their digests, its parameters, and what every step counted.

Needs neither Beam nor pyarrow: the trainer reads it (tasks/sources/curated.py).
"""

import dataclasses
import hashlib
import json
import re
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files

NAME = "manifest.json"
BEGUN = ".steps/build.json"  # in the folder of a build
KIND = "codellama_jax training set"
FORMAT = 1
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a build.

    Attributes:
        name: below the build's folder.
        split: train or validation.
        documents, tokens: in it; tokens as the build's tokenizer counts, without BOS and EOS.
        bytes: of the file.
        sha256: of the file, hex.
    """

    name: str
    split: str
    documents: int
    tokens: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What the trainer needs of a manifest.

    Attributes:
        folder: that it stands in.
        stream: whose documents they are: code, python, nl_code or nl.
        shards: in order.
        sha256: of the manifest itself, hex.
    """

    folder: str
    stream: str
    shards: tuple[Shard, ...]
    sha256: str


def path_of(place: str) -> str | None:
    """The manifest that a place names, itself or by its folder; None if it names none.

    Raises:
        UserError: the folder holds a build that is not finished.
    """
    if place.rpartition("/")[2] == NAME:
        return place
    path = f"{place.rstrip('/')}/{NAME}"
    if place.startswith("tfds:") or re.search(r"[*?\[]|\.(jsonl|parquet|tfrecord|gz|zst)$", place):
        return None  # no folder, and asking a store takes time
    if not files.exists(path, place):
        if files.exists(f"{place.rstrip('/')}/{BEGUN}", place):
            raise UserError(f"{place} holds a build that is not finished: run the same `python -m tasks.build` again")
        return None
    try:
        with filesystem.open_input(path) as file:
            return path if KIND.encode() in file.read(256) else None
    except OSError:
        return None


def read(path: str, where: str) -> Manifest:
    """Reads a manifest. `where` names what the user wrote.

    Raises:
        UserError: it is none, or a damaged one.
    """
    if not files.exists(path, where):
        raise UserError(f"{where}: no such file or folder; a build that was not finished has no {NAME}")
    data = files.read_bytes(path)
    try:
        value = json.loads(data)
        if value["kind"] != KIND:
            raise UserError(f"{where}: it is no manifest of a build")
        if value["format"] != FORMAT:
            raise UserError(f"{where}: its format is {value['format']}, this program knows {FORMAT}: build it anew")
        shards = tuple(Shard(**shard) for shard in value["shards"])
        stream = str(value["stream"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where}: the manifest is damaged: remove it and run `python -m tasks.build` again") from None
    return Manifest(path.rpartition("/")[0] or ".", stream, shards, hashlib.sha256(data).hexdigest())


def written(parts: dict[str, Any]) -> bytes:
    """A manifest as bytes; its kind comes first, by which it is known."""
    return (json.dumps({"kind": KIND, "format": FORMAT} | parts, indent=1) + "\n").encode()


def digest(location: str) -> str:
    """Hex SHA-256 of a file. Raises OSError."""
    value = hashlib.sha256()
    with filesystem.open_input(location) as file:
        while data := file.read(_BLOCK):
            value.update(data)
    return value.hexdigest()
