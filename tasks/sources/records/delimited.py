"""CSV and TSV files with a header, plain or compressed (RFC 4180: quotes inside a quoted field are doubled)."""

import codecs
import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.sources.files import Found
from tasks.sources.records.compression import DECODING_ERRORS, open_decompressed
from tasks.sources.records.record_file import Damaged, Record, RecordLocation, SelectColumns

# The longest field, in characters. It bounds the memory if a quote is not closed. (The default of csv is 131,072.)
LONGEST_FIELD = 1 << 26

_SEPARATOR = re.compile(r'"?sep=([^\r\n"])"?[\r\n]+')
_UTF_16 = tuple(mark.decode("utf-8", "surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


class Delimited:
    """A record is a row; its fields are texts. One shard, since a field may contain line ends.

    The separator is a tab in .tsv files. In .csv files it is the one that a line "sep=;" before the header names, as
    Excel writes it; or a comma; or else the semicolon or tab that the header has.
    """

    def __init__(self, file: Found, select: SelectColumns):
        self.file, self._select = file, select

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        csv.field_size_limit(LONGEST_FIELD)  # a setting of the process: there is no other
        number = 0
        try:
            with open_decompressed(self.file) as stream:
                # bytes that are not UTF-8 become surrogates: the filter not_utf8 removes the row
                text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", newline="")
                first = text.readline(LONGEST_FIELD)
                if first.startswith(_UTF_16):
                    raise Damaged("it is UTF-16: store it as UTF-8", RecordLocation(self.file, 1))
                separator = _SEPARATOR.fullmatch(first)
                first = text.readline(LONGEST_FIELD) if separator else first
                delimiter = separator[1] if separator else self._delimiter(first)
                rows = csv.reader(_with_first(first, text), delimiter=delimiter, strict=True)
                header = next(rows, None)
                if header is None:
                    return
                columns = self._columns(header)
                for number, row in enumerate(filter(None, rows), 1):
                    location = RecordLocation(self.file, number, separator="#")
                    fields = functools.partial(_fields, columns, len(header), row, location)
                    yield Record(location, sum(map(len, row)), fields)
        except csv.Error as error:
            raise Damaged(f"not CSV ({error})", self._location(number + 1)) from None
        except DECODING_ERRORS as error:
            raise Damaged(error, self._location(number + 1)) from None

    def _location(self, number: int) -> RecordLocation:
        return RecordLocation(self.file, number, separator="#")

    def _delimiter(self, header: str) -> str:
        if ".tsv" in self.file.location.lower().rpartition("/")[2]:
            return "\t"
        return "," if "," in header else next((mark for mark in ";\t" if mark in header), ",")

    def _columns(self, header: Sequence[str]) -> dict[str, int]:
        """The names of the columns to read, with their numbers.

        Raises:
            Damaged: the header has none for the text, or has a name twice.
        """
        location = RecordLocation(self.file, 1)
        names = [name.strip() for name in header]
        selected = self._select(names, location)
        for name in selected:
            if names.count(name) > 1:
                raise Damaged(f"its header has {name} twice", location)
        return {name: names.index(name) for name in selected}


def _with_first(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _fields(columns: Mapping[str, int], width: int, row: Sequence[str], location: RecordLocation) -> Mapping[str, Any]:
    if len(row) != width:
        raise Damaged(f"the row has {len(row)} fields, the header {width}", location)
    return {name: row[number] for name, number in columns.items()}
