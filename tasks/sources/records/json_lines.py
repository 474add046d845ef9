"""JSON lines: plain, or compressed with gzip or Zstandard. pyarrow is imported for Zstandard only."""

import codecs
import functools
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from tasks.sources.files import Found
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, open_checked

# A failed read discards what it has decompressed before the damage. Small reads are as fast as larger ones here.
ZSTANDARD_READ = 1 << 10
_BLANK = b" \t\r\n" + codecs.BOM_UTF8


class JsonLines:
    """Plain JSON lines. A shard is a range of `limit` bytes, and consists of the lines that begin in it."""

    def __init__(self, file: Found, limit: int):
        self.file, self._limit = file, limit

    def __len__(self) -> int:
        return -(-self.file.size // self._limit)

    def read(self, shard: int) -> Iterator[Record]:
        offset = shard * self._limit
        end = min(offset + self._limit, self.file.size)
        with open_checked(self.file) as stream:
            if shard:
                stream.seek(offset - 1)
                before = stream.readline(self._limit + 1)  # no further than the end, however long the line is
                if not before.endswith(b"\n"):
                    return
                offset += len(before) - 1
            number = 0
            while offset < end and (line := stream.readline()):
                number += 1
                if line.strip(_BLANK):
                    location = RecordLocation(self.file, None if shard else number, offset)
                    yield Record(location, len(line), functools.partial(_object, line, location))
                offset += len(line)


class CompressedJsonLines:
    """JSON lines in gzip or Zstandard: one shard, since the file can only be read from its start."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        number = 0
        try:
            with open_checked(self.file) as compressed, self._decompressed(compressed) as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip(_BLANK):
                        location = RecordLocation(self.file, number)
                        yield Record(location, len(line), functools.partial(_object, line, location))
        except (OSError, EOFError, ValueError, zlib.error) as error:  # of the decoder; open_checked raises UserError
            raise Damaged(error, RecordLocation(self.file, number + 1)) from None

    def _decompressed(self, compressed: BinaryIO) -> Any:
        if self.file.location.lower().endswith(".gz"):
            return gzip.GzipFile(fileobj=compressed)
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(compressed, "r"), "zstd")
        return io.BufferedReader(stream, ZSTANDARD_READ)


def _object(line: bytes, location: RecordLocation) -> Mapping[str, Any]:
    """The fields of a line of JSON. A byte order mark before it is accepted."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Damaged("the line is not UTF-8", location) from None
    except (ValueError, RecursionError) as error:
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = f"the line is not JSON ({getattr(error, 'msg', error)}{column}); a record must be one line"
        raise Damaged(reason, location) from None
    if isinstance(fields, list):
        raise Damaged("the line is a JSON array; write one object a line", location)
    if not isinstance(fields, dict):
        raise Damaged("the line is not a JSON object", location)
    return fields
