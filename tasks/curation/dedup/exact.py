"""Exact duplicates, by the key of their normalised content.

Of those with one key tasks/curation/dedup/keep_rule.py says which is kept. Out: for each unit its documents that
are left out, and the ids of those kept in their stead.
"""

from collections.abc import Iterator

import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, added
from tasks.curation.dedup import keep_rule
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "exact"
REASON = "exact_duplicate"
ROW = 150  # bytes of what a document exchanges, about
PARTITION = 8 << 20  # bytes of what one call groups


def run(job: Ledger, folder: str) -> Counters:
    """Groups the documents by their keys."""
    size = ROW * job.tallies["read"].counts["documents/read"]
    partitions = job.engine.partitions(size, PARTITION)
    tallies = []
    for number, only in enumerate(job.engine.slices(partitions, size)):
        work = _Keys(job.folder(read.NAME), partitions, only)
        write = Verdicts(storage.join(folder, f"pass-{number:03d}"))
        tallies.append(
            job.engine.run(f"exact-{number}", folder, job.units, work, _choose, write, size=job.engine.of_pass(size))
        )
    return added(tallies)


class _Keys:
    """Work: what decides among the documents of a unit, by key."""

    def __init__(self, documents: str, partitions: int, only: range):
        self._documents, self._partitions, self._only = documents, partitions, only

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for group in tables.read(storage.join(self._documents, unit.file), [*keep_rule.COLUMNS, "key"]):
            table = keep_rule.candidates(group, unit.number, group["key"].combine_chunks())
            yield from tables.partitioned(
                table, tables.share(tables.prefixes(group["key"]), self._partitions), self._only
            )


def _choose(_: int, table: pa.Table) -> Iterator[Result]:
    return keep_rule.verdicts(table, REASON)


class Verdicts:
    """Receives what is left out of a unit, and writes it."""

    def __init__(self, folder: str):
        self._folder = folder

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        table = rows.sort_by("number")
        tables.write(storage.join(self._folder, Unit(unit, 0, 0).file), keep_rule.VERDICTS, [table])
        yield from ()
