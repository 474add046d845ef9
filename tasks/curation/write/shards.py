"""Step 10: writes the shards. Each holds the documents of an equal range of the global order."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, merge
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.units import Unit
from tasks.curation.write import shuffle_split, tfrecord
from tasks.curation.write.repositories import import_order
from tasks.sources.base import Document
from tasks.sources.documents import grouped

NAME = "shards"
FEATURES = ("text", "path", "language", "repository", "licence", "tokens")  # the features of a record


def run(ledger: Ledger, folder: str) -> Counters:
    """Writes the shards into the output folder."""
    counts = ledger.counters[shuffle_split.NAME].counts
    shard_counts = {
        split: -(-counts[f"bytes/{split}"] // ledger.settings.shard_bytes) for split in ("train", "validation")
    }
    size, total = counts["bytes/train"] + counts["bytes/validation"], sum(shard_counts.values())
    writer, pass_size = _WriteShard(ledger.out, shard_counts, ledger.settings), ledger.engine.pass_size(size)
    counters = []
    for number, selected in enumerate(ledger.engine.passes(total, size)):
        mapper = _ByShard(ledger.folder(shuffle_split.NAME), shard_counts, selected)
        counters.append(ledger.engine.run(f"shards-{number}", folder, ledger.units, mapper, writer, size=pass_size))
    return merge(counters)


class _ByShard:
    """Mapper: emits the documents of a unit, partitioned by shard. The validation shards follow the train shards."""

    def __init__(self, documents: str, shard_counts: dict[str, int], selected: range):
        self._documents, self._shard_counts, self._selected = documents, shard_counts, selected

    def __call__(self, unit: Unit) -> Iterator[Result]:
        for table in tables.read(storage.join(self._documents, unit.file), wanted=self._wanted):
            shards = self._shards(tables.to_numpy(table["validation"]), tables.to_numpy(table["order"]))
            yield from tables.partition_blocks(table.drop_columns(["validation"]), shards, self._selected)

    def _wanted(self, group: pq.RowGroupMetaData) -> bool:
        validation, order = (group.column(index).statistics for index in range(2))
        ends = self._shards(np.array([validation.min, validation.max]), np.array([order.min, order.max], np.uint64))
        return ends[0] < self._selected.stop and ends[1] >= self._selected.start

    def _shards(self, validation: np.ndarray, order: np.ndarray) -> np.ndarray:
        train_shards = self._shard_counts["train"]
        in_validation = train_shards + tables.hash_partition(order, max(1, self._shard_counts["validation"]))
        return np.where(validation, in_validation, tables.hash_partition(order, max(1, train_shards)))


class _WriteShard:
    """Reducer: writes a shard."""

    def __init__(self, out: str, shard_counts: dict[str, int], settings: Build):
        self._out, self._shard_counts, self._settings = out, shard_counts, settings

    def __call__(self, shard: int, table: pa.Table) -> Iterator[Result]:
        train_shards = self._shard_counts["train"]
        split, index = ("train", shard) if shard < train_shards else ("validation", shard - train_shards)
        name = f"{split}-{index:05d}-of-{self._shard_counts[split]:05d}.tfrecord"
        table = table.sort_by([(column, "ascending") for column in ("order", "repository", "key", "path")])
        written: Counter[str] = Counter()
        with storage.open_output(storage.join(self._out, name), durable=True) as file:
            size, digest = tfrecord.write(file, self._examples(table, written))
        entry = {"name": name, "split": split, "documents": written["documents"], "tokens": written["tokens"]}
        counters = Counters()
        counters.add_row("shards", shard, entry | {"bytes": size, "sha256": digest})
        yield counters

    def _examples(self, table: pa.Table, written: Counter[str]) -> Iterator[bytes]:
        for row in self._rows(table):
            written["documents"] += 1
            written["tokens"] += row["tokens"]
            yield tfrecord.example(row)

    def _rows(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        rows = (row for batch in table.select(FEATURES).to_batches(max_chunksize=256) for row in batch.to_pylist())
        if not self._settings.group_by_repository:
            yield from rows
            return
        for repository, group in itertools.groupby(rows, lambda row: row["repository"]):
            members = list(group)
            yield from _concatenate(members, self._settings.repository_bytes) if repository else members


def _concatenate(rows: list[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    """The files of a repository as documents of at most about `limit` bytes, each file after those that it imports.

    The number of tokens is the sum over the files; it does not include the lines inserted between them.
    """
    by_path = {row["path"]: row for row in rows}
    repeated = [row for row in rows if by_path[row["path"]] is not row]  # a path may occur more than once
    files = [by_path[path] for path in import_order({path: row["text"] for path, row in by_path.items()})] + repeated
    ends = itertools.accumulate(len(row["text"].encode()) for row in files)
    parts = itertools.groupby(zip(files, ends, strict=True), lambda entry: (entry[1] - 1) // limit)
    for _, entries in parts:
        part = [row for row, _ in entries]
        documents = [Document(**{name: row[name] for name in FEATURES[:-1]}) for row in part]
        (document,) = grouped(documents)
        fields = {name: getattr(document, name) for name in FEATURES[:-1]}
        yield fields | {"tokens": sum(row["tokens"] for row in part)}
