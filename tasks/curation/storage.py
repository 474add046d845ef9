"""Files of a build's folder, local or in any store that Beam can write to (gs://, s3://, hdfs://).

Stores are accessed through Beam's client, not through runtime/filesystem.py: Beam's workers write to the same folder,
and Beam supports stores that TensorFlow does not. With both, a file appears complete or not at all.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from codellama_jax.runtime import filesystem
from codellama_jax.runtime.filesystem import is_remote


def _beam() -> Any:
    from apache_beam.io.filesystems import FileSystems  # imported here: the trainer reads manifests without Beam

    return FileSystems


def _uncompressed() -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    return CompressionTypes.UNCOMPRESSED


def join(*parts: str) -> str:
    """A path with forward slashes, which stores require."""
    return "/".join(part.rstrip("/") for part in parts)


@contextlib.contextmanager
def open_output(path: str, durable: bool = False) -> Iterator[BinaryIO]:
    """Opens a file to write, which appears when the block ends without an error. Creates the folders above it.

    Args:
        durable: sync a local file to disk, so that it survives a power failure.
    """
    if not is_remote(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with filesystem.open_output(path, durable=durable) as file:
            yield file
        return
    try:
        with _beam().create(path, compression_type=_uncompressed()) as file:
            yield file
    except BaseException:
        with contextlib.suppress(Exception):  # closing the file after an error created the object
            _beam().delete([path])
        raise


def open_input(path: str) -> BinaryIO:
    """Opens a seekable file to read. Raises OSError."""
    return _beam().open(path, compression_type=_uncompressed()) if is_remote(path) else filesystem.open_input(path)


def write(path: str, data: bytes) -> None:
    """Writes a complete file, durably."""
    with open_output(path, durable=True) as file:
        file.write(data)


def exists(path: str) -> bool:
    """Whether there is such a file."""
    return _beam().exists(path) if is_remote(path) else filesystem.exists(path)


def read(path: str) -> bytes | None:
    """The content of a file; None if there is none."""
    if not exists(path):
        return None
    with open_input(path) as file:
        return file.read()


def list_folder(folder: str) -> list[str]:
    """The names of the files and folders in a folder, sorted; empty if there is no such folder."""
    if not is_remote(folder):
        return filesystem.list_folder(folder)
    (match,) = _beam().match([join(folder, "**")])
    prefix = len(folder.rstrip("/")) + 1
    return sorted({entry.path[prefix:].partition("/")[0] for entry in match.metadata_list})


def remove_tree(folder: str) -> None:
    """Removes a folder with its content, if it exists."""
    if not is_remote(folder):
        filesystem.remove_tree(folder)
    elif list_folder(folder):
        _beam().delete([folder.rstrip("/") + "/"])


def remove_unfinished(folder: str) -> None:
    """Removes what killed processes have left of files in a folder. In a store, such files do not appear."""
    if not is_remote(folder):
        for name in list_folder(folder):
            if name.startswith(".") and name.endswith(filesystem.UNFINISHED):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(join(folder, name))
