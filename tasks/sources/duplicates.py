"""Files that are reached twice: by links of both kinds, by several spellings of a path, or by places that overlap.

Such a file is read once. Otherwise its text could be in train under one path and in validation under another.
"""

import itertools
import os
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

Identity = int | str  # device and inode of a local file, the normalized location of a remote one


class Located(Protocol):
    """A file with its path in a corpus, its location, and its identity if that is known."""

    @property
    def path(self) -> str: ...

    @property
    def location(self) -> str: ...

    @property
    def identity(self) -> Identity | None: ...


Entry = TypeVar("Entry", bound=Located)


def identity_of(location: str) -> Identity:
    """A value that is the same for two locations of one file."""
    if location.lower().startswith("file://"):
        location = location[len("file://") :]
    if filesystem.is_remote(location):
        scheme, _, path = location.partition("://")
        return f"{scheme.lower()}://{posixpath.normpath(path)}"
    try:
        return identity_of_status(location, os.stat(location))
    except OSError:
        return os.path.realpath(location)


def identity_of_status(location: str, status: os.stat_result) -> Identity:
    """The identity of a local file whose status is known."""
    # Some network file systems have no inode numbers.
    return (status.st_dev << 64) | status.st_ino if status.st_ino else os.path.realpath(location)


def each_once(entries: list[Entry]) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The entries without further paths of the same file, in their order; and (path, listed path) of those.

    A path without a symbolic link is preferred to one with a link, and then the first path in the order of the text.
    """
    chosen: dict[Identity, Entry] = {}
    repeated: list[Entry] = []
    for entry in entries:
        if entry.identity is None or (known := chosen.setdefault(entry.identity, entry)) is entry:
            continue
        if _preference(entry) < _preference(known):
            chosen[entry.identity], entry = entry, known
        repeated.append(entry)
    if not repeated:
        return entries, []
    dropped = set(map(id, repeated))
    paths = [(entry.path, chosen[entry.identity].path) for entry in repeated if entry.identity is not None]
    return [entry for entry in entries if id(entry) not in dropped], sorted(paths)


def _preference(entry: Located) -> tuple[bool, str]:
    if filesystem.is_remote(entry.location):
        return False, entry.path
    # A link in the path of the root itself is part of every entry, and does not matter.
    root = entry.location.removesuffix(entry.path)
    behind_link = os.path.realpath(entry.location) != os.path.join(os.path.realpath(root), entry.path)
    return behind_link, entry.path


class FilesRead:
    """The files that the places of a stream read, in the order in which the places are named."""

    def __init__(self) -> None:
        self._places: list[str] = []
        self._owners: dict[Identity, int] = {}

    def add(self, place: str, entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, int]]:
        """Adds the files of a place.

        Returns:
            the entries that no earlier place reads; and earlier place -> number of the others.
        """
        number = len(self._places)
        self._places.append(place)
        new: list[Entry] = []
        repeated: Counter[str] = Counter()
        for entry in entries:
            if entry.identity is None or (owner := self._owners.setdefault(entry.identity, number)) == number:
                new.append(entry)
            else:
                repeated[self._places[owner]] += 1
        return new, dict(repeated)


def check_not_repeated(where: str, new: Sequence[Entry], repeated: Mapping[str, int]) -> None:
    """Raises UserError if a place has no file that earlier places do not read.

    Args:
        where: the setting and the place, for the message.
        new, repeated: the result of FilesRead.add.
    """
    if repeated and not new:
        raise UserError(f"{where} repeats {' and '.join(repeated)}, which already reads its files: name each file once")


def shared_files(streams: Mapping[str, Mapping[Identity, str]]) -> list[str]:
    """Remarks on files that several streams read.

    Args:
        streams: stream -> Source.file_splits of its splits together.
    """
    remarks = []
    for one, other in itertools.combinations(streams, 2):
        shared = streams[one].keys() & streams[other].keys()
        apart = sum(streams[one][file] != streams[other][file] for file in shared)
        if shared:
            remark = f"{one} and {other} both read {len(shared):,} file{'s' * (len(shared) != 1)}"
            if apart:
                remark += (
                    f", of which {apart:,} can be for training in one and for validation in the other: name the same"
                    " folder for both streams, so that a file has the same path in both"
                )
            remarks.append(remark)
    return remarks
