"""Parquet files. pyarrow is imported when one is opened."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.sources.files import Found
from tasks.sources.records.record_file import BUFFER, Damaged, Record, RecordLocation, SelectColumns, open_checked


class Parquet:
    """A shard is a row group. A record is a row; its size is the mean of the row group."""

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
        self._groups, first = [], 0
        for group in groups:
            self._groups.append((first, max(1, group.total_byte_size // max(1, group.num_rows))))
            first += group.num_rows

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, shard: int) -> Iterator[Record]:
        import pyarrow.parquet

        number, size = self._groups[shard]
        rows = -(-self._limit // size)
        with open_checked(self.file) as stream:
            try:
                # with these options, it does not read a complete column of the row group at once
                reader = pyarrow.parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
                for batch in reader.iter_batches(rows, row_groups=[shard], columns=self._columns):
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    for row in range(batch.num_rows):
                        number += 1
                        location = RecordLocation(self.file, number, separator="#")
                        yield Record(location, size, functools.partial(_row, columns, row, location))
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise Damaged(error, RecordLocation(self.file, number + 1, separator="#")) from None


def _row(columns: Mapping[str, Any], row: int, location: RecordLocation) -> Mapping[str, Any]:
    fields = {}
    for name, column in columns.items():
        scalar = column[row]
        try:
            fields[name] = scalar.as_py()
        except UnicodeDecodeError:
            if not hasattr(scalar, "as_buffer"):
                raise Damaged(f"{name} is not UTF-8", location) from None
            fields[name] = scalar.as_buffer().to_pybytes()  # the filter not_utf8 removes it
    return fields
