"""The rule that decides which of several duplicates is kept.

It keeps the first in this order: documents with a known licence before those without; fewer folders in the path (copies
of other people's code are nested deeper); the path in lexicographic order; the position in the source. The last matters
only if a path occurs twice.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation import removals, tables
from tasks.curation.counters import Counters, histogram_bin
from tasks.curation.engine import Result
from tasks.curation.units import document_ids, number_in_unit, unit_of

_ORDER = [("unlicensed", pa.bool_()), ("depth", pa.uint32()), ("path", pa.string()), ("id", pa.uint64())]
_COUNTED = [("tokens", pa.uint32()), ("bytes", pa.uint32()), ("language", pa.string())]
COLUMNS = (
    "number",
    "path",
    "licence",
    "tokens",
    "bytes",
    "language",
)  # the columns of a document that a candidate is made from


def candidates(documents: pa.Table, unit: int, groups: pa.Array) -> pa.Table:
    """The documents with the columns that the rule compares. `groups` has the key of each document's group."""
    schema = pa.schema([("group", groups.type), *_ORDER, *_COUNTED])
    columns = {
        "group": groups,
        "unlicensed": pc.equal(documents["licence"], ""),
        "depth": pc.count_substring(documents["path"], "/"),
        "path": documents["path"],
        "id": document_ids(documents["number"], unit),
        **{name: documents[name] for name, _ in _COUNTED},
    }
    return pa.table(columns).cast(schema)


def select_kept(table: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Sorts candidates by group and rule. Returns them, and for each the index of its group's kept document."""
    order = [("group", "ascending"), *((name, "ascending") for name, _ in _ORDER)]
    table = table.sort_by(order).combine_chunks()
    groups = table["group"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    starts = tables.group_starts(groups)
    sizes = np.diff(np.append(starts, len(groups)))
    return table, np.repeat(starts, sizes)


def remove_duplicates(table: pa.Table, reason: str) -> Iterator[Result]:
    """Yields the candidates that are not kept, as rows of their units' tables of removals, and the counters."""
    table, kept_index = select_kept(table)
    removed_index = np.flatnonzero(kept_index != np.arange(len(kept_index)))
    counters = Counters()
    _, sizes = np.unique(kept_index, return_counts=True)
    for size in sizes[sizes > 1].tolist():
        counters.add(f"clusters/{reason}/{histogram_bin(size)}")
    if len(removed_index):
        removed = table.take(pa.array(removed_index))
        removals.count_removed(counters, removed, reason)
        ids = tables.to_numpy(removed["id"])
        kept = table.take(pa.array(kept_index[removed_index]))
        columns = (ids.tolist(), tables.to_numpy(kept["id"]).tolist())
        paths = (removed["path"].to_pylist(), kept["path"].to_pylist())
        for id, kept_id, path, kept_path in zip(*columns, *paths, strict=True):
            key = removals.sample_key(f"{id} {kept_id}")
            counters.add_sample(f"pairs/{reason}", key, [id, kept_id, path, kept_path])
        rows = pa.table([pa.array(number_in_unit(ids)), kept["id"], kept["path"]], removals.SCHEMA)
        yield from tables.partition_blocks(rows, unit_of(ids))
    yield counters
