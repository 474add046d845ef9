"""Files of a build's folder, local or in any store that Beam can write to (gs://, s3://, hdfs://).

A file is there whole or not at all: locally it is written under another name and renamed, in stores it appears when it
is closed.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from tasks.sources.files import is_remote


def _stores() -> Any:
    from apache_beam.io.filesystems import FileSystems  # imported here: the trainer reads manifests without Beam

    return FileSystems


def _plain() -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    return CompressionTypes.UNCOMPRESSED


def join(*parts: str) -> str:
    """A path with forward slashes, as stores have them."""
    return "/".join(part.rstrip("/") for part in parts)


@contextlib.contextmanager
def open_output(path: str, durable: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which is there under its name when the block ends without an error; folders are made.

    `durable`: it is on the disk by then, for what a power cut must not take.
    """
    if is_remote(path):
        try:
            with _stores().create(path, compression_type=_plain()) as file:
                yield file
        except BaseException:
            with contextlib.suppress(Exception):  # what was closed half way is there
                _stores().delete([path])
            raise
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # what writes through C++ names no file
        raise OSError(error.errno, error.strerror or str(error), path) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def open_input(path: str) -> BinaryIO:
    """A file to read, seekable. Raises OSError."""
    return _stores().open(path, compression_type=_plain()) if is_remote(path) else open(path, "rb")


def write(path: str, data: bytes) -> None:
    """Writes a whole file."""
    with open_output(path, durable=True) as file:
        file.write(data)


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return _stores().exists(path) if is_remote(path) else os.path.exists(path)


def read(path: str) -> bytes | None:
    """The bytes of a file; None if there is none."""
    if not exists(path):
        return None
    with open_input(path) as file:
        return file.read()


def list_folder(folder: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; none where there is no folder."""
    if not is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    (match,) = _stores().match([join(folder, "**")])
    below = len(folder.rstrip("/")) + 1
    return sorted({entry.path[below:].partition("/")[0] for entry in match.metadata_list})


def remove_tree(folder: str) -> None:
    """Removes a folder and all below it, if it is there."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif list_folder(folder):
        _stores().delete([folder.rstrip("/") + "/"])
