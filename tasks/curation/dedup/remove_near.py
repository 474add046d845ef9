"""Step 7: removes near-duplicates, all but one document of each component.

similar_pairs.py has compared the documents, and keep_rule.py decides which one is kept.

Output: for each unit, the table of its removed documents (tasks/curation/removals.py).
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, merge
from tasks.curation.dedup import components, keep_rule
from tasks.curation.dedup.remove_exact import PARTITION_BYTES, ROW_BYTES, WriteRemovals
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.splitmix64 import mix
from tasks.curation.units import number_in_unit, unit_file, unit_of

NAME = "near"
REASON = "near_duplicate"
ROOTS = pa.schema([pa.field("id", pa.uint64(), False), pa.field("root", pa.uint64(), False)])


def run(ledger: Ledger, folder: str) -> Counters:
    """Groups the documents by component and keeps one of each."""
    size = 2 * ROW_BYTES * ledger.counters[components.NAME].counts["edges"]
    partitions = ledger.engine.partition_count(size, PARTITION_BYTES)
    files = components.edge_files(components.last_round(ledger))
    counters = []
    for number, selected in enumerate(ledger.engine.passes(partitions, size)):
        mapper = _Members(partitions, selected)
        reducers = (
            _Candidates(ledger.folder(read.NAME), partitions),
            _keep_one,
            WriteRemovals(storage.join(folder, f"pass-{number:03d}")),
        )
        pass_size = ledger.engine.pass_size(size)
        counters.append(ledger.engine.run(f"near-{number}", folder, files, mapper, *reducers, size=pass_size))
    return merge(counters)


class _Members:
    """Mapper: emits the documents of components, including their roots, partitioned by unit."""

    def __init__(self, partitions: int, selected: range):
        self._partitions, self._selected = partitions, selected

    def __call__(self, path: str) -> Iterator[Result]:
        for group in tables.read(path):
            ids, roots = (tables.to_numpy(group[name]) for name in group.column_names)
            selected = np.isin(tables.hash_partition(mix(roots), self._partitions), np.array(self._selected))
            ids, roots = ids[selected], roots[selected]
            distinct = np.unique(roots)
            table = pa.table([np.concatenate([ids, distinct]), np.concatenate([roots, distinct])], ROOTS)
            yield from tables.partition_blocks(table, unit_of(tables.to_numpy(table["id"])))


class _Candidates:
    """Reducer: emits the documents of a unit that are in components, as candidates, partitioned by component."""

    def __init__(self, documents: str, partitions: int):
        self._documents, self._partitions = documents, partitions

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        ids, first = np.unique(tables.to_numpy(rows["id"]), return_index=True)
        roots = tables.to_numpy(rows["root"])[first]
        members = number_in_unit(ids)
        for group in tables.read(storage.join(self._documents, unit_file(unit)), keep_rule.COLUMNS):
            numbers = tables.to_numpy(group["number"])
            begin, end = np.searchsorted(members, [numbers[0], numbers[-1]], side="left").tolist()
            end += int(end < len(members) and members[end] == numbers[-1])
            if begin < end:
                documents = group.take(pa.array(np.searchsorted(numbers, members[begin:end])))
                table = keep_rule.candidates(documents, unit, pa.array(roots[begin:end]))
                partitions = tables.hash_partition(mix(roots[begin:end]), self._partitions)
                yield from tables.partition_blocks(table, partitions)


def _keep_one(_: int, table: pa.Table) -> Iterator[Result]:
    return keep_rule.remove_duplicates(table, REASON)
