"""JSON lines, plain or compressed."""

import codecs
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.sources.files import Found
from tasks.sources.records.compression import DECODING_ERRORS, open_decompressed
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, open_checked

_BLANK = b" \t\r\n" + codecs.BOM_UTF8
# A line end of the old Macintosh between two records. Inside a record, a brace never follows another one like this.
_CR = re.compile(rb"(?<=\})[ \t]*\r[ \t\r]*(?=\{)")


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
                for begin, record in _records(line):
                    number += 1
                    if record.strip(_BLANK):
                        location = RecordLocation(self.file, None if shard else number, offset + begin)
                        yield Record(location, len(record), functools.partial(_object, record, location))
                offset += len(line)


class CompressedJsonLines:
    """Compressed JSON lines: one shard, since the file can only be read from its start."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        number = 0
        try:
            with open_decompressed(self.file) as stream:
                for line in stream:
                    for _, record in _records(line):
                        number += 1
                        if record.strip(_BLANK):
                            location = RecordLocation(self.file, number)
                            yield Record(location, len(record), functools.partial(_object, record, location))
        except DECODING_ERRORS as error:
            raise Damaged(error, RecordLocation(self.file, number + 1)) from None


def _records(line: bytes) -> Iterator[tuple[int, bytes]]:
    """The records of a line with their offsets in it: one, unless the file has the line ends of the old Macintosh."""
    begin = 0
    if b"\r" in line[:-2]:
        for match in _CR.finditer(line):
            yield begin, line[begin : match.end()]
            begin = match.end()
    yield begin, line[begin:]


def _object(line: bytes, location: RecordLocation) -> Mapping[str, Any]:
    """The fields of a line of JSON. A byte order mark before it is accepted."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        is_utf_16 = line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        reason = "it is UTF-16: store it as UTF-8" if is_utf_16 else "the line is not UTF-8"
        raise Damaged(reason, location) from None
    except (ValueError, RecursionError) as error:
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = f"the line is not JSON ({getattr(error, 'msg', error)}{column})"
        raise Damaged(f"{reason}; a record must be one line, except in a .json file", location) from None
    if isinstance(fields, list):
        raise Damaged("the line is a JSON array; write one object a line, or name the file .json", location)
    if not isinstance(fields, dict):
        raise Damaged("the line is not a JSON object", location)
    return fields
