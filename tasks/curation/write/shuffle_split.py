"""Step 9: assigns the remaining documents to train or validation, and orders each unit by the global shuffle.

The position in the shuffle is a hash of the seed and the content, so it is random and does not depend on the source's
order; with group_by_repository it is a hash of the seed and the repository. The split is decided by a hash of the
repository, or of the path if there is no repository.

Output: for each unit, its documents in that order; and in OUT/left-out, the documents that any step removed, with the
reason.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, histogram_bin
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.removals import Removals, removed_documents
from tasks.curation.units import Unit
from tasks.sources.splits import hash_fraction

NAME = "arrange"
SCHEMA = pa.schema(
    [
        pa.field("validation", pa.bool_(), False),
        pa.field("order", pa.uint64(), False),
        *(field for field in read.SCHEMA if field.name != "number"),
    ]
)
LEFT_OUT = "left-out"  # folder with the lists of removed documents
SORT_BYTES = 32 << 20  # bytes of text that are sorted at once; at most an eighth of Build.memory


def run(ledger: Ledger, folder: str, removals: Removals) -> Counters:
    """Splits and orders all units, without the documents that earlier steps removed."""
    size = ledger.counters[read.NAME].counts["bytes/read"]
    mapper = _ShuffleAndSplit(
        ledger.folder(read.NAME),
        removals,
        folder,
        storage.join(ledger.out, LEFT_OUT),
        ledger.settings,
        passes=ledger.engine.pass_count(size),
    )
    counters = ledger.engine.run("arrange", folder, ledger.units, mapper, size=size)
    if (share := _usable_share(counters, ledger.settings)) != ledger.settings.validation_share:
        mapper.settings = dataclasses.replace(ledger.settings, validation_share=share)
        counters = ledger.engine.run("arrange-again", folder, ledger.units, mapper, size=size)
    return counters


def _usable_share(counters: Counters, settings: Build) -> float:
    """The validation share, adjusted if it would leave a split without documents."""
    lowest, highest = ([key for key, _ in counters.samples.get(name, [])] for name in ("lowest", "highest"))
    if not settings.validation_share or not lowest or lowest[0] == -highest[0]:
        return 0.0
    if not counters.counts["documents/validation"]:
        return float(np.nextafter(lowest[0], 1.0))
    if not counters.counts["documents/train"]:
        return -highest[0]
    return settings.validation_share


class _ShuffleAndSplit:
    """Mapper: writes the files of a unit, and yields its counters."""

    def __init__(self, documents: str, removals: Removals, folder: str, left_out: str, settings: Build, *, passes: int):
        self._documents, self._removals, self._folder, self._left_out = documents, removals, folder, left_out
        self.settings, self._passes = settings, passes

    def __call__(self, unit: Unit) -> Iterator[Result]:
        counters = Counters()
        removed = removed_documents(self._removals, unit)
        tables.write(storage.join(self._folder, unit.file), SCHEMA, self._groups(unit, removed, counters))
        tables.write(storage.join(self._left_out, unit.file), read.LEFT_OUT, self._removed_rows(unit, removed))
        yield counters

    def _removed_rows(self, unit: Unit, removed: dict[int, tuple[str, str]]) -> Iterator[pa.Table]:
        yield from tables.read(storage.join(self._documents, f"left-out-{unit.file}"))
        for group in tables.read(storage.join(self._documents, unit.file), ["number", "path"]):
            pairs = zip(group["number"].to_pylist(), group["path"].to_pylist(), strict=True)
            rows = [(path, *removed[number]) for number, path in pairs if number in removed]
            columns = zip(*rows, strict=True) if rows else ((), (), ())
            yield pa.table([pa.array(column, pa.string()) for column in columns], read.LEFT_OUT)

    def _groups(self, unit: Unit, removed: dict[int, tuple[str, str]], counters: Counters) -> Iterator[pa.Table]:
        unsorted: list[pa.Table] = []
        size = 0
        for group in tables.read(storage.join(self._documents, unit.file)):
            numbers = group["number"].to_pylist()
            group = group.filter(pa.array([number not in removed for number in numbers], pa.bool_()))
            unsorted.append(self._assign(group, counters))
            size += group.nbytes
            if size >= min(SORT_BYTES, self.settings.memory // 8):
                yield from self._sort(unsorted)
                unsorted, size = [], 0
        if unsorted:
            yield from self._sort(unsorted)

    def _assign(self, group: pa.Table, counters: Counters) -> pa.Table:
        """Adds the split and the position in the shuffle."""
        columns = [group[name].to_pylist() for name in ("repository", "path", "key", "tokens", "bytes", "language")]
        validation, order = [], []
        for repository, path, key, tokens, size, language in zip(*columns, strict=True):
            owner = repository or path
            share = hash_fraction(owner, "split")
            counters.add_sample("lowest", share, None)
            counters.add_sample("highest", -share, None)
            validation.append(share < self.settings.validation_share)
            content = owner.encode() if self.settings.group_by_repository else key
            order.append(_shuffle_key(content, self.settings.seed))
            counters.add_document("validation" if validation[-1] else "train", language, tokens, size)
            counters.add(f"length/kept/{histogram_bin(tokens)}")
        table = group.drop_columns(["number"]).append_column("validation", pa.array(validation, pa.bool_()))
        return table.append_column("order", pa.array(order, pa.uint64())).select(SCHEMA.names)

    def _sort(self, groups: list[pa.Table]) -> Iterator[pa.Table]:
        """Sorts by split and order.

        A row group ends where a pass of the next step may begin, so that a pass reads only the groups that it needs.
        """
        table = pa.concat_tables(groups).sort_by([(name, "ascending") for name in ("validation", "order", "key")])
        passes = tables.hash_partition(tables.to_numpy(table["order"]), self._passes)
        starts = tables.group_starts(tables.to_numpy(table["validation"]), passes)
        for start, end in tables.spans(starts, len(table)):
            yield from tables.split_by_bytes(table.slice(start, end - start), "bytes")


def _shuffle_key(content: bytes, seed: int) -> int:
    digest = hashlib.blake2b(content, digest_size=8, key=seed.to_bytes(16, "big"), person=b"order").digest()
    return int.from_bytes(digest, "big")
