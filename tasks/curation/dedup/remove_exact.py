"""Step 2: removes exact duplicates, documents with the same content hash.

Output: for each unit, the table of its removed documents (tasks/curation/removals.py).
"""

from collections.abc import Iterator

import pyarrow as pa

from tasks.curation import removals, storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, merge
from tasks.curation.dedup import keep_rule
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.units import Unit, unit_file

NAME = "exact"
REASON = "exact_duplicate"
ROW_BYTES = 150  # approximate size of the row that is exchanged for a document
PARTITION_BYTES = 8 << 20  # approximate maximum size of the rows that one reducer receives


def run(ledger: Ledger, folder: str) -> Counters:
    """Groups the documents by content hash and keeps one of each group."""
    size = ROW_BYTES * ledger.counters[read.NAME].counts["documents/read"]
    partitions = ledger.engine.partition_count(size, PARTITION_BYTES)
    counters = []
    for number, selected in enumerate(ledger.engine.passes(partitions, size)):
        mapper = _ByContent(ledger.folder(read.NAME), partitions, selected)
        writer = WriteRemovals(storage.join(folder, f"pass-{number:03d}"))
        pass_size = ledger.engine.pass_size(size)
        counters.append(
            ledger.engine.run(f"exact-{number}", folder, ledger.units, mapper, _keep_one, writer, size=pass_size)
        )
    return merge(counters)


class _ByContent:
    """Mapper: emits the documents of a unit as candidates, partitioned by content hash."""

    def __init__(self, documents: str, partitions: int, selected: range):
        self._documents, self._partitions, self._selected = documents, partitions, selected

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for group in tables.read(storage.join(self._documents, unit.file), [*keep_rule.COLUMNS, "key"]):
            table = keep_rule.candidates(group, unit.number, group["key"].combine_chunks())
            partitions = tables.hash_partition(tables.leading_uint64(group["key"]), self._partitions)
            yield from tables.partition_blocks(table, partitions, self._selected)


def _keep_one(_: int, table: pa.Table) -> Iterator[Result]:
    return keep_rule.remove_duplicates(table, REASON)


class WriteRemovals:
    """Reducer: writes the removed documents of a unit."""

    def __init__(self, folder: str):
        self._folder = folder

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        tables.write(storage.join(self._folder, unit_file(unit)), removals.SCHEMA, [rows.sort_by("number")])
        yield from ()
