"""Which documents meet another in a bucket of some band. Only ids and keys travel.

Out: for each unit the documents that do, with the buckets. A bucket of more than LARGEST is cut, its first document in
every part, so that no call ever holds more; what is alike to the first still meets it, and other bands cut elsewhere.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, added, bucket
from tasks.curation.dedup import signatures
from tasks.curation.dedup.exact import PARTITION
from tasks.curation.dedup.keep_rule import ids
from tasks.curation.dedup.minhash import bands_and_rows
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "buckets"
LARGEST = 4096
ROWS = pa.schema([pa.field("key", pa.uint64(), False), pa.field("id", pa.uint64(), False)])
MEMBERS = pa.schema([pa.field("number", pa.uint32(), False), pa.field("key", pa.uint64(), False)])


def run(job: Ledger, folder: str) -> Counters:
    """Groups the keys of all bands."""
    bands, rows = bands_and_rows(job.settings.threshold, job.settings.permutations)
    size = 16 * bands * job.tallies["signatures"].counts["documents/signed"]
    partitions = job.engine.partitions(size, PARTITION)
    tallies = [Counters()]
    tallies[0].count("bands", bands)
    tallies[0].count("rows", rows)
    for number, only in enumerate(job.engine.slices(partitions, size)):
        work = _Keys(job.folder(signatures.NAME), job.settings, partitions, only)
        write = _Members(storage.join(folder, f"pass-{number:03d}"))
        tallies.append(
            job.engine.run(f"buckets-{number}", folder, job.units, work, _meet, write, size=job.engine.of_pass(size))
        )
    return added(tallies)


class _Keys:
    """Work: the keys of a unit's documents."""

    def __init__(self, folder: str, settings: Build, partitions: int, only: range):
        self._folder, self._settings, self._partitions, self._only = folder, settings, partitions, only

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for group in tables.read(storage.join(self._folder, unit.file)):
            keys = signatures.buckets(signatures.matrix(group["signature"]), self._settings)
            id = np.repeat(ids(group["number"], unit.number), keys.shape[1])
            table = pa.table([keys.ravel(), id], ROWS)
            yield from tables.partitioned(table, tables.share(keys.ravel(), self._partitions), self._only)


def _meet(_: int, table: pa.Table) -> Iterator[Result]:
    """Of buckets with more than one document, their documents, for the unit of each."""
    key, id = tables.integers(table["key"]), tables.integers(table["id"])
    order = np.lexsort((id, key))
    key, id = key[order], id[order]
    starts = tables.starts_of(key)
    sizes = np.diff(np.append(starts, len(key)))
    tally = Counters()
    for size in sizes[sizes > 1].tolist():
        tally.count(f"buckets/{bucket(size)}")
    meets = np.repeat(sizes > 1, sizes)
    inside = np.arange(len(key)) - np.repeat(starts, sizes)
    parts = key + tables.hashed((inside // LARGEST).astype(np.uint64)) * (inside >= LARGEST).astype(np.uint64)
    rows = [(parts[meets], id[meets])]
    for start, size in zip(starts[sizes > LARGEST].tolist(), sizes[sizes > LARGEST].tolist(), strict=True):
        of_parts = np.unique(parts[start : start + size])
        of_parts = of_parts[of_parts != key[start]]
        rows.append((of_parts, np.full(len(of_parts), id[start])))
    key, id = (np.concatenate(column) for column in zip(*rows, strict=True))
    tally.count("members", len(key))
    yield tally
    if len(key):
        members = pa.table([(id & np.uint64(0xFFFFFFFF)).astype(np.uint32), key], MEMBERS)
        yield from tables.partitioned(members, (id >> np.uint64(32)).astype(np.int64))


class _Members:
    """Receives the buckets of a unit's documents, and writes them."""

    def __init__(self, folder: str):
        self._folder = folder

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        table = rows.sort_by([("number", "ascending"), ("key", "ascending")])
        tables.write(storage.join(self._folder, Unit(unit, 0, 0).file), MEMBERS, [table])
        yield from ()
