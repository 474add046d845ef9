"""The shards, each the documents of an equal share of the range of the global order."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, added
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit
from tasks.curation.write import shuffle_split, tfrecord
from tasks.curation.write.repositories import ordered
from tasks.sources.base import Document
from tasks.sources.documents import grouped

NAME = "shards"
KINDS = ("text", "path", "language", "repository", "licence", "tokens")  # the features of a record


def run(job: Ledger, folder: str) -> Counters:
    """Writes them into the build's folder."""
    counts = job.tallies["arrange"].counts
    numbers = {split: -(-counts[f"bytes/{split}"] // job.settings.shard_bytes) for split in ("train", "validation")}
    size, total = counts["bytes/train"] + counts["bytes/validation"], sum(numbers.values())
    tallies = []
    for number, only in enumerate(job.engine.slices(total, size)):
        work = _Places(job.folder(shuffle_split.NAME), numbers, only)
        write = _Write(job.out, numbers, job.settings)
        tallies.append(
            job.engine.run(f"shards-{number}", folder, job.units, work, write, size=job.engine.of_pass(size))
        )
    return added(tallies)


class _Places:
    """Work: the documents of a unit, by the number of their shard; those of validation come after those of train."""

    def __init__(self, documents: str, numbers: dict[str, int], only: range):
        self._documents, self._numbers, self._only = documents, numbers, only

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for table in tables.read(storage.join(self._documents, unit.file), wanted=self._wanted):
            shards = self._shards(tables.integers(table["validation"]), tables.integers(table["order"]))
            yield from tables.partitioned(table.drop_columns(["validation"]), shards, self._only)

    def _wanted(self, group: pq.RowGroupMetaData) -> bool:
        validation, order = (group.column(index).statistics for index in range(2))
        ends = self._shards(np.array([validation.min, validation.max]), np.array([order.min, order.max], np.uint64))
        return ends[0] < self._only.stop and ends[1] >= self._only.start

    def _shards(self, validation: np.ndarray, order: np.ndarray) -> np.ndarray:
        train = self._numbers["train"]
        of_validation = train + tables.share(order, max(1, self._numbers["validation"]))
        return np.where(validation, of_validation, tables.share(order, max(1, train)))


class _Write:
    """Receives the documents of a shard, and writes it."""

    def __init__(self, out: str, numbers: dict[str, int], settings: Build):
        self._out, self._numbers, self._settings = out, numbers, settings

    def __call__(self, shard: int, table: pa.Table) -> Iterator[Result]:
        train = self._numbers["train"]
        split, index = ("train", shard) if shard < train else ("validation", shard - train)
        name = f"{split}-{index:05d}-of-{self._numbers[split]:05d}.tfrecord"
        table = table.sort_by([(column, "ascending") for column in ("order", "repository", "key", "path")])
        written: Counter[str] = Counter()

        def examples() -> Iterator[bytes]:
            for row in self._rows(table):
                written["documents"] += 1
                written["tokens"] += row["tokens"]
                yield tfrecord.example(row)

        with storage.writing(storage.join(self._out, name), lasting=True) as file:
            size, digest = tfrecord.write(file, examples())
        entry = {"name": name, "split": split, "documents": written["documents"], "tokens": written["tokens"]}
        tally = Counters()
        tally.row("shards", shard, entry | {"bytes": size, "sha256": digest})
        yield tally

    def _rows(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        rows = (row for batch in table.select(KINDS).to_batches(max_chunksize=256) for row in batch.to_pylist())
        if not self._settings.group_by_repository:
            yield from rows
            return
        for repository, group in itertools.groupby(rows, lambda row: row["repository"]):
            members = list(group)
            yield from _grouped(members, self._settings.repository_bytes) if repository else members


def _grouped(rows: list[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    """The files of a repository as documents of at most about `limit` bytes, each file after those that it imports.

    The tokens are those of the files, without the lines between them.
    """
    by_path = {row["path"]: row for row in rows}
    same = [row for row in rows if by_path[row["path"]] is not row]  # of a path that is there twice
    files = [by_path[path] for path in ordered({path: row["text"] for path, row in by_path.items()})] + same
    ends = itertools.accumulate(len(row["text"].encode()) for row in files)
    parts = itertools.groupby(zip(files, ends, strict=True), lambda entry: (entry[1] - 1) // limit)
    for _, entries in parts:
        part = [row for row, _ in entries]
        documents = [Document(**{name: row[name] for name in KINDS[:-1]}) for row in part]
        (document,) = grouped(documents)
        yield {name: getattr(document, name) for name in KINDS[:-1]} | {"tokens": sum(row["tokens"] for row in part)}
