"""A file of records that is only appended to, and survives a crash at any time: JSON Lines with a key each."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.append_file import AppendFile

logger = logging.getLogger(__name__)

SYNC_SECONDS = 2.0  # at most this much is lost if the machine, not only the process, goes down

Row = dict[str, Any]
Key = tuple[Any, ...]


class Journal:
    """Records by key. Their content stays in the file; the memory has their places.

    A last line that was cut off by a crash is removed, and so are lines that cannot be read, with a warning: what they
    recorded is done again. Of several records of a key, the last one counts.

    Args:
        path: the file; a new one is created.
        key: the names of the fields that identify a record.
    """

    def __init__(self, path: Path, key: tuple[str, ...]):
        self.path, self._fields = path, key
        self._places = dict[Key, tuple[int, int]]()
        self._size = self._read()
        self._file = AppendFile(path)
        self._reader = path.open("rb")
        self._synced, self._dirty = time.monotonic(), False

    def _read(self) -> int:
        """Finds the records; returns the size of the file."""
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return 0
        start, damaged = 0, list[tuple[int, int]]()
        with self.path.open("rb") as file:
            for line in file:
                row = _parsed(line, self._fields)
                if row is None:
                    damaged.append((start, len(line)))
                else:
                    self._places[self._key(row)] = (start, len(line))
                start += len(line)
        if not damaged:
            return start
        logger.warning("%s: lines that are cut off or damaged are removed, and done again: %d", self.path, len(damaged))
        with self.path.open("rb") as self._reader:
            return self._rewrite(list(self._places.items()))

    def _rewrite(self, places: list[tuple[Key, tuple[int, int]]]) -> int:
        """Writes the file with these records in this order; returns its size."""
        with filesystem.open_output(self.path, durable=True) as output:
            for _, place in places:
                output.write(self._line(place))
        self._places, start = {}, 0
        for key, (_, length) in places:
            self._places[key] = (start, length)
            start += length
        return start

    def _key(self, row: Row) -> Key:
        return tuple(row[field] for field in self._fields)

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def get(self, *key: Any) -> Row | None:
        """The record of a key; None if there is none."""
        place = self._places.get(key)
        return None if place is None else json.loads(self._line(place))

    def rows(self) -> Iterator[Row]:
        """All records, in the order of the file."""
        for place in self._places.values():
            yield json.loads(self._line(place))

    def append(self, row: Row) -> None:
        """Appends a record. The operating system has it when this returns.

        Raises:
            UserError: the disk is full, or the file cannot be written.
        """
        line = json.dumps(row) + "\n"
        try:
            self._file.write(line)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._file.sync()
                self._synced = time.monotonic()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror}): make room, and the same command resumes"
            ) from None
        self._places[self._key(row)] = (self._size, len(line))
        self._size += len(line)

    def sort(self, order: Callable[[Key], Any]) -> None:
        """Rewrites the file in an order of the keys, so that it is the same however it came about.

        Nothing is appended afterwards.
        """
        self._file.sync()
        self._size = self._rewrite(sorted(self._places.items(), key=lambda item: order(item[0])))
        self._reader.close()
        self._reader = self.path.open("rb")

    def close(self) -> None:
        self._file.close()
        self._reader.close()

    def _line(self, place: tuple[int, int]) -> bytes:
        self._reader.seek(place[0])
        return self._reader.read(place[1])


def _parsed(line: bytes, fields: Iterable[str]) -> Row | None:
    """The record of a line; None if it is cut off or is none."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(isinstance(row.get(name), str | int) for name in fields) else None
