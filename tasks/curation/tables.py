"""Tables of a build: Parquet files that steps hand on, and blocks that documents exchange through Beam.

A file belongs to a unit of the input or to a partition of keys, and is a function of it alone: whichever worker writes
it, and however often, its bytes are the same.
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.curation import storage

pa.set_memory_pool(pa.system_memory_pool())  # others keep what was freed

Partitioned = Iterator[tuple[int, bytes]]  # (partition, block)

# Rows of a file, read and written at once: of about so many bytes.
GROUP_BYTES = 1 << 20


def write(path: str, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes a Parquet file with a row group for each table that has rows."""
    with storage.open_output(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in groups:
            if group.num_rows:
                writer.write_table(group.cast(schema), row_group_size=group.num_rows)


def read(
    path: str, columns: Sequence[str] | None = None, wanted: Callable[[pq.RowGroupMetaData], bool] | None = None
) -> Iterator[pa.Table]:
    """The row groups of a file, one after the other; those that `wanted` takes."""
    with storage.open_input(path) as file:
        reader = pq.ParquetFile(file, pre_buffer=False)
        for index in range(reader.num_row_groups):
            if wanted is None or wanted(reader.metadata.row_group(index)):
                yield reader.read_row_group(index, columns, use_threads=False)


def whole(paths: Iterable[str], schema: pa.Schema) -> pa.Table:
    """All rows of some files, of those that are there: where nothing came for a unit, nothing was written."""
    groups = (group for path in paths if storage.exists(path) for group in read(path, schema.names))
    return pa.concat_tables([schema.empty_table(), *groups])


def block(table: pa.Table) -> bytes:
    """A table as bytes, to travel."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def joined(blocks: Iterable[bytes]) -> pa.Table:
    """The rows of blocks, in the order that they come in: sort them."""
    return pa.concat_tables([pa.ipc.open_stream(block).read_all() for block in blocks]).combine_chunks()


def partitioned(table: pa.Table, partitions: np.ndarray, only: range | None = None) -> Partitioned:
    """A block for each partition that has rows: partitions[i] is that of row i. `only` takes some partitions."""
    order = np.argsort(partitions, kind="stable")
    starts = starts_of(partitions[order])
    numbers = partitions[order[starts]].tolist()
    for number, (start, end) in zip(numbers, spans(starts, len(order)), strict=True):
        if only is None or number in only:
            yield number, block(table.take(pa.array(order[start:end])))


def integers(column: pa.ChunkedArray) -> np.ndarray:
    """A column of integers or booleans without nulls."""
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def prefixes(column: pa.ChunkedArray) -> np.ndarray:
    """The first eight bytes of each value of a column of fixed-size binary, as uint64, the first byte the highest."""
    array = column.combine_chunks()
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    return data.reshape(len(array), width)[:, :8].copy().view(">u8").ravel().astype(np.uint64)


def share(hashes: np.ndarray, parts: int) -> np.ndarray:
    """Which of equal parts of the range of uint64 each is in; parts below 2**31."""
    return ((hashes >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def hashed(numbers: np.ndarray) -> np.ndarray:
    """uint64 that are spread over the whole range, a bijection (the finaliser of SplitMix64)."""
    value = numbers.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))


def starts_of(*columns: np.ndarray) -> np.ndarray:
    """Indices at which a new group of equal rows begins, in columns that are sorted together."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    changed = functools.reduce(np.logical_or, (column[1:] != column[:-1] for column in columns))
    return np.flatnonzero(np.append(True, changed))


def spans(starts: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the groups that begin there, of so many rows; none of no rows."""
    begins = starts.tolist()
    yield from itertools.pairwise([*begins, count] if begins else [])


def cut(table: pa.Table, sizes: str) -> Iterator[pa.Table]:
    """Consecutive rows of about GROUP_BYTES, by the column that tells how many bytes each has."""
    ends = np.cumsum(integers(table[sizes]), dtype=np.int64)
    numbers = (ends - 1) // GROUP_BYTES if len(ends) else ends
    for start, end in spans(starts_of(numbers), table.num_rows):
        yield table.slice(start, end - start)
