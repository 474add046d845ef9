"""Of each component, tasks/curation/dedup/keep_rule.py says which document is kept.

Out: for each unit its documents that are left out, as of exact duplicates.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, added
from tasks.curation.dedup import components, keep_rule
from tasks.curation.dedup.exact import PARTITION, ROW, Verdicts
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "near"
REASON = "near_duplicate"
ROOTS = pa.schema([pa.field("id", pa.uint64(), False), pa.field("root", pa.uint64(), False)])


def run(job: Ledger, folder: str) -> Counters:
    """Brings the documents of components together."""
    size = 2 * ROW * job.tallies["components"].counts["edges"]
    partitions = job.engine.partitions(size, PARTITION)
    files = components.parts(components.last_round(job))
    tallies = []
    for number, only in enumerate(job.engine.slices(partitions, size)):
        look = _Look(job.folder(read.NAME), partitions)
        write = Verdicts(storage.join(folder, f"pass-{number:03d}"))
        work = _Members(partitions, only)
        tallies.append(
            job.engine.run(f"near-{number}", folder, files, work, look, _choose, write, size=job.engine.of_pass(size))
        )
    return added(tallies)


class _Members:
    """Work: the documents of components, roots included, to their units."""

    def __init__(self, partitions: int, only: range):
        self._partitions, self._only = partitions, only

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            id, root = (tables.integers(group[name]) for name in group.column_names)
            wanted = np.isin(tables.share(tables.hashed(root), self._partitions), np.array(self._only))
            id, root = id[wanted], root[wanted]
            roots = np.unique(root)
            table = pa.table([np.concatenate([id, roots]), np.concatenate([root, roots])], ROOTS)
            yield from tables.partitioned(table, (tables.integers(table["id"]) >> np.uint64(32)).astype(np.int64))


class _Look:
    """Receives a unit's documents that are in components; gives what decides among them, to their components."""

    def __init__(self, documents: str, partitions: int):
        self._documents, self._partitions = documents, partitions

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        id, first = np.unique(tables.integers(rows["id"]), return_index=True)
        root = tables.integers(rows["root"])[first]
        number = (id & np.uint64(0xFFFFFFFF)).astype(np.uint32)
        for group in tables.read(storage.join(self._documents, Unit(unit, 0, 0).file), keep_rule.COLUMNS):
            numbers = tables.integers(group["number"])
            begin, end = np.searchsorted(number, [numbers[0], numbers[-1]], side="left").tolist()
            end += int(end < len(number) and number[end] == numbers[-1])
            if begin < end:
                found = group.take(pa.array(np.searchsorted(numbers, number[begin:end])))
                table = keep_rule.candidates(found, unit, pa.array(root[begin:end]))
                yield from tables.partitioned(table, tables.share(tables.hashed(root[begin:end]), self._partitions))


def _choose(_: int, table: pa.Table) -> Iterator[Result]:
    return keep_rule.verdicts(table, REASON)
