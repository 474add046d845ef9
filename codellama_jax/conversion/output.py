"""A folder that is whole or absent."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codellama_jax.errors import UserError

_SPARE = 64 << 20  # bytes for what lies beside the tensors


@contextlib.contextmanager
def whole_folder(path: Path, nbytes: int) -> Iterator[Path]:
    """A folder to write to, hidden beside `path`, which it becomes when the block ends well and else is removed.

    Args:
        path: what it will be called.
        nbytes: of the tensors that will be written.

    Raises:
        UserError: there is something already, or too little room on the disk.
    """
    path = path.absolute()
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists: move it away, or give --to another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < nbytes + _SPARE:
        raise UserError(f"{path.parent} has {free / 1e9:,.1f} GB free, {nbytes / 1e9:,.1f} GB are needed: make room")
    around = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder = around / path.name
        folder.mkdir()
        yield folder
        os.rename(folder, path)
    finally:
        shutil.rmtree(around, ignore_errors=True)
