"""What foreign files hold: a tensor, read a few rows at a time from where its bytes lie; a JSON object."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.errors import UserError


class InputFile:
    """A file that is read in ranges; not mapped, so that pages which were read do not count as the process's memory."""

    def __init__(self, path: Path):
        """Opens it.

        Raises:
            UserError: it cannot be opened.
        """
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            raise UserError(f"{path} is missing: fetch the whole checkpoint again") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> np.ndarray:
        """These bytes, uint8 [count].

        Raises:
            UserError: the file ends before.
        """
        buffer, done = np.empty(count, np.uint8), 0
        while done < count:
            number = os.preadv(self._descriptor, [buffer[done:].data], offset + done)
            if number == 0:
                raise UserError(
                    f"{self.path} is cut short: {self.size:,} bytes, {offset + count:,} wanted; fetch it again"
                )
            done += number
        return buffer

    def close(self) -> None:
        """Closes it."""
        os.close(self._descriptor)


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a file, row after row.

    Attributes:
        file: that holds it.
        offset: of its first byte.
        shape, dtype: of the tensor.
    """

    file: InputFile
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self):
        if self.offset < 0 or self.offset + self.nbytes > self.file.size:
            raise UserError(
                f"{self.file.path} is cut short: {self.file.size:,} bytes, a tensor of it ends at"
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
    """The object of a JSON file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        reason = "it is no object"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise UserError(f"{path} is damaged ({reason}): fetch it again")
