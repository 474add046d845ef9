"""What is left, given its side of the split and its place in the global order.

The place is a hash of seed and content, so that the order is random and the same wherever a document stands; with
group_by_repository, a hash of seed and repository. The side is a hash of the repository, or of the path where none is
known. Out: for each unit its documents in that order; and OUT/left-out, what any step left out, and why.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters, bucket
from tasks.curation.dedup import keep_rule
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit
from tasks.sources.splits import hash_fraction

NAME = "arrange"
SCHEMA = pa.schema(
    [
        pa.field("validation", pa.bool_(), False),
        pa.field("order", pa.uint64(), False),
        *(field for field in read.SCHEMA if field.name != "number"),
    ]
)
LEFT_OUT = "left-out"  # folder of the lists
RUN = 32 << 20  # bytes of text that are sorted at once, where Build.memory is enough for eight times that


def run(job: Ledger, folder: str, removals: keep_rule.Removals) -> Counters:
    """Arranges all units, without what the steps before leave out."""
    size = job.tallies["read"].counts["bytes/read"]
    work = Arrange(
        job.folder(read.NAME),
        removals,
        folder,
        storage.join(job.out, LEFT_OUT),
        job.settings,
        runs=job.engine.passes(size),
    )
    tally = job.engine.run("arrange", folder, job.units, work, size=size)
    if (share := _usable_share(tally, job.settings)) != job.settings.validation_share:
        work.settings = dataclasses.replace(job.settings, validation_share=share)
        tally = job.engine.run("arrange-again", folder, job.units, work, size=size)
    return tally


def _usable_share(tally: Counters, settings: Build) -> float:
    """The share for validation, or where that leaves a side of the split empty one that does not."""
    lowest, highest = ([key for key, _ in tally.samples.get(name, [])] for name in ("lowest", "highest"))
    if not settings.validation_share or not lowest or lowest[0] == -highest[0]:
        return 0.0
    if not tally.counts["documents/validation"]:
        return float(np.nextafter(lowest[0], 1.0))
    if not tally.counts["documents/train"]:
        return -highest[0]
    return settings.validation_share


class Arrange:
    """Work: a unit in, its files and counts out."""

    def __init__(
        self, documents: str, removals: keep_rule.Removals, folder: str, left_out: str, settings: Build, runs: int
    ):
        self._documents, self._removals, self._folder, self._left_out = documents, removals, folder, left_out
        self.settings, self._runs = settings, runs

    def __call__(self, unit: Unit) -> Iterator[Result]:
        tally = Counters()
        removed = keep_rule.removed(self._removals, unit)
        tables.write(storage.join(self._folder, unit.file), SCHEMA, self._groups(unit, removed, tally))
        tables.write(storage.join(self._left_out, unit.file), read.LEFT_OUT, self._lists(unit, removed))
        yield tally

    def _lists(self, unit: Unit, removed: dict[int, tuple[str, str]]) -> Iterator[pa.Table]:
        yield from tables.read(storage.join(self._documents, f"left-out-{unit.file}"))
        for group in tables.read(storage.join(self._documents, unit.file), ["number", "path"]):
            pairs = zip(group["number"].to_pylist(), group["path"].to_pylist(), strict=True)
            rows = [(path, *removed[number]) for number, path in pairs if number in removed]
            columns = zip(*rows, strict=True) if rows else ((), (), ())
            yield pa.table([pa.array(column, pa.string()) for column in columns], read.LEFT_OUT)

    def _groups(self, unit: Unit, removed: dict[int, tuple[str, str]], tally: Counters) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        size = 0
        for group in tables.read(storage.join(self._documents, unit.file)):
            numbers = group["number"].to_pylist()
            group = group.filter(pa.array([number not in removed for number in numbers], pa.bool_()))
            waiting.append(self._placed(group, tally))
            size += group.nbytes
            if size >= min(RUN, self.settings.memory // 8):
                yield from self._sorted(waiting)
                waiting, size = [], 0
        if waiting:
            yield from self._sorted(waiting)

    def _placed(self, group: pa.Table, tally: Counters) -> pa.Table:
        columns = [group[name].to_pylist() for name in ("repository", "path", "key", "tokens", "bytes", "language")]
        validation, order = [], []
        for repository, path, key, tokens, size, language in zip(*columns, strict=True):
            side = repository or path
            share = hash_fraction(side, "split")
            tally.sample("lowest", share, None)
            tally.sample("highest", -share, None)
            validation.append(share < self.settings.validation_share)
            what = side.encode() if self.settings.group_by_repository else key
            order.append(_hash(what, self.settings.seed))
            split = "validation" if validation[-1] else "train"
            for name, count in (("documents", 1), ("tokens", tokens), ("bytes", size)):
                tally.count(f"{name}/{split}", count)
                tally.count(f"{name}/{split}/{language or keep_rule.UNKNOWN}", count)
            tally.count(f"length/kept/{bucket(tokens)}")
        table = group.drop_columns(["number"]).append_column("validation", pa.array(validation, pa.bool_()))
        return table.append_column("order", pa.array(order, pa.uint64())).select(SCHEMA.names)

    def _sorted(self, tables_: list[pa.Table]) -> Iterator[pa.Table]:
        """In order, cut where a pass of the next step may begin: a pass reads what it needs."""
        table = pa.concat_tables(tables_).sort_by([(name, "ascending") for name in ("validation", "order", "key")])
        parts = tables.share(tables.integers(table["order"]), self._runs)
        starts = tables.starts_of(tables.integers(table["validation"]), parts)
        for start, end in tables.spans(starts, len(table)):
            yield from tables.cut(table.slice(start, end - start), "bytes")


def _hash(what: bytes, seed: int) -> int:
    digest = hashlib.blake2b(what, digest_size=8, key=seed.to_bytes(16, "big"), person=b"order").digest()
    return int.from_bytes(digest, "big")
