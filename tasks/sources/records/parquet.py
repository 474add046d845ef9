"""Parquet files. pyarrow is imported when one is opened."""

from collections.abc import Iterator
from typing import Any

from tasks.sources.files import Found
from tasks.sources.records import arrow_rows
from tasks.sources.records.record_file import BUFFER, Damaged, Record, RecordLocation, SelectColumns, open_checked

MOST_ROWS = 64  # decoded at once; more is hardly faster, and longer rows may follow


class Parquet:
    """A shard is a row group. A record is a row; its size is that of its decoded columns.

    Rows are decoded in batches of at most `limit` bytes, as far as the rows before them predict their size. The sizes
    in the file's metadata cannot be used: a text that is stored once and repeated a thousand times counts once there.
    """

    layout = "decoded sizes"

    def __init__(self, file: Found, limit: int, select: SelectColumns):
        import pyarrow.parquet

        self.file, self._limit = file, limit
        with open_checked(file) as stream:
            try:
                footer = pyarrow.parquet.ParquetFile(stream)
                names = footer.schema_arrow.names
                groups = [footer.metadata.row_group(group) for group in range(footer.num_row_groups)]
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise Damaged(f"it is not a Parquet file ({error})", RecordLocation(file)) from None
        self._columns = select(names, RecordLocation(file))
        self._begins, first = [], 0
        for group in groups:
            self._begins.append(first)
            first += group.num_rows

    def __len__(self) -> int:
        return len(self._begins)

    def read(self, shard: int) -> Iterator[Record]:
        with open_checked(self.file) as stream:
            yield from arrow_rows.records(self.file, self._batches(stream, shard), self._begins[shard])

    def _batches(self, stream: Any, shard: int) -> Iterator[Any]:
        """The rows of a row group, in batches whose number of rows follows the sizes of those before, from one row."""
        import pyarrow.parquet

        # with these options, it does not read a complete column of the row group at once
        reader = pyarrow.parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
        for batch in reader.iter_batches(1, row_groups=[shard], columns=self._columns):
            yield batch
            largest = max(1, int(arrow_rows.row_sizes(batch).max(initial=1)))
            # read for each batch: the next one has this many rows
            reader.reader.set_batch_size(max(1, min(4 * batch.num_rows, self._limit // largest, MOST_ROWS)))
