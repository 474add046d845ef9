"""Arrow files: the IPC stream format, which Hugging Face's save_to_disk writes, and the file format (Feather).

pyarrow is imported when one is read.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from codellama_jax.runtime import filesystem
from tasks.sources.files import Found
from tasks.sources.records import arrow_rows
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, SelectColumns, open_checked, unreadable

_FILE_FORMAT = b"ARROW1"


class ArrowIpc:
    """A record is a row; its size is that of its columns. One shard.

    A record batch of a remote file is read completely, as the format requires. Of a local file, which is mapped into
    memory, only the rows that are used are read.
    """

    def __init__(self, file: Found, select: SelectColumns):
        self.file, self._select = file, select

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        with self._open() as stream:
            yield from arrow_rows.records(self.file, self._batches(stream))

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow

        with open_checked(self.file) as checked:
            if filesystem.is_remote(self.file.location) or not self.file.size:  # an empty file cannot be mapped
                yield pyarrow.PythonFile(checked, "r")
                return
            checked.read(1)  # raises UserError if it cannot be read
            try:
                mapped = pyarrow.memory_map(self.file.location)
            except OSError as error:
                raise unreadable(self.file.location, error) from None
            with mapped:
                yield mapped

    def _batches(self, stream: Any) -> Iterator[Any]:
        """The record batches, with the selected columns. Raises Damaged if it is not an Arrow file."""
        import pyarrow

        try:
            is_file_format = stream.read(len(_FILE_FORMAT)) == _FILE_FORMAT
            stream.seek(0)
            reader = pyarrow.ipc.open_file(stream) if is_file_format else pyarrow.ipc.open_stream(stream)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise Damaged(f"it is not an Arrow file ({error})", RecordLocation(self.file)) from None
        columns = self._select(reader.schema.names, RecordLocation(self.file))
        if is_file_format:
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            yield batch.select(columns)
