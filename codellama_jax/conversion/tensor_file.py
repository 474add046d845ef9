"""Reads checkpoint files of other formats: tensors, a few rows at a time, and JSON objects."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.runtime import git_lfs


class InputFile:
    """A file that is read by byte ranges. It is not memory-mapped: pages of a mapped file count as process memory."""

    def __init__(self, path: Path):
        """Opens the file.

        Raises:
            UserError: the file cannot be opened.
        """
        self.path = path
        git_lfs.check(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: fetch the complete checkpoint again") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> np.ndarray:
        """Reads bytes: uint8 [count].

        Raises:
            UserError: the file is too short.
        """
        buffer, done = np.empty(count, np.uint8), 0
        while done < count:
            number = os.preadv(self._descriptor, [buffer[done:].data], offset + done)
            if number == 0:
                raise UserError(
                    f"{self.path} is truncated: it has {self.size:,} bytes, but {offset + count:,} are needed;"
                    " fetch it again"
                )
            done += number
        return buffer

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


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


def json_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file whose content is an object.

    Raises:
        UserError: there is no such file, or its content is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        reason = "it is not a JSON object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UserError(f"{path} is damaged ({reason}): fetch it again")
