"""Connected components, by alternating large and small stars until nothing changes.

Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, Connected components in MapReduce and beyond (2014). In each
round a document passes its neighbours to the smallest id that it knows, first those with larger ids, then those with
smaller ones; in the end each is joined to the smallest of its component alone. No call sees more than its partition.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.counters import Counters, added
from tasks.curation.dedup import similar_pairs
from tasks.curation.dedup.exact import PARTITION
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger

NAME = "components"
ROUNDS = "rounds"  # count of them

# Node, neighbour, the smallest neighbour of the node -> pairs (larger, smaller), and how many of them are new.
Star = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, int]]


def run(job: Ledger, folder: str) -> Counters:
    """Runs rounds."""
    total = Counters()
    before, count = job.folder(similar_pairs.NAME), job.tallies["edges"].counts["edges"]
    while True:
        label = storage.join(folder, f"round-{total.counts[ROUNDS]:02d}")
        larger = _star(job, before, storage.join(label, "larger"), count, _Both, _large)
        smaller = _star(job, storage.join(label, "larger"), label, larger.counts["edges"], _Larger, _small)
        if total.counts[ROUNDS]:
            storage.remove_tree(before)
        storage.remove_tree(storage.join(label, "larger"))
        total.count(ROUNDS)
        before, count = label, smaller.counts["edges"]
        if not larger.counts["changes"] + smaller.counts["changes"]:
            total.count("edges", count)
            return total


def last_round(job: Ledger) -> str:
    """The folder with the edges of the last round: each (document, smallest of its component)."""
    return storage.join(job.folder(NAME), f"round-{job.tallies['components'].counts[ROUNDS] - 1:02d}")


def parts(folder: str) -> list[str]:
    """The files of edges in a folder."""
    return [storage.join(folder, name) for name in storage.list_folder(folder) if name.startswith("part-")]


def _star(job: Ledger, before: str, folder: str, count: int, work: type["_Both"], star: Star) -> Counters:
    """All stars of a kind over the edges in the files of a folder, about `count`, to files of another. A node sees all
    of its neighbours, however many passes it takes."""
    size = 32 * count
    partitions = job.engine.partitions(size, PARTITION)
    files, tallies = parts(before), []
    for number, only in enumerate(job.engine.slices(partitions, size)):
        given, write = work(partitions, only), _Write(folder, star)
        tallies.append(job.engine.run(f"pass-{number}", folder, files, given, write, size=job.engine.of_pass(size)))
    return added(tallies)


class _Both:
    """Work: a file's edges, from either end."""

    def __init__(self, partitions: int, only: range):
        self._partitions, self._only = partitions, only

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            ends = [tables.integers(group[name]) for name in similar_pairs.EDGES.names]
            one, other = np.concatenate(ends), np.concatenate(ends[::-1])
            yield from self._sent(one, other)

    def _sent(self, one: np.ndarray, other: np.ndarray) -> Iterator[Result]:
        """Pairs, to the partition of the first."""
        table = pa.table([one, other], similar_pairs.EDGES)
        yield from tables.partitioned(table, tables.share(tables.hashed(one), self._partitions), self._only)


class _Larger(_Both):
    """Work: a file's edges, from the larger end."""

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            yield from self._sent(*(tables.integers(group[name]) for name in similar_pairs.EDGES.names))


def neighbours(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (node, neighbour), sorted, each once; and the smallest neighbour of each row's node."""
    node, other = (tables.integers(table[name]) for name in similar_pairs.EDGES.names)
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    first = tables.starts_of(node, other)
    node, other = node[first], other[first]
    starts = tables.starts_of(node)
    return node, other, np.repeat(other[starts], np.diff(np.append(starts, len(node))))


class _Write:
    """Receives nodes with their neighbours, and writes the edges of their stars."""

    def __init__(self, folder: str, star: Star):
        self._folder, self._star = folder, star

    def __call__(self, partition: int, table: pa.Table) -> Iterator[Result]:
        pairs, changes = self._star(*neighbours(table))
        pairs = np.unique(pairs, axis=1)
        path = storage.join(self._folder, f"part-{partition:06d}.parquet")
        tables.write(path, similar_pairs.EDGES, [pa.table([pairs[0], pairs[1]], similar_pairs.EDGES)])
        tally = Counters()
        tally.count("changes", changes)
        tally.count("edges", pairs.shape[1])
        yield tally


def _large(node: np.ndarray, other: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, int]:
    """Of nodes with all neighbours: joins the larger of them to the smallest of all."""
    least = np.minimum(least, node)
    larger = other > node
    return np.stack([other[larger], least[larger]]), int(np.count_nonzero(larger & (least != node)))


def _small(node: np.ndarray, other: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, int]:
    """Of nodes with their smaller neighbours: joins those, and the node itself, to the smallest."""
    moved = other != least
    joined = [np.concatenate([node, other[moved]]), np.concatenate([least, least[moved]])]
    return np.stack(joined), int(np.count_nonzero(moved))
