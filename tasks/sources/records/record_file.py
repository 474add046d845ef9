"""A file of records: the interface of the formats, the location of a record, damage, and reading bytes.

A format divides a file into shards and yields the records of a shard one after the other. The fields of a record are
parsed only on request, so that skipping records is cheap.
"""

import dataclasses
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources.files import Found

BUFFER = 1 << 18


@dataclasses.dataclass(frozen=True, slots=True)
class RecordLocation:
    """The location of a record. str() is for messages: FILE:LINE or FILE#RECORD, both counted from 1.

    Attributes:
        number: number of the line or record; None if it is unknown because the lines before it were not read, or if the
            location is that of the file.
        offset: byte at which the line begins; None for formats other than plain JSON lines.
        separator: between file and number.
    """

    file: Found
    number: int | None = None
    offset: int | None = None
    separator: str = ":"

    @property
    def key(self) -> str:
        """Identifies the record, however the file is divided into shards: FILE@OFFSET of a plain line, else `path`."""
        if self.offset is not None:
            return f"{self.file.path}@{self.offset}"
        return self.file.path if self.number is None else f"{self.file.path}{self.separator}{self.number}"

    @property
    def path(self) -> str:
        """Identifies a document: FILE:LINE or FILE#RECORD if the number is known, else FILE@OFFSET."""
        return self.key if self.number is None else f"{self.file.path}{self.separator}{self.number}"

    def __str__(self) -> str:
        if self.number is not None or self.offset is None:
            return self.path
        try:
            with open_checked(self.file) as stream:
                number, left = 1, self.offset
                while left and (data := stream.read(min(left, BUFFER))):
                    number, left = number + data.count(b"\n"), left - len(data)
        except UserError:
            return self.path
        return f"{self.file.path}:{number}"


class Damaged(Exception):
    """A record, or the rest of a shard, cannot be used.

    Attributes:
        reason: what is wrong.
        location: location of the damage.
        filter: the name under which it is counted if Corpus.on_damage is "skip".
    """

    def __init__(self, reason: object, location: RecordLocation, filter: str = "damaged"):
        super().__init__(reason, location)
        self.reason, self.location, self.filter = " ".join(str(reason).split()), location, filter


class Record(NamedTuple):
    """A record that has not been parsed.

    Attributes:
        size: approximate size in bytes.
        fields: parses the record; raises Damaged.
    """

    location: RecordLocation
    size: int
    fields: Callable[[], Mapping[str, Any]]


class Format(Protocol):
    """A file of records."""

    file: Found

    def __len__(self) -> int:
        """Number of shards."""

    def read(self, shard: int) -> Iterator[Record]:
        """The records of a shard.

        Raises:
            Damaged: the rest of the shard cannot be decoded.
            UserError: the file cannot be read.
        """


def layout_of(form: Format) -> str:
    """What decides the records and blocks of a file besides its path and size; part of the fingerprint."""
    return getattr(form, "layout", "")


# (names of all columns, location of the file) -> names of the columns to read. Raises Damaged if required ones are
# missing.
SelectColumns = Callable[[Sequence[str], RecordLocation], list[str]]


class DamagedFile:
    """A file that cannot be opened because it is damaged: one shard, which cannot be read."""

    def __init__(self, damage: Damaged):
        self.file, self._damage = damage.location.file, damage

    def __len__(self) -> int:
        return 1

    def read(self, shard: int) -> Iterator[Record]:
        raise self._damage
        yield


class _CheckedFile(io.RawIOBase):
    """A file that raises UserError if it cannot be opened or read, so that other errors of a decoder mean damage."""

    def __init__(self, location: str):
        self._location = location
        self._file = self._call(filesystem.open_input, location)

    def _call(self, function: Callable, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            if isinstance(error, OSError) or type(error).__module__.startswith("tensorflow"):
                raise unreadable(self._location, error) from None
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._call(self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._call(self._file.seek, offset, whence)
        return self.tell()

    def tell(self) -> int:
        return self._call(self._file.tell)

    def close(self) -> None:
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
        super().close()


def open_checked(file: Found) -> BinaryIO:
    """The file's bytes. Raises UserError, now or while it is read: skipping the file would change the data silently."""
    return io.BufferedReader(_CheckedFile(file.location), BUFFER)


def unreadable(location: str, error: Exception) -> UserError:
    """The UserError for a file that cannot be opened or read."""
    reason = getattr(error, "strerror", None) or message_of(error)
    return UserError(f"{location} cannot be read ({reason}): fix or remove it")


def message_of(error: Exception) -> str:
    """The message of an error on one line, without the names that TensorFlow adds for its operations."""
    text = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error), flags=re.DOTALL)
    return " ".join(text.split())
