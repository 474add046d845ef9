"""The new folder that a conversion writes, local or in a bucket. It never looks complete before it is."""

import contextlib
import glob
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs

_log = logging.getLogger(__name__)


class OutputFolder:
    """A folder that is being written.

    Attributes:
        path: a local folder for all files except large ones.
        target: the folder for large files, of which none is held in memory or on disk here if it is in a bucket.
    """

    def __init__(self, path: Path, target: Path):
        self.path, self.target = path, target

    def open(self, name: str) -> BinaryIO:
        """Opens a new large file for writing. In a bucket, it appears when it is closed, and not after `terminate`."""
        if filesystem.is_remote(self.target):
            return gcs.open_upload(self.target / name)
        return (self.target / name).open("wb")

    def upload(self, last: str = "") -> None:
        """Moves the files of `path` to the bucket, the one named `last` after all others. Nothing moves if local."""
        if self.path == self.target:
            return
        files = [path for path in sorted(self.path.rglob("*")) if path.is_file()]
        for file in sorted(files, key=lambda file: file == self.path / last):
            destination = self.target.joinpath(*file.relative_to(self.path).parts)
            filesystem.write_atomically(destination, file.read_bytes())
            file.unlink()


def _report_remains(path: Path) -> None:
    """Warns of the hidden folders that killed conversions have left next to a local folder."""
    for folder in sorted(path.parent.glob(f".{glob.escape(path.name)}.*")):
        if (folder / path.name).is_dir():
            _log.warning(
                "warning: %s is the rest of a killed conversion, unless one is running: remove it with rm -r %s",
                folder,
                folder,
            )


@contextlib.contextmanager
def output_folder(path: Path, nbytes: int, last: str) -> Iterator[OutputFolder]:
    """Creates a new folder. It appears, complete, when the block ends without an error, and is removed after one.

    In a bucket nothing can be renamed: files appear one by one, and `last` after all others. No reader accepts a folder
    without it, so a killed conversion leaves an incomplete folder, which the next one reports.

    Args:
        path: path of the folder.
        nbytes: size of the tensors that will be written.
        last: name of the file without which no reader accepts the folder.

    Raises:
        UserError: the path exists, the disk has too little space, or the bucket cannot be written.
    """
    if not filesystem.is_remote(path):
        _report_remains(path)
        with filesystem.new_folder(path, nbytes) as folder:
            yield OutputFolder(folder, folder)
        return
    gcs.check_bucket(path)
    with gcs.errors_as_user_errors(path):
        # an empty folder is an object of its own, which does not matter
        if filesystem.list_folder(path) or (filesystem.exists(path) and not filesystem.is_folder(path)):
            if filesystem.exists(path / last):
                raise UserError(f"{path} exists: choose another name")
            raise UserError(
                f"{path} exists and has no {last}: it may be the rest of a conversion that was killed; remove it with"
                f" gcloud storage rm -r {path}, or choose another name"
            )
        try:
            with tempfile.TemporaryDirectory(prefix="codellama_jax_") as temporary:
                output = OutputFolder(Path(temporary), path)
                yield output
                output.upload(last)
        except BaseException:
            with contextlib.suppress(Exception):
                filesystem.remove_tree(path)
            raise
