"""Formats of records: JSON lines (plain, gzip, Zstandard), Parquet and TFRecord.

A format cuts a file into pieces and gives the records of a piece one after the other. The fields of a record are parsed
when they are asked for, so that passing over records is cheap. Files are opened when they are read; only Parquet's
footers are read before. pyarrow and TensorFlow are imported by what needs them, and not for plain JSON lines.
"""

import codecs
import contextlib
import dataclasses
import functools
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.console import quiet_stderr
from tasks.sources.files import Found

PLAIN = re.compile(r"\.(jsonl|ndjson|json)$", re.IGNORECASE)
COMPRESSED = re.compile(r"\.(jsonl|ndjson|json)\.(gz|zst|zstd)$", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
TFRECORD = re.compile(r"\.tfrecord(-\d+-of-\d+)?$", re.IGNORECASE)
KINDS = ".jsonl, .json or .ndjson, also with .gz or .zst after it; .parquet; .tfrecord"

BUFFER = 1 << 18
# A failed read loses what it had unpacked before the damage. This much is no slower than parsing what is read.
ZSTANDARD_READ = 1 << 10
_BLANK = b" \t\r\n" + codecs.BOM_UTF8


def is_record_file(name: str) -> bool:
    """Whether a file of that name is one of records."""
    return any(kind.search(name) for kind in (PLAIN, COMPRESSED, PARQUET, TFRECORD))


@dataclasses.dataclass(frozen=True, slots=True)
class RecordLocation:
    """Where a record stands; str() tells it to a person: FILE:LINE or FILE#RECORD, both from 1.

    Attributes:
        number: of the line or record; None where it is not known without reading all before it, or for a whole file.
        offset: of plain lines, where the line begins.
        sign: between file and number.
    """

    file: Found
    number: int | None = None
    offset: int | None = None
    sign: str = ":"

    @property
    def key(self) -> str:
        """The same however the file is cut into pieces: FILE@OFFSET of a plain line, else what `path` is."""
        if self.offset is not None:
            return f"{self.file.path}@{self.offset}"
        return self.file.path if self.number is None else f"{self.file.path}{self.sign}{self.number}"

    @property
    def path(self) -> str:
        """Names a document: FILE:LINE or FILE#RECORD where the number is known, else FILE@OFFSET."""
        return self.key if self.number is None else f"{self.file.path}{self.sign}{self.number}"

    def __str__(self) -> str:
        if self.number is not None or self.offset is None:
            return self.path
        try:
            with opened(self.file) as stream:
                number, left = 1, self.offset
                while left and (data := stream.read(min(left, BUFFER))):
                    number, left = number + data.count(b"\n"), left - len(data)
        except UserError:
            return self.path
        return f"{self.file.path}:{number}"


class Damaged(Exception):
    """A record, or what is left of a file from here on, cannot be used.

    Attributes:
        what: is wrong.
        place: where.
    """

    def __init__(self, what: object, place: RecordLocation):
        super().__init__(what, place)
        self.what, self.place = " ".join(str(what).split()), place


class Record(NamedTuple):
    """A record that has not been parsed.

    Attributes:
        size: in bytes, about.
        fields: parses it; raises Damaged.
    """

    place: RecordLocation
    size: int
    fields: Callable[[], Mapping[str, Any]]


class Format(Protocol):
    """A file of records."""

    file: Found

    def __len__(self) -> int:
        """Number of pieces."""

    def read(self, piece: int) -> Iterator[Record]:
        """The records of a piece. Raises Damaged where the rest of the piece cannot be read, UserError for the file."""


# Names of the columns there are, and the place -> those to read. Raises Damaged if what is wanted is not among them.
Needed = Callable[[Sequence[str], RecordLocation], list[str]]


def open_file(file: Found, limit: int, needed: Needed) -> Format:
    """The format that the file's name tells.

    Args:
        file: to read; is_record_file holds for it.
        limit: bytes that are read, and shuffled, at once.
        needed: tells the columns of Parquet.

    Raises:
        Damaged: it is no Parquet file, or has not the columns.
        UserError: it cannot be opened.
    """
    if PARQUET.search(file.location):
        return Parquet(file, limit, needed)
    if TFRECORD.search(file.location):
        return TfRecords(file)
    return Compressed(file) if COMPRESSED.search(file.location) else Lines(file, limit)


class Broken:
    """A file that is damaged as a whole: one piece, of which nothing can be read."""

    def __init__(self, damage: Damaged):
        self.file, self._damage = damage.place.file, damage

    def __len__(self) -> int:
        return 1

    def read(self, piece: int) -> Iterator[Record]:
        raise self._damage
        yield


class Lines:
    """Plain JSON lines: a piece is a stretch of `limit` bytes, and holds the lines that begin in it."""

    def __init__(self, file: Found, limit: int):
        self.file, self._limit = file, limit

    def __len__(self) -> int:
        return -(-self.file.size // self._limit)

    def read(self, piece: int) -> Iterator[Record]:
        offset = piece * self._limit
        end = min(offset + self._limit, self.file.size)
        with opened(self.file) as stream:
            if piece:
                stream.seek(offset - 1)
                before = stream.readline(self._limit + 1)  # no further than the end, however long the line is
                if not before.endswith(b"\n"):
                    return
                offset += len(before) - 1
            number = 0
            while offset < end and (line := stream.readline()):
                number += 1
                if line.strip(_BLANK):
                    place = RecordLocation(self.file, None if piece else number, offset)
                    yield Record(place, len(line), functools.partial(_object, line, place))
                offset += len(line)


class Compressed:
    """JSON lines in gzip or Zstandard: one piece, since one must read from the start."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, piece: int) -> Iterator[Record]:
        number = 0
        try:
            with opened(self.file) as packed, self._unpacked(packed) as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip(_BLANK):
                        place = RecordLocation(self.file, number)
                        yield Record(place, len(line), functools.partial(_object, line, place))
        except (OSError, EOFError, ValueError, zlib.error) as error:  # of what is read: `opened` raises UserError
            raise Damaged(error, RecordLocation(self.file, number + 1)) from None

    def _unpacked(self, packed: BinaryIO) -> Any:
        if self.file.location.lower().endswith(".gz"):
            return gzip.GzipFile(fileobj=packed)
        import pyarrow

        stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, "r"), "zstd")
        return io.BufferedReader(stream, ZSTANDARD_READ)


def _object(line: bytes, place: RecordLocation) -> Mapping[str, Any]:
    """The fields of a line of JSON; a byte order mark before it is tolerated."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise Damaged("the line is not UTF-8", place) from None
    except (ValueError, RecursionError) as error:
        at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = f"the line is not JSON ({getattr(error, 'msg', error)}{at}); a record must be one line"
        raise Damaged(what, place) from None
    if isinstance(fields, list):
        raise Damaged("the line is a JSON array; write one object a line", place)
    if not isinstance(fields, dict):
        raise Damaged("the line is no JSON object", place)
    return fields


class Parquet:
    """A piece is a row group; records are rows, each taken to have the row group's mean size."""

    def __init__(self, file: Found, limit: int, needed: Needed):
        import pyarrow.parquet

        self.file, self._limit = file, limit
        with opened(file) as stream:
            try:
                footer = pyarrow.parquet.ParquetFile(stream)
                names = footer.schema_arrow.names
                groups = [footer.metadata.row_group(group) for group in range(footer.num_row_groups)]
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise Damaged(f"it is no Parquet file ({error})", RecordLocation(file)) from None
        self._columns = needed(names, RecordLocation(file))
        self._groups, first = [], 0
        for group in groups:
            self._groups.append((first, max(1, group.total_byte_size // max(1, group.num_rows))))
            first += group.num_rows

    def __len__(self) -> int:
        return len(self._groups)

    def read(self, piece: int) -> Iterator[Record]:
        import pyarrow.parquet

        number, size = self._groups[piece]
        at_once = -(-self._limit // size)
        with opened(self.file) as stream:
            try:
                # else a whole column of the row group would be read at once
                reader = pyarrow.parquet.ParquetFile(stream, buffer_size=BUFFER, pre_buffer=False)
                for batch in reader.iter_batches(at_once, row_groups=[piece], columns=self._columns):
                    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
                    for row in range(batch.num_rows):
                        number += 1
                        place = RecordLocation(self.file, number, sign="#")
                        yield Record(place, size, functools.partial(_row, columns, row, place))
            except (OSError, ValueError, pyarrow.ArrowException) as error:
                raise Damaged(error, RecordLocation(self.file, number + 1, sign="#")) from None


def _row(columns: Mapping[str, Any], row: int, place: RecordLocation) -> Mapping[str, Any]:
    fields = {}
    for name, column in columns.items():
        scalar = column[row]
        try:
            fields[name] = scalar.as_py()
        except UnicodeDecodeError:
            if not hasattr(scalar, "as_buffer"):
                raise Damaged(f"{name} is not UTF-8", place) from None
            fields[name] = scalar.as_buffer().to_pybytes()  # for the filter of that name
    return fields


class TfRecords:
    """Serialized tf.train.Example, one piece. Checksums are verified."""

    def __init__(self, file: Found):
        self.file = file

    def __len__(self) -> int:
        return 1

    def read(self, piece: int) -> Iterator[Record]:
        tf = tensorflow()
        number = end = 0
        try:
            for number, data in enumerate(tf.data.TFRecordDataset(self.file.location).as_numpy_iterator(), 1):
                end += len(data) + 16  # length and two checksums
                place = RecordLocation(self.file, number, sign="#")
                yield Record(place, len(data), functools.partial(_example, data, place))
        except tf.errors.DataLossError as error:
            raise Damaged(_said(error), RecordLocation(self.file, number + 1, sign="#")) from None
        except tf.errors.OpError as error:
            raise _unreadable(self.file.location, error) from None
        if end != self.file.size:  # TensorFlow says nothing where what is left is shorter than a header
            raise Damaged("the file is cut short", RecordLocation(self.file, number + 1, sign="#"))


def _example(data: bytes, place: RecordLocation) -> Mapping[str, Any]:
    """The features of a tf.train.Example: a value alone, or a list of other than one; None for an empty one."""
    from google.protobuf.message import DecodeError

    try:
        features = tensorflow().train.Example.FromString(data).features.feature
    except DecodeError:
        raise Damaged("the record is no tf.train.Example", place) from None
    fields = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        fields[name] = values[0] if len(values) == 1 else values or None
    return fields


@functools.cache
def tensorflow() -> Any:
    """TensorFlow, which only reads files here: without the accelerators, whose memory is for the model."""
    with quiet_stderr():
        import tensorflow as tf

        with contextlib.suppress(RuntimeError):  # something has started them already
            tf.config.set_visible_devices([], "GPU")
    return tf


class _Checked(io.RawIOBase):
    """A file that raises UserError where it cannot be opened or read, so that what unpackers raise means damage."""

    def __init__(self, location: str):
        self._location = location
        self._file = self._tried(filesystem.open_input, location)

    def _tried(self, call: Callable, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.startswith("tensorflow"):
                raise _unreadable(self._location, error) from None
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._tried(self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._tried(self._file.seek, offset, whence)
        return self.tell()

    def tell(self) -> int:
        return self._tried(self._file.tell)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def opened(file: Found) -> BinaryIO:
    """The file's bytes. Raises UserError, now or later: leaving it out would change the stream without a word."""
    return io.BufferedReader(_Checked(file.location), BUFFER)


def _unreadable(location: str, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or _said(error)
    return UserError(f"{location} cannot be read ({reason}): mend or remove it")


def _said(error: Exception) -> str:
    """The message of an error without TensorFlow's names for its operations."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())
