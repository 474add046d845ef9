"""Connected components, by alternating large and small stars until nothing changes.

Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, Connected components in MapReduce and beyond (2014). In each
round a document passes its neighbours to the smallest id that it knows, first those with larger ids, then those with
smaller ones; in the end each is joined to the smallest of its component alone. No call sees more than its partition.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tasks.build import storage, tables
from tasks.build.engine import Result
from tasks.build.job import Job
from tasks.build.steps import edges
from tasks.build.steps.exact import PARTITION
from tasks.build.tally import Tally, added

NAME = "components"
ROUNDS = "rounds"  # count of them


def run(job: Job, folder: str) -> Tally:
    """Runs rounds."""
    total = Tally()
    before, count = job.folder(edges.NAME), job.tallies["edges"].counts["edges"]
    while True:
        tally = round_of(job, before, storage.join(folder, f"round-{total.counts[ROUNDS]:02d}"), count)
        total.count(ROUNDS)
        if total.counts[ROUNDS] > 1:
            storage.remove(before)
        before, count = storage.join(folder, f"round-{total.counts[ROUNDS] - 1:02d}"), tally.counts["edges"]
        if not tally.counts["changes"]:
            total.count("edges", count)
            return total


def last_round(job: Job) -> str:
    """The folder with the edges of the last round: each (document, smallest of its component)."""
    return storage.join(job.folder(NAME), f"round-{job.tallies['components'].counts[ROUNDS] - 1:02d}")


def parts(folder: str) -> list[str]:
    """The files of edges in a folder."""
    return [storage.join(folder, name) for name in storage.names(folder) if name.startswith("part-")]


def round_of(job: Job, before: str, folder: str, count: int) -> Tally:
    """One round: the edges in the files of a folder, about `count`, to files of another."""
    size = 32 * count
    partitions = job.engine.partitions(size, PARTITION)
    files = parts(before)
    tallies = []
    for number, only in enumerate(job.engine.slices(partitions, size)):
        # what one pass gives goes on to the second star at once: a pass writes its own files
        write = _SmallStar(folder, number)
        large = _LargeStar(partitions)
        tallies.append(
            job.engine.run(
                f"pass-{number}", folder, files, _Both(partitions, only), large, write, size=job.engine.of_pass(size)
            )
        )
    return added(tallies)


class _Both:
    """Work: a file's edges, from either end."""

    def __init__(self, partitions: int, only: range):
        self._partitions, self._only = partitions, only

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            ends = [tables.integers(group[name]) for name in edges.EDGES.names]
            one, other = np.concatenate(ends), np.concatenate(ends[::-1])
            yield from sent(one, other, self._partitions, self._only)


def sent(one: np.ndarray, other: np.ndarray, partitions: int, only: range | None = None) -> Iterator[Result]:
    """Pairs, to the partition of the first."""
    table = pa.table([one, other], edges.EDGES)
    yield from tables.partitioned(table, tables.share(tables.hashed(one), partitions), only)


def neighbours(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (node, neighbour), sorted, each once; and the smallest neighbour of each row's node."""
    node, other = (tables.integers(table[name]) for name in edges.EDGES.names)
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    first = tables.starts_of(node, other)
    node, other = node[first], other[first]
    starts = tables.starts_of(node)
    return node, other, np.repeat(other[starts], np.diff(np.append(starts, len(node))))


class _LargeStar:
    """Receives nodes with all neighbours; joins the larger of them to the smallest of all."""

    def __init__(self, partitions: int):
        self._partitions = partitions

    def __call__(self, _: int, table: pa.Table) -> Iterator[Result]:
        node, other, least = neighbours(table)
        least = np.minimum(least, node)
        larger = other > node
        tally = Tally()
        tally.count("changes", int(np.count_nonzero(larger & (least != node))))
        yield tally
        yield from sent(other[larger], least[larger], self._partitions)


class _SmallStar:
    """Receives nodes with their smaller neighbours; joins those, and itself, to the smallest. Writes the edges."""

    def __init__(self, folder: str, number: int):
        self._folder, self._number = folder, number

    def __call__(self, partition: int, table: pa.Table) -> Iterator[Result]:
        node, other, least = neighbours(table)
        moved = other != least
        pairs = np.unique(
            np.stack([np.concatenate([node, other[moved]]), np.concatenate([least, least[moved]])]), axis=1
        )
        path = storage.join(self._folder, f"part-{self._number:03d}-{partition:06d}.parquet")
        tables.write(path, edges.EDGES, [pa.table([pairs[0], pairs[1]], edges.EDGES)])
        tally = Tally()
        tally.count("changes", int(np.count_nonzero(moved)))
        tally.count("edges", pairs.shape[1])
        yield tally
