"""Reads tensors from checkpoint files of other formats, a few rows at a time."""

import dataclasses
import io
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs, git_lfs


class InputFile:
    """A file that is read by byte ranges. It is not memory-mapped: pages of a mapped file count as process memory."""

    def __init__(self, path: Path):
        """Opens the file.

        Raises:
            UserError: the file cannot be opened.
        """
        self.path = path
        git_lfs.check(path)
        self._object: gcs.ObjectReader | None = None
        if filesystem.is_remote(path):
            if not filesystem.exists(path):
                raise UserError(f"{path} is missing: fetch the complete checkpoint again")
            self._object = gcs.ObjectReader(path)
            self.size = self._object.size
            return
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: fetch the complete checkpoint again") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise UserError(f"{path} is not a file: fetch the complete checkpoint again")
        self.size = status.st_size

    def read(self, offset: int, count: int) -> np.ndarray:
        """Reads bytes: uint8 [count].

        Raises:
            UserError: the file is too short.
        """
        if offset + count > self.size:
            raise UserError(
                f"{self.path} is truncated: it has {self.size:,} bytes, but {offset + count:,} are needed;"
                " fetch it again"
            )
        if self._object is not None:
            return np.frombuffer(self._object.read(offset, count), np.uint8)
        buffer, done = np.empty(count, np.uint8), 0
        while done < count:
            number = os.preadv(self._descriptor, [buffer[done:].data], offset + done)
            if number == 0:
                raise UserError(f"{self.path} was truncated while it was read: fetch it again")
            done += number
        return buffer

    def as_file(self) -> BinaryIO:
        """A seekable file object with the same content."""
        return io.BufferedReader(_RawInput(self), 1 << 16)

    def close(self) -> None:
        """Closes the file."""
        if self._object is None:
            os.close(self._descriptor)


class _RawInput(io.RawIOBase):
    def __init__(self, file: InputFile):
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError("the position is negative")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._file.size - self._position))
        buffer[:count] = self._file.read(self._position, count).data
        self._position += count
        return count


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, stored row by row.

    Attributes:
        file: the open file.
        offset: position of its first byte in the file.
        shape, dtype: shape and dtype of the tensor.
    """

    file: InputFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self):
        if self.offset < 0 or self.offset + self.nbytes > self.file.size:
            raise UserError(
                f"{self.file.path} is truncated: it has {self.file.size:,} bytes, but a tensor ends at byte"
                f" {self.offset + self.nbytes:,}; fetch it again"
            )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop, [stop - start, ...]."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        raw = self.file.read(self.offset + start * row, (stop - start) * row)
        return raw.view(self.dtype).reshape(stop - start, *self.shape[1:])
