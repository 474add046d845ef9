"""The manifest of a curated dataset: its shards with their digests, the parameters of the build, and its counts.

Imports neither Beam nor pyarrow, since the trainer reads it (tasks/sources/curated.py).
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
STARTED = ".steps/build.json"  # exists in the folder of a build from its start
KIND = "codellama_jax training set"
FORMAT = 1
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a curated dataset.

    Attributes:
        name: relative to the dataset's folder.
        split: train or validation.
        documents, tokens: number of documents, and of tokens of the build's tokenizer without BOS and EOS.
        bytes: size of the file.
        sha256: hex digest of the file.
    """

    name: str
    split: str
    documents: int
    tokens: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The parts of a manifest that the trainer needs.

    Attributes:
        folder: the dataset's folder.
        stream: kind of the documents: code, python, nl_code or nl.
        shards: the shards in order.
        sha256: hex digest of the manifest itself.
    """

    folder: str
    stream: str
    shards: tuple[Shard, ...]
    sha256: str


def path_of(path: str) -> str | None:
    """The location of the manifest that a path names, directly or by its folder; None if there is none.

    Raises:
        UserError: the folder contains an unfinished build.
    """
    if path.rpartition("/")[2] == NAME:
        return path
    if re.search(r"[*?\[]|\.(jsonl|parquet|tfrecord|gz|zst)$", path):
        return None  # not a folder, and a request to an object store takes time
    manifest = f"{path.rstrip('/')}/{NAME}"
    if not files.exists(manifest, path):
        if files.exists(f"{path.rstrip('/')}/{STARTED}", path):
            raise UserError(f"{path} contains an unfinished build: run the same `python -m tasks.build` again")
        return None
    try:
        with filesystem.open_input(manifest) as file:
            return manifest if KIND.encode() in file.read(256) else None
    except OSError:
        return None


def read(path: str, where: str) -> Manifest:
    """Reads a manifest. `where` is the setting that error messages name.

    Raises:
        UserError: there is no such file, it is not a manifest, or it is damaged.
    """
    if not files.exists(path, where):
        raise UserError(f"{where}: no such file or folder; an unfinished build has no {NAME}")
    data = files.read_bytes(path)
    try:
        value = json.loads(data)
        if value["kind"] != KIND:
            raise UserError(f"{where}: it is not the manifest of a curated dataset")
        if value["format"] != FORMAT:
            raise UserError(f"{where}: its format is {value['format']}, this version reads {FORMAT}: build it again")
        shards = tuple(Shard(**shard) for shard in value["shards"])
        stream = str(value["stream"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where}: the manifest is damaged: remove it and run `python -m tasks.build` again") from None
    return Manifest(path.rpartition("/")[0] or ".", stream, shards, hashlib.sha256(data).hexdigest())


def to_bytes(parts: dict[str, Any]) -> bytes:
    """A manifest as bytes. Its kind comes first, so that the first bytes identify it."""
    return (json.dumps({"kind": KIND, "format": FORMAT} | parts, indent=1) + "\n").encode()


def digest(location: str) -> str:
    """Hex SHA-256 of a file. Raises OSError."""
    value = hashlib.sha256()
    with filesystem.open_input(location) as file:
        while data := file.read(_BLOCK):
            value.update(data)
    return value.hexdigest()
