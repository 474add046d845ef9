"""Checksums of a checkpoint folder: which of its files is damaged, if one is, and one digest for the whole.

A file's is its SHA-256, or in a bucket the CRC-32C that the store keeps of every object, marked as such: no byte of a
checkpoint comes back to be hashed. Both kinds are verified in both places, so a checkpoint may be copied to and fro.
"""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

NAME = "checksums.json"
_BLOCK = 1 << 20  # bytes read at a time
_THREADS = 8  # hashlib lets go of the interpreter's lock
_CRC = "crc32c:"


def write(folder: Path) -> str:
    """Writes checksums.json: size and checksum of every file below the folder; returns their digest."""
    if filesystem.is_remote(folder):
        files = {name: entry for name, entry in _of_store(folder).items() if name != NAME}
    else:
        files = _hashed(folder, {name: "" for name in _files_below(folder)})
    digest = _digest(files)
    (folder / NAME).write_text(json.dumps({"digest": digest, "files": files}, indent=0))
    return digest


def digest(folder: Path) -> str | None:
    """What `write` returned, without reading the files again; None for a folder without checksums."""
    if not (folder / NAME).exists():
        return None
    return _read(folder)[0]


def verify(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Reads the files and compares; a folder without checksums passes.

    Args:
        folder: of one checkpoint.
        part, parts: look at every `parts`-th file from the `part`-th on; hosts share the work so.

    Raises:
        UserError: names the files that are missing, cut short or changed.
    """
    if not (folder / NAME).exists():
        return
    _, files = _read(folder)
    names = sorted(files)[part::parts]
    store = _of_store(folder) if filesystem.is_remote(folder) else None
    there = [name for name in names if (name in store if store is not None else (folder / name).is_file())]
    # what the store knows needs no reading; a file that was copied there has another kind
    known = {name: store[name] for name in there if files[name][1].startswith(_CRC)} if store is not None else {}
    found = known | _hashed(folder, {name: files[name][1] for name in there if name not in known})
    damaged = [f"{name} is missing" for name in names if name not in found]
    for name in there:
        (size, checksum), (wanted_size, wanted) = found[name], files[name]
        if size != wanted_size:
            damaged.append(f"{name} has {size:,} bytes instead of {wanted_size:,}")
        elif checksum != wanted:
            damaged.append(f"{name} has changed since it was written")
    if damaged:
        more = f", and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(f"{folder} is damaged: {'; '.join(damaged[:3])}{more}")


def _files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _of_store(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and checksum of every object, as the store has them."""
    from codellama_jax.runtime import gcs  # its client is imported only where there is a bucket

    return {name: (size, _CRC + crc32c) for name, (size, crc32c) in gcs.object_checksums(folder).items()}


def _hashed(folder: Path, names: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Size and checksum of each file, of the kind of the one that is given with its name."""
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(lambda name: _of_file(folder / name, names[name].startswith(_CRC)), names)
        return dict(zip(names, entries, strict=True))


def _of_file(path: Path, crc32c: bool) -> tuple[int, str]:
    hashed: Any
    if crc32c:
        import google_crc32c

        hashed = google_crc32c.Checksum()
    else:
        hashed = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            hashed.update(block)
            size += len(block)
    digest = hashed.digest()
    return size, _CRC + base64.b64encode(digest).decode() if crc32c else digest.hex()


def _digest(files: dict[str, tuple[int, str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {name: (int(size), str(checksum)) for name, (size, checksum) in found["files"].items()}
        if _digest(files) == found["digest"]:
            return found["digest"], files
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{folder} is damaged: {NAME} has changed since it was written")
