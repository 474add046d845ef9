"""Checksums of the files in a checkpoint folder, which detect damaged files, and one digest of all of them.

The checksum of a local file is its SHA-256. In a bucket it is the CRC-32C that the store keeps of every object, so
that no file has to be read back; a prefix marks it. Both kinds can be verified locally and in a bucket, because
checkpoints may be copied to and from a bucket.
"""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs

NAME = "checksums.json"
_BLOCK_BYTES = 1 << 20  # read at a time
_THREADS = 8  # hashlib releases the GIL
_CRC_PREFIX = "crc32c:"

Entry = tuple[int, str]  # the size of a file in bytes, and its checksum


def write(folder: Path) -> str:
    """Writes checksums.json, with the size and checksum of every file below the folder; returns their digest."""
    if filesystem.is_remote(folder):
        files = {name: entry for name, entry in _stored_entries(folder).items() if name != NAME}
    else:
        files = _computed_entries(folder, {name: "" for name in _files_below(folder)})
    digest = _digest(files)
    (folder / NAME).write_text(json.dumps({"digest": digest, "files": files}, indent=0))
    return digest


def digest(folder: Path) -> str | None:
    """The digest that `write` returned, without reading the files; None for a folder without checksums."""
    if not (folder / NAME).exists():
        return None
    return _read(folder)[0]


def verify(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Compares the files with their checksums. A folder without checksums passes.

    Args:
        folder: the folder of one checkpoint.
        part, parts: verify every `parts`-th file, starting with number `part`; hosts divide the work in this way.

    Raises:
        UserError: files are missing, truncated or changed; the message names them.
    """
    if not (folder / NAME).exists():
        return
    _, files = _read(folder)
    names = sorted(files)[part::parts]
    stored = _stored_entries(folder) if filesystem.is_remote(folder) else None
    present = [name for name in names if (name in stored if stored is not None else (folder / name).is_file())]
    # The store knows the CRC of every object. A file copied there from a local folder has a SHA-256: it is read.
    known = {name: stored[name] for name in present if files[name][1].startswith(_CRC_PREFIX)} if stored else {}
    actual = known | _computed_entries(folder, {name: files[name][1] for name in present if name not in known})
    damaged = [f"{name} is missing" for name in names if name not in actual]
    for name in present:
        (size, checksum), (expected_size, expected) = actual[name], files[name]
        if size != expected_size:
            damaged.append(f"{name} has {size:,} bytes instead of {expected_size:,}")
        elif checksum != expected:
            damaged.append(f"{name} has changed since it was written")
    if damaged:
        more = f", and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(f"{folder} is damaged: {'; '.join(damaged[:3])}{more}")


def _files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _stored_entries(folder: Path) -> dict[str, Entry]:
    """The entries of all objects below a folder in a bucket, from the store's own checksums."""
    return {name: (size, _CRC_PREFIX + crc32c) for name, (size, crc32c) in gcs.object_checksums(folder).items()}


def _computed_entries(folder: Path, expected: dict[str, str]) -> dict[str, Entry]:
    """The entries of files, computed from their content, with the kind of checksum that is expected for each."""
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = pool.map(lambda name: _compute(folder / name, expected[name].startswith(_CRC_PREFIX)), expected)
        return dict(zip(expected, entries, strict=True))


def _compute(path: Path, crc32c: bool) -> Entry:
    hashed: Any
    if crc32c:
        import google_crc32c

        hashed = google_crc32c.Checksum()
    else:
        hashed = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hashed.update(block)
            size += len(block)
    digest = hashed.digest()
    return size, _CRC_PREFIX + base64.b64encode(digest).decode() if crc32c else digest.hex()


def _digest(files: dict[str, Entry]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[str, dict[str, Entry]]:
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {name: (int(size), str(checksum)) for name, (size, checksum) in content["files"].items()}
        if _digest(files) == content["digest"]:
            return content["digest"], files
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{folder} is damaged: {NAME} has changed since it was written")
