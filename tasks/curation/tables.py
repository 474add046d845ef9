"""Tables of a build: the Parquet files that one step writes and the next reads, and the blocks that Beam exchanges.

A file belongs to a unit of the input or to a partition of keys, and is a function of it alone: its bytes do not depend
on which worker writes it, or on how often it is written.
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.curation import storage

pa.set_memory_pool(pa.system_memory_pool())  # the other pools keep freed memory

Blocks = Iterator[tuple[int, bytes]]  # (partition, block)

# Approximate size of a row group, the unit of reading and writing.
GROUP_BYTES = 1 << 20


def write(path: str, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes a Parquet file with one row group for each table that has rows."""
    with storage.open_output(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in groups:
            if group.num_rows:
                writer.write_table(group.cast(schema), row_group_size=group.num_rows)


def read(
    path: str, columns: Sequence[str] | None = None, wanted: Callable[[pq.RowGroupMetaData], bool] | None = None
) -> Iterator[pa.Table]:
    """Reads the row groups of a file one at a time; only those for which `wanted` is true, if it is given."""
    with storage.open_input(path) as file:
        reader = pq.ParquetFile(file, pre_buffer=False)
        for index in range(reader.num_row_groups):
            if wanted is None or wanted(reader.metadata.row_group(index)):
                yield reader.read_row_group(index, columns, use_threads=False)


def read_all(paths: Iterable[str], schema: pa.Schema) -> pa.Table:
    """All rows of the files that exist: a unit without rows has no file."""
    groups = (group for path in paths if storage.exists(path) for group in read(path, schema.names))
    return pa.concat_tables([schema.empty_table(), *groups])


def to_block(table: pa.Table) -> bytes:
    """Serializes a table."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue()


def concat_blocks(blocks: Iterable[bytes]) -> pa.Table:
    """The rows of several blocks, in the order in which the blocks arrive. The caller sorts them."""
    return pa.concat_tables([pa.ipc.open_stream(block).read_all() for block in blocks]).combine_chunks()


def partition_blocks(table: pa.Table, partitions: np.ndarray, selected: range | None = None) -> Blocks:
    """One block for each partition that has rows.

    Args:
        partitions: the partition of each row, integers [rows].
        selected: the partitions to emit; None emits all.
    """
    order = np.argsort(partitions, kind="stable")
    starts = group_starts(partitions[order])
    numbers = partitions[order[starts]].tolist()
    for number, (start, end) in zip(numbers, spans(starts, len(order)), strict=True):
        if selected is None or number in selected:
            yield number, to_block(table.take(pa.array(order[start:end])))


def to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """A column of integers or booleans without nulls."""
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def leading_uint64(column: pa.ChunkedArray) -> np.ndarray:
    """The first eight bytes of each value of a column of fixed-size binary, as big-endian uint64."""
    array = column.combine_chunks()
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    return data.reshape(len(array), width)[:, :8].copy().view(">u8").ravel().astype(np.uint64)


def hash_partition(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """The partition of each hash, where partitions are equal ranges of uint64. At most 2**31 partitions."""
    return ((hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def group_starts(*columns: np.ndarray) -> np.ndarray:
    """The indices at which a new group of equal rows starts, in columns that are sorted together."""
    if not len(columns[0]):
        return np.zeros(0, np.int64)
    changed = functools.reduce(np.logical_or, (column[1:] != column[:-1] for column in columns))
    return np.flatnonzero(np.append(True, changed))


def spans(starts: np.ndarray, count: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each group, given where groups start and the number of rows; nothing if there are no rows."""
    begins = starts.tolist()
    yield from itertools.pairwise([*begins, count] if begins else [])


def split_by_bytes(table: pa.Table, size_column: str) -> Iterator[pa.Table]:
    """Consecutive rows of about GROUP_BYTES. `size_column` holds the number of bytes of each row."""
    ends = np.cumsum(to_numpy(table[size_column]), dtype=np.int64)
    numbers = (ends - 1) // GROUP_BYTES if len(ends) else ends
    for start, end in spans(group_starts(numbers), table.num_rows):
        yield table.slice(start, end - start)
