"""Decides which stream each window of a global batch comes from.

The stream is a function of the window's number, so no state is needed.
"""

from collections.abc import Sequence

import numpy as np

# The fractional part of the golden ratio in 64 bits. Its multiples modulo 2^64 fill the range evenly at every length.
GOLDEN = 0x9E3779B97F4A7C15


class WindowSchedule:
    """Assigns windows to streams by a low-discrepancy sequence.

    In every run of n consecutive windows, the number of windows of a stream differs from n times its share by a few at
    most. With independent draws the deviation would be about sqrt(n).

    Args:
        shares: the share of each stream, in a fixed order. They need not add up to 1.
        seed: determines the phase of the sequence.
        batch_size: number of windows in a global batch.
    """

    def __init__(self, shares: Sequence[float], seed: int, batch_size: int):
        values = np.array(shares)
        # Thresholds are 64-bit integers: exact on every machine.
        self._thresholds = np.round(np.cumsum(values)[:-1] / values.sum() * 2.0**64).astype(np.uint64)
        self._phase = np.random.default_rng([seed, 0]).integers(0, 2**64, dtype=np.uint64)
        self._batch_size = batch_size

    def streams(self, windows: np.ndarray) -> np.ndarray:
        """The index of the stream of each window, for windows given by number."""
        points = windows.astype(np.uint64) * np.uint64(GOLDEN) + self._phase  # modulo 2^64
        return np.searchsorted(self._thresholds, points, side="right")

    def streams_of_rows(self, batch: int) -> np.ndarray:
        """The index of the stream of each row of global batch number `batch`.

        The windows of each batch are permuted before they are assigned to its rows. Without the permutation, a reader
        would get the same stream many times in a row if the batch size is a Fibonacci number (8, 13, 21, ...), because
        the ratios of these numbers are close to the golden ratio.
        """
        windows = batch * self._batch_size + np.arange(self._batch_size, dtype=np.int64)
        order = np.random.default_rng([int(self._phase), batch]).permutation(self._batch_size)
        return self.streams(windows[order])
