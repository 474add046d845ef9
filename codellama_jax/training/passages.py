"""Passages, consecutive tokens of which some are scored, and their windows. Without JAX: the planner uses it too."""

import dataclasses
import heapq
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Passage:
    """Consecutive tokens, of which the last `scored` count for a benchmark."""

    ids: Sequence[int]
    scored: int
    benchmark: int

    @property
    def positions(self) -> int:
        """The length in a window: the last token is only a target."""
        return len(self.ids) - 1


def passages(prompt: Sequence[int], gold: Sequence[int], benchmark: int, length: int) -> Iterator[Passage]:
    """The passages of a gold text: one, or several that each fill a window and score the next part of the text."""
    ids = [*prompt, *gold]
    start, end = len(prompt), length + 1
    while start < len(ids):
        end = min(end, len(ids))
        yield Passage(ids[max(end - length - 1, 0) : end], end - start, benchmark)
        start, end = end, end + length // 2


def packed(passages: Sequence[Passage], length: int) -> list[list[Passage]]:
    """Passages in windows of `length` positions: each, the longest first, in the window with the most room."""
    windows: list[list[Passage]] = []
    rooms: list[tuple[int, int]] = []  # a heap of (-room, index of the window)
    for passage in sorted(passages, key=lambda passage: -passage.positions):  # stable
        if rooms and -rooms[0][0] >= passage.positions:
            room, window = heapq.heappop(rooms)
        else:
            room, window = -length, len(windows)
            windows.append([])
        windows[window].append(passage)
        heapq.heappush(rooms, (room + passage.positions, window))
    return windows


def batch_shape(windows: int, largest: int, parts: int) -> tuple[int, int]:
    """The number of batches, and the windows of each: as many as possible with little padding.

    Args:
        windows: number of windows.
        largest: windows of a micro-batch of training, which fits into memory; a multiple of `parts`.
        parts: shards of a batch, which divide its windows.
    """

    def padded(rows: int) -> int:
        return -(-windows // rows) * rows

    sizes = range(parts, largest + 1, parts)
    rows = max((size for size in sizes if padded(size) <= 1.25 * windows), default=min(reversed(sizes), key=padded))
    return padded(rows) // rows, rows
