"""Step 5: compares signatures within each bucket. Pairs whose similarity reaches the threshold are edges of a graph.

Output: a file of edges for each partition of the buckets.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, merge
from tasks.curation.dedup import lsh_buckets, minhash, signatures
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.units import Unit, document_ids

NAME = "edges"
EDGES = pa.schema([pa.field(name, pa.uint64(), False) for name in ("larger", "smaller")])
PARTITION_BYTES = 32 << 20  # approximate maximum for one reducer: signatures are large


def run(ledger: Ledger, folder: str) -> Counters:
    """Compares the members of all buckets."""
    members = ledger.counters[lsh_buckets.NAME].counts["members"]
    size = (4 * ledger.settings.permutations + 16) * members
    partitions = ledger.engine.partition_count(size, PARTITION_BYTES)
    member_folders = tuple(ledger.pass_folders(lsh_buckets.NAME))
    compare = _Compare(folder, ledger.settings.threshold)
    counters = []
    for number, selected in enumerate(ledger.engine.passes(partitions, size)):
        mapper = _Members(ledger.folder(signatures.NAME), member_folders, ledger.settings, partitions, selected)
        pass_size = ledger.engine.pass_size(size)
        counters.append(ledger.engine.run(f"edges-{number}", folder, ledger.units, mapper, compare, size=pass_size))
    return merge(counters)


class _Members:
    """Mapper: emits the signatures of a unit's documents, once for each bucket that they share."""

    def __init__(self, folder: str, members: tuple[str, ...], settings: Build, partitions: int, selected: range):
        self._folder, self._members, self._settings = folder, members, settings
        self._partitions, self._selected = partitions, selected

    def __call__(self, unit: Unit) -> Iterator[Result]:
        members = tables.read_all([storage.join(folder, unit.file) for folder in self._members], lsh_buckets.MEMBERS)
        if not members.num_rows:
            return
        members = members.sort_by([("number", "ascending"), ("key", "ascending")])
        numbers, keys = tables.to_numpy(members["number"]), tables.to_numpy(members["key"])
        for group in tables.read(storage.join(self._folder, unit.file)):
            signed = tables.to_numpy(group["number"])  # ascending
            begin, end = np.searchsorted(numbers, [signed[0], signed[-1] + 1]).tolist()
            rows = group.take(pa.array(np.searchsorted(signed, numbers[begin:end])))
            columns = {"key": pa.array(keys[begin:end]), "id": document_ids(rows["number"], unit.number)}
            table = pa.table(columns | {"signature": rows["signature"]})
            partitions = tables.hash_partition(keys[begin:end], self._partitions)
            yield from tables.partition_blocks(table, partitions, self._selected)


class _Compare:
    """Reducer: writes the similar pairs of the buckets of a partition."""

    def __init__(self, folder: str, threshold: float):
        self._folder, self._threshold = folder, threshold

    def __call__(self, partition: int, table: pa.Table) -> Iterator[Result]:
        table = table.sort_by([("key", "ascending"), ("id", "ascending")])
        ids, matrix = tables.to_numpy(table["id"]).tolist(), signatures.matrix(table["signature"])
        starts = tables.group_starts(tables.to_numpy(table["key"]))
        edges: set[tuple[int, int]] = set()
        for start, end in tables.spans(starts, len(ids)):
            members: Any = zip(ids[start:end], matrix[start:end], strict=True)
            edges.update(cast(list[tuple[int, int]], minhash.similar_pairs(members, self._threshold)))
        yield write(storage.join(self._folder, f"part-{partition:06d}.parquet"), edges)


def write(path: str, edges: set[tuple[int, int]]) -> Counters:
    """Writes edges (smaller, larger) and counts them."""
    pairs = np.array(sorted(edges), np.uint64).reshape(-1, 2)
    tables.write(path, EDGES, [pa.table([pairs[:, 1], pairs[:, 0]], EDGES)])
    counters = Counters()
    counters.add("edges", len(pairs))
    return counters
