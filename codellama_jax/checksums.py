"""Checksums of a checkpoint folder: which of its files is damaged, if one is, and one digest for the whole."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from codellama_jax.errors import UserError

NAME = "checksums.json"
_BLOCK = 1 << 20  # bytes read at a time
_THREADS = 8  # hashlib lets go of the interpreter's lock


def write(folder: Path) -> str:
    """Writes checksums.json: size and SHA-256 of every file below the folder; returns their digest."""
    files = _hashed(folder, _files_below(folder))
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
    missing = [name for name in names if not (folder / name).is_file()]
    found = _hashed(folder, (name for name in names if name not in missing))
    damaged = [f"{name} is missing" for name in missing]
    for name, (size, sha256) in found.items():
        wanted_size, wanted = files[name]
        if size != wanted_size:
            damaged.append(f"{name} has {size:,} bytes instead of {wanted_size:,}")
        elif sha256 != wanted:
            damaged.append(f"{name} has changed since it was written")
    if damaged:
        more = f", and {len(damaged) - 3} more" if len(damaged) > 3 else ""
        raise UserError(f"{folder} is damaged: {'; '.join(damaged[:3])}{more}")


def _files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _hashed(folder: Path, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    names = list(names)
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: _of_file(folder / name), names), strict=True))


def _of_file(path: Path) -> tuple[int, str]:
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            size += len(block)
    return size, sha256.hexdigest()


def _digest(files: dict[str, tuple[int, str]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> tuple[str, dict[str, tuple[int, str]]]:
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = {name: (int(size), str(sha256)) for name, (size, sha256) in found["files"].items()}
        if _digest(files) == found["digest"]:
            return found["digest"], files
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{folder} is damaged: {NAME} has changed since it was written")
