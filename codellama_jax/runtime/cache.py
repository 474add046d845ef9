"""A cache of reproducible files: below $XDG_CACHE_HOME, or ~/.cache."""

import os
from pathlib import Path

from codellama_jax.runtime import filesystem


def directory(kind: str) -> Path | None:
    """The folder for one kind of file, which may not exist yet; None if there is no home directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative path counts as unset
        try:
            base = os.path.join(Path.home(), ".cache")
        except RuntimeError:
            return None
    return Path(base, "codellama_jax", kind)


def store(path: Path, data: bytes) -> bool:
    """Writes a file atomically; several processes may do so at once. False if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        filesystem.write_atomically(path, data)
    except OSError:
        return False
    return True
