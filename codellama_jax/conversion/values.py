"""Checks of the values of tensors during a conversion: what a smaller dtype cannot hold, NaN and infinity."""

import dataclasses
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from codellama_jax.conversion.canonical import DTYPES, Source, Tensor
from codellama_jax.errors import UserError

# For each dtype: an unsigned integer of its size, the bits of its exponent, and those of its mantissa. All bits of the
# exponent are set in NaN and infinity, and no bit of the mantissa in infinity. This is much faster than np.isfinite of
# ml_dtypes.
_BITS = {
    "float32": (np.uint32, 0x7F800000, 0x007FFFFF),
    "bfloat16": (np.uint16, 0x7F80, 0x007F),
    "float16": (np.uint16, 0x7C00, 0x03FF),
}


def count_nonfinite(array: np.ndarray) -> tuple[int, int]:
    """The numbers of NaNs and of infinities in an array of a dtype of DTYPES."""
    integer, exponent, mantissa = _BITS[array.dtype.name]
    bits = np.ascontiguousarray(array).view(integer)
    found = bits[(bits & integer(exponent)) == exponent] & integer(mantissa)
    nans = int(np.count_nonzero(found))
    return nans, len(found) - nans


class CheckedValues:
    """A Source that converts the tensors of another one to a dtype, and counts values that are not finite.

    Attributes:
        model: the description, with the new dtype.
    """

    def __init__(self, source: Source, name_of: Callable[[Tensor], str], dtype: str | None = None):
        """Reads nothing yet.

        Args:
            source: the checkpoint to read.
            name_of: the name of a tensor for messages.
            dtype: dtype of all tensors; None: unchanged.
        """
        self.model = source.model
        if dtype:
            self.model = dataclasses.replace(source.model, dtypes=dict.fromkeys(source.model.dtypes, dtype))
        self._source, self._name_of, self._dtype = source, name_of, dtype
        self._counts: dict[str, np.ndarray] = {}  # by name: numbers of NaNs and of infinities

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows.

        Raises:
            UserError: a value is beyond the range of the dtype.
        """
        rows = self._source.rows(tensor, start, stop)
        before = count_nonfinite(rows)
        if any(before):
            name = self._name_of(tensor)
            self._counts[name] = self._counts.get(name, np.zeros(2, np.int64)) + before
        if self._dtype is None or rows.dtype == DTYPES[self._dtype]:
            return rows
        with np.errstate(over="ignore"):
            converted = rows.astype(DTYPES[self._dtype])
        if count_nonfinite(converted) != before:
            values = rows.astype(np.float64)
            largest = values.flat[np.argmax(np.where(np.isfinite(values), np.abs(values), -1))]
            limit = float(ml_dtypes.finfo(DTYPES[self._dtype]).max)
            raise UserError(
                f"{self._name_of(tensor)} has the value {largest:g}, beyond the range of {self._dtype} (±{limit:g}):"
                f" use --dtype={'bfloat16' if abs(largest) < 3e38 else 'float32'}"
            )
        return converted

    def close(self) -> None:
        """See Source.close."""
        self._source.close()

    def warnings(self, limit: int = 5) -> Iterator[str]:
        """A line for each of the first tensors in which values that are not finite have been read."""
        for name, (nans, infinities) in list(self._counts.items())[:limit]:
            counts = [f"{nans:,} NaN"] * bool(nans) + [f"{infinities:,} infinite"] * bool(infinities)
            yield f"warning: {name} has values that are not finite ({', '.join(counts)})"
        if len(self._counts) > limit:
            yield f"warning: and {len(self._counts) - limit} more tensors have"
