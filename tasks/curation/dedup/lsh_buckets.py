"""Step 4: finds documents that share an LSH bucket with another one. Only ids and keys are exchanged.

Output: for each unit, these documents with their buckets. A bucket of more than MAX_BUCKET documents is split into
parts that all contain its first document, to bound the memory of a reducer. All documents are still compared with the
first one, and other bands split them differently.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, histogram_bin, merge
from tasks.curation.dedup import signatures
from tasks.curation.dedup.minhash import bands_and_rows
from tasks.curation.dedup.remove_exact import PARTITION_BYTES
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.splitmix64 import mix
from tasks.curation.units import Unit, document_ids, number_in_unit, unit_file, unit_of

NAME = "buckets"
MAX_BUCKET = 4096
KEYS = pa.schema([pa.field("key", pa.uint64(), False), pa.field("id", pa.uint64(), False)])
MEMBERS = pa.schema([pa.field("number", pa.uint32(), False), pa.field("key", pa.uint64(), False)])


def run(ledger: Ledger, folder: str) -> Counters:
    """Groups the documents by the keys of all bands."""
    bands, rows = bands_and_rows(ledger.settings.threshold, ledger.settings.permutations)
    size = 16 * bands * ledger.counters[signatures.NAME].counts["documents/signed"]
    partitions = ledger.engine.partition_count(size, PARTITION_BYTES)
    counters = [Counters()]
    counters[0].add("bands", bands)
    counters[0].add("rows", rows)
    for number, selected in enumerate(ledger.engine.passes(partitions, size)):
        mapper = _BandKeys(ledger.folder(signatures.NAME), ledger.settings, partitions, selected)
        writer = _WriteMembers(storage.join(folder, f"pass-{number:03d}"))
        pass_size = ledger.engine.pass_size(size)
        counters.append(
            ledger.engine.run(f"buckets-{number}", folder, ledger.units, mapper, shared_buckets, writer, size=pass_size)
        )
    return merge(counters)


class _BandKeys:
    """Mapper: emits the keys of a unit's documents."""

    def __init__(self, folder: str, settings: Build, partitions: int, selected: range):
        self._folder, self._settings, self._partitions, self._selected = folder, settings, partitions, selected

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for group in tables.read(storage.join(self._folder, unit.file)):
            keys = signatures.buckets(signatures.matrix(group["signature"]), self._settings)
            ids = np.repeat(document_ids(group["number"], unit.number), keys.shape[1])
            table = pa.table([keys.ravel(), ids], KEYS)
            partitions = tables.hash_partition(keys.ravel(), self._partitions)
            yield from tables.partition_blocks(table, partitions, self._selected)


def shared_buckets(_: int, table: pa.Table) -> Iterator[Result]:
    """Reducer: emits the documents of buckets with more than one document, partitioned by unit."""
    keys, ids = tables.to_numpy(table["key"]), tables.to_numpy(table["id"])
    order = np.lexsort((ids, keys))
    keys, ids = keys[order], ids[order]
    starts = tables.group_starts(keys)
    sizes = np.diff(np.append(starts, len(keys)))
    counters = Counters()
    for size in sizes[sizes > 1].tolist():
        counters.add(f"buckets/{histogram_bin(size)}")
    shared = np.repeat(sizes > 1, sizes)
    index = np.arange(len(keys)) - np.repeat(starts, sizes)  # position of a document in its bucket
    parts = keys + mix((index // MAX_BUCKET).astype(np.uint64)) * (index >= MAX_BUCKET).astype(np.uint64)
    rows = [(parts[shared], ids[shared])]
    # the first document of a split bucket, for each part but the first
    for start, size in zip(starts[sizes > MAX_BUCKET].tolist(), sizes[sizes > MAX_BUCKET].tolist(), strict=True):
        other_parts = np.unique(parts[start : start + size])
        other_parts = other_parts[other_parts != keys[start]]
        rows.append((other_parts, np.full(len(other_parts), ids[start])))
    keys, ids = (np.concatenate(column) for column in zip(*rows, strict=True))
    counters.add("members", len(keys))
    yield counters
    if len(keys):
        members = pa.table([number_in_unit(ids), keys], MEMBERS)
        yield from tables.partition_blocks(members, unit_of(ids))


class _WriteMembers:
    """Reducer: writes the buckets of a unit's documents."""

    def __init__(self, folder: str):
        self._folder = folder

    def __call__(self, unit: int, rows: pa.Table) -> Iterator[Result]:
        table = rows.sort_by([("number", "ascending"), ("key", "ascending")])
        tables.write(storage.join(self._folder, unit_file(unit)), MEMBERS, [table])
        yield from ()
