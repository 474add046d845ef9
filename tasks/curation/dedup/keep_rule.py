"""Which of several documents that are alike is kept.

The first by: a known licence before none; fewer folders in the path (copies of others' code lie deeper); the path in
the order of its characters; its place in the source. The last decides only where one path is there twice.
"""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation import storage, tables
from tasks.curation.counters import Counters, bucket
from tasks.curation.engine import Result
from tasks.curation.ledger import Unit

_ORDER = ("unlicensed", "depth", "path", "id")
_RANK = [("unlicensed", pa.bool_()), ("depth", pa.uint32()), ("path", pa.string()), ("id", pa.uint64())]
_SIZES = [("tokens", pa.uint32()), ("bytes", pa.uint32()), ("language", pa.string())]
COLUMNS = ("number", "path", "licence", "tokens", "bytes", "language")  # of a document that has to be known
# What is left out of a unit, and the id and path of what is kept in its stead.
UNKNOWN = "unknown"  # a language, in counts
VERDICTS = pa.schema(
    [
        pa.field("number", pa.uint32(), False),
        pa.field("kept", pa.uint64(), False),
        pa.field("kept_path", pa.string(), False),
    ]
)


Removals = dict[str, tuple[str, ...]]  # why documents are left out -> the folders of verdicts that say so


def removed(removals: Removals, unit: Unit) -> dict[int, tuple[str, str]]:
    """Number -> (why, in whose favour) of the unit's documents that are left out."""
    found: dict[int, tuple[str, str]] = {}
    for reason, folders in removals.items():
        table = tables.whole([storage.join(folder, unit.file) for folder in folders], VERDICTS)
        for number, path in zip(table["number"].to_pylist(), table["kept_path"].to_pylist(), strict=True):
            found.setdefault(number, (reason, path))
    return found


def spread(text: str) -> str:
    """A hash to draw samples by."""
    return blake2b(text.encode(), digest_size=8).hexdigest()


def candidates(documents: pa.Table, unit: int, group: pa.Array) -> pa.Table:
    """Documents with what decides among those of a group; `group` is a column of keys."""
    schema = pa.schema([("group", group.type), *_RANK, *_SIZES])
    columns = {
        "group": group,
        "unlicensed": pc.equal(documents["licence"], ""),
        "depth": pc.count_substring(documents["path"], "/"),
        "path": documents["path"],
        "id": ids(documents["number"], unit),
        **{name: documents[name] for name, _ in _SIZES},
    }
    return pa.table(columns).cast(schema)


def ids(numbers: pa.ChunkedArray, unit: int) -> np.ndarray:
    """The ids of documents of a unit: uint64 [documents]."""
    return tables.integers(numbers).astype(np.uint64) | np.uint64(unit << 32)


def chosen(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Candidates sorted by group and order, and the index of the first of the group of each."""
    table = table.sort_by([("group", "ascending"), *((name, "ascending") for name in _ORDER)]).combine_chunks()
    groups = table["group"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    starts = tables.starts_of(groups)
    sizes = np.diff(np.append(starts, len(groups)))
    return table, np.repeat(starts, sizes)


def verdicts(table: pa.Table, name: str) -> Iterator[Result]:
    """Who is left out, for the unit of each; and the counts of it under `name`."""
    table, first = chosen(table)
    lost = np.flatnonzero(first != np.arange(len(first)))
    tally = Counters()
    _, sizes = np.unique(first, return_counts=True)
    for size in sizes[sizes > 1].tolist():
        tally.count(f"clusters/{name}/{bucket(size)}")
    if len(lost):
        losers = table.take(pa.array(lost))
        count_left_out(tally, losers, name)
        id = tables.integers(losers["id"])
        kept = table.take(pa.array(first[lost]))
        pairs = zip(id.tolist(), tables.integers(kept["id"]).tolist(), losers["path"].to_pylist(), strict=True)
        for (left_out, in_favour, path), other in zip(pairs, kept["path"].to_pylist(), strict=True):
            tally.sample(f"pairs/{name}", spread(f"{left_out} {in_favour}"), [left_out, in_favour, path, other])
        numbers = pa.array((id & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        rows = pa.table([numbers, kept["id"], kept["path"]], VERDICTS)
        yield from tables.partitioned(rows, (id >> np.uint64(32)).astype(np.int64))
    yield tally


def count_left_out(tally: Counters, documents: pa.Table, name: str) -> None:
    """Adds documents that a step leaves out: "documents/left_out/NAME/LANGUAGE" and so on."""
    for language, tokens, size in zip(
        *(documents[c].to_pylist() for c in ("language", "tokens", "bytes")), strict=True
    ):
        for what, count in (("documents", 1), ("tokens", tokens), ("bytes", size)):
            tally.count(f"{what}/{name}", count)
            tally.count(f"{what}/{name}/{language or UNKNOWN}", count)
