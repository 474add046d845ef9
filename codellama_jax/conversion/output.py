"""A folder that is whole or absent."""

import contextlib
import os
import shutil
import tempfile
import time
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
        for written in [*folder.rglob("*"), folder]:
            _sync(written)
        os.rename(folder, path)
        _sync(path.parent)
        around.rmdir()
    except BaseException:
        for pause in (0.0, 0.1, 0.4):  # a write that was under way in a thread makes its folder again
            time.sleep(pause)
            shutil.rmtree(around, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
