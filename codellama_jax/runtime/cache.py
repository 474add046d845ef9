"""What can be made again is kept below $XDG_CACHE_HOME, or ~/.cache, where there is one."""

import os
import tempfile
from pathlib import Path


def directory(kind: str) -> Path | None:
    """Where things of a kind are kept; None if there is no home to keep them in."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # so the XDG specification says: a relative path counts as unset
        try:
            base = os.path.join(Path.home(), ".cache")
        except RuntimeError:
            return None
    return Path(base, "codellama_jax", kind)


def store(path: Path, data: bytes) -> bool:
    """Writes the file whole or not at all, so that others may read and write it at once; False if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:
        return False
    return True
