"""Within buckets, signatures are compared; pairs that reach the threshold are the edges of a graph.

Out: a file of edges for each partition of the buckets.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, added
from tasks.curation.dedup import lsh_buckets, signatures
from tasks.curation.dedup.keep_rule import ids
from tasks.curation.dedup.minhash import edges_of_bucket
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "edges"
EDGES = pa.schema([pa.field(name, pa.uint64(), False) for name in ("larger", "smaller")])
PARTITION = 32 << 20  # bytes of what one call compares: signatures are large


def run(job: Ledger, folder: str) -> Counters:
    """Compares all that meet."""
    members = job.tallies["buckets"].counts["members"]
    size = (4 * job.settings.permutations + 16) * members
    partitions = job.engine.partitions(size, PARTITION)
    tallies = []
    for number, only in enumerate(job.engine.slices(partitions, size)):
        found = tuple(job.passes(lsh_buckets.NAME))
        work = _Signed(job.folder(signatures.NAME), found, job.settings, partitions, only)
        compare = _Compare(folder, job.settings.threshold)
        tallies.append(
            job.engine.run(f"edges-{number}", folder, job.units, work, compare, size=job.engine.of_pass(size))
        )
    return added(tallies)


class _Signed:
    """Work: the signatures of a unit's documents, once for each bucket in which they meet others."""

    def __init__(self, folder: str, members: tuple[str, ...], settings: Build, partitions: int, only: range):
        self._folder, self._members, self._settings = folder, members, settings
        self._partitions, self._only = partitions, only

    def __call__(self, unit: Unit) -> Iterator[Result]:
        members = tables.whole([storage.join(folder, unit.file) for folder in self._members], lsh_buckets.MEMBERS)
        if not members.num_rows:
            return
        members = members.sort_by([("number", "ascending"), ("key", "ascending")])
        number, key = tables.integers(members["number"]), tables.integers(members["key"])
        for group in tables.read(storage.join(self._folder, unit.file)):
            signed = tables.integers(group["number"])  # ascending
            begin, end = np.searchsorted(number, [signed[0], signed[-1] + 1]).tolist()
            rows = group.take(pa.array(np.searchsorted(signed, number[begin:end])))
            columns = {"key": pa.array(key[begin:end]), "id": ids(rows["number"], unit.number)}
            table = pa.table(columns | {"signature": rows["signature"]})
            yield from tables.partitioned(table, tables.share(key[begin:end], self._partitions), self._only)


class _Compare:
    """Receives the documents of buckets, and writes the edges."""

    def __init__(self, folder: str, threshold: float):
        self._folder, self._threshold = folder, threshold

    def __call__(self, number: int, table: pa.Table) -> Iterator[Result]:
        table = table.sort_by([("key", "ascending"), ("id", "ascending")])
        id, matrix = tables.integers(table["id"]).tolist(), signatures.matrix(table["signature"])
        starts = tables.starts_of(tables.integers(table["key"]))
        edges: set[tuple[int, int]] = set()
        for start, end in tables.spans(starts, len(id)):
            members: Any = zip(id[start:end], matrix[start:end], strict=True)
            edges.update(cast(list[tuple[int, int]], edges_of_bucket(members, self._threshold)))
        yield write(storage.join(self._folder, f"part-{number:06d}.parquet"), edges)


def write(path: str, edges: set[tuple[int, int]]) -> Counters:
    """Writes edges (smaller, larger) and counts them."""
    pairs = np.array(sorted(edges), np.uint64).reshape(-1, 2)
    tables.write(path, EDGES, [pa.table([pairs[:, 1], pairs[:, 0]], EDGES)])
    tally = Counters()
    tally.count("edges", len(pairs))
    return tally
