"""Step 6: finds connected components, by alternating large-star and small-star operations until nothing changes.

Kiveris, Lattanzi, Mirrokni, Rastogi and Vassilvitskii, Connected components in MapReduce and beyond (2014). In each
round every node links its neighbours to the smallest id among them and itself: first the larger neighbours, then the
smaller ones and itself. In the end every node is linked to the smallest node of its component only. No reducer holds
more than its partition.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.counters import Counters, merge
from tasks.curation.dedup import similar_pairs
from tasks.curation.dedup.remove_exact import PARTITION_BYTES
from tasks.curation.dedup.similar_pairs import EDGES
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.splitmix64 import mix

NAME = "components"
ROUNDS = "rounds"  # name of the count of rounds

# Nodes, their neighbours, and the smallest neighbour of each node -> edges (larger, smaller), and how many are new.
Star = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, int]]


def run(ledger: Ledger, folder: str) -> Counters:
    """Runs rounds until one changes nothing."""
    total = Counters()
    edges, count = ledger.folder(similar_pairs.NAME), ledger.counters[similar_pairs.NAME].counts["edges"]
    while True:
        result = storage.join(folder, f"round-{total.counts[ROUNDS]:02d}")
        between = storage.join(result, "larger")
        large = _run_star(ledger, edges, between, count, _FromBothEnds, _large_star)
        small = _run_star(ledger, between, result, large.counts["edges"], _FromLargerEnd, _small_star)
        if total.counts[ROUNDS]:
            storage.remove_tree(edges)
        storage.remove_tree(between)
        total.add(ROUNDS)
        edges, count = result, small.counts["edges"]
        if not large.counts["changes"] + small.counts["changes"]:
            total.add("edges", count)
            return total


def last_round(ledger: Ledger) -> str:
    """The folder with the edges of the last round: (document, smallest document of its component)."""
    return storage.join(ledger.folder(NAME), f"round-{ledger.counters[NAME].counts[ROUNDS] - 1:02d}")


def edge_files(folder: str) -> list[str]:
    """The files of edges in a folder."""
    return [storage.join(folder, name) for name in storage.list_folder(folder) if name.startswith("part-")]


def _run_star(
    ledger: Ledger, edges: str, folder: str, count: int, mapper: type["_FromBothEnds"], star: Star
) -> Counters:
    """Applies a star operation to about `count` edges in the files of a folder, and writes the result to another.

    Every node gets all its neighbours, however many passes there are.
    """
    size = 32 * count
    partitions = ledger.engine.partition_count(size, PARTITION_BYTES)
    files, counters, pass_size = edge_files(edges), [], ledger.engine.pass_size(size)
    for number, selected in enumerate(ledger.engine.passes(partitions, size)):
        nodes, writer = mapper(partitions, selected), _WriteEdges(folder, star)
        counters.append(ledger.engine.run(f"pass-{number}", folder, files, nodes, writer, size=pass_size))
    return merge(counters)


class _FromBothEnds:
    """Mapper: emits each edge of a file at both of its nodes."""

    def __init__(self, partitions: int, selected: range):
        self._partitions, self._selected = partitions, selected

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            ends = [tables.to_numpy(group[name]) for name in EDGES.names]
            yield from self._by_node(np.concatenate(ends), np.concatenate(ends[::-1]))

    def _by_node(self, nodes: np.ndarray, neighbours: np.ndarray) -> Iterator[Result]:
        """(node, neighbour), partitioned by node."""
        partitions = tables.hash_partition(mix(nodes), self._partitions)
        yield from tables.partition_blocks(pa.table([nodes, neighbours], EDGES), partitions, self._selected)


class _FromLargerEnd(_FromBothEnds):
    """Mapper: emits each edge of a file at its larger node."""

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            yield from self._by_node(*(tables.to_numpy(group[name]) for name in EDGES.names))


def adjacency(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, their neighbours, and the smallest neighbour of each node: sorted, without duplicates, [edges] each."""
    nodes, neighbours = (tables.to_numpy(table[name]) for name in EDGES.names)
    order = np.lexsort((neighbours, nodes))
    nodes, neighbours = nodes[order], neighbours[order]
    first = tables.group_starts(nodes, neighbours)
    nodes, neighbours = nodes[first], neighbours[first]
    starts = tables.group_starts(nodes)
    return nodes, neighbours, np.repeat(neighbours[starts], np.diff(np.append(starts, len(nodes))))


class _WriteEdges:
    """Reducer: writes the edges that a star operation gives for the nodes of a partition."""

    def __init__(self, folder: str, star: Star):
        self._folder, self._star = folder, star

    def __call__(self, partition: int, table: pa.Table) -> Iterator[Result]:
        edges, changes = self._star(*adjacency(table))
        edges = np.unique(edges, axis=1)
        path = storage.join(self._folder, f"part-{partition:06d}.parquet")
        tables.write(path, EDGES, [pa.table([edges[0], edges[1]], EDGES)])
        counters = Counters()
        counters.add("changes", changes)
        counters.add("edges", edges.shape[1])
        yield counters


def _large_star(nodes: np.ndarray, neighbours: np.ndarray, smallest: np.ndarray) -> tuple[np.ndarray, int]:
    """Links the larger neighbours of each node to the smallest of the node and its neighbours."""
    smallest = np.minimum(smallest, nodes)
    larger = neighbours > nodes
    return np.stack([neighbours[larger], smallest[larger]]), int(np.count_nonzero(larger & (smallest != nodes)))


def _small_star(nodes: np.ndarray, neighbours: np.ndarray, smallest: np.ndarray) -> tuple[np.ndarray, int]:
    """Links each node and its neighbours, all of which are smaller, to the smallest neighbour."""
    moved = neighbours != smallest
    edges = [np.concatenate([nodes, neighbours[moved]]), np.concatenate([smallest, smallest[moved]])]
    return np.stack(edges), int(np.count_nonzero(moved))
