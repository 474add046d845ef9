"""The inventory of a corpus: what is read of each place that the user named, and what is not.

It contains what opening a source reads anyway; no corpus is read for it. A run prints it at its start and keeps it in
inventory.json, `python -m tasks.inspect --stats` prints it, and the report shows it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tasks.sources.files import FOLDER, Found, Listing, count_extensions
from tasks.sources.filters import format_counts
from tasks.sources.named_splits import TEST

ON_OPENING, IN_BOTH_SPLITS, READ = "read on opening", "in both splits", "read"  # values of PlaceInventory.scope
IGNORED = "ignored"  # the reason for files that match Filters.ignore
SHOWN = 12  # extensions and fields that a line names


@dataclasses.dataclass(frozen=True)
class PlaceInventory:
    """What is read of one place, and what is not.

    Attributes:
        stream: name of the stream.
        place: as the user named it.
        kind: what it is read as: text files, records, a curated dataset, ...
        read: extension -> number of files that are read, for training and validation together; "" for any extension.
        bytes: size of these files; None if it is not known.
        documents: documents that have been read so far; see `scope`.
        scope: which documents `documents` and `left_out` count.
        fields: property of a document -> the column of the records that it is taken from.
        ignored_fields: columns that are not read.
        not_read: extension -> number of files that are not read.
        left_out: filter -> number of documents that it removed, of those that have been read.
        splits: train, validation or test -> number of files; empty if each record has its own split.
        split_by: what decides the split.
        duplicates: number of further paths of files, which are not read again.
        notes: other remarks.
    """

    stream: str
    place: str
    kind: str
    read: Mapping[str, int] = dataclasses.field(default_factory=dict)
    bytes: int | None = None
    documents: int = 0
    scope: str = ON_OPENING
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored_fields: tuple[str, ...] = ()
    not_read: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    splits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    split_by: str = ""
    duplicates: int = 0
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> int:
        """Number of files that are read."""
        return sum(self.read.values())

    def counted(self, documents: int, left_out: Mapping[str, int], scope: str = READ) -> "PlaceInventory":
        """The inventory with other counts of documents. Files that patterns ignore are not documents."""
        ignored = {reason: count for reason, count in self.left_out.items() if reason == IGNORED}
        return dataclasses.replace(self, documents=documents, left_out=ignored | dict(left_out), scope=scope)

    def noted(self, *notes: str) -> "PlaceInventory":
        """The inventory with more remarks."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def as_json(self) -> dict[str, Any]:
        """The inventory as JSON values, with its number of files and its `lines`."""
        return dataclasses.asdict(self) | {"files": self.files, "lines": lines(self)}


@dataclasses.dataclass(frozen=True)
class Inventory:
    """The inventory of the streams of a stage.

    Attributes:
        places: the places of each stream, in order.
        remarks: on files that several streams read.
    """

    places: tuple[PlaceInventory, ...]
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The inventory as text."""
        return [*(line for place in self.places for line in lines(place)), *self.remarks]

    def as_json(self) -> dict[str, Any]:
        """The content of inventory.json."""
        return {"places": [place.as_json() for place in self.places], "remarks": list(self.remarks)}


def of_listing(
    stream: str,
    place: str,
    kind: str,
    read: Sequence[Found],
    listing: Listing,
    repeated: Mapping[str, int] | None = None,
) -> PlaceInventory:
    """The inventory of the files of a place.

    Args:
        stream, place, kind: see PlaceInventory.
        read: the files that are read.
        listing: the files of the place; those that are not wanted are not read.
        repeated: other place that reads files of this one -> number of these files.
    """
    repeated = repeated or {}
    notes = [f"{count:,} files are read as part of {place}" for place, count in repeated.items()]
    if listing.duplicates:
        path, kept = listing.duplicates[0]
        notes.append(f"links to the same file are read once: {path} is {kept}" + _and_more(len(listing.duplicates) - 1))
    if listing.broken:
        notes.append(f"links to nothing: {listing.broken[0]}" + _and_more(len(listing.broken) - 1))
    return PlaceInventory(
        stream,
        place,
        kind,
        read=most_frequent(count_extensions(entry.path for entry in read)),
        bytes=_total_bytes(read),
        not_read=most_frequent(listing.not_wanted),
        left_out={IGNORED: listing.ignored} if listing.ignored else {},
        duplicates=len(listing.duplicates) + sum(repeated.values()),
        notes=tuple(notes),
    )


def _total_bytes(read: Iterable[Found]) -> int | None:
    sizes = [entry.size for entry in read]
    return sum(sizes) if min(sizes, default=0) >= 0 else None


def lines(place: PlaceInventory) -> list[str]:
    """The inventory of a place as text: one line, and one more for each kind of remark."""
    facts = [f"{_count(place.files, 'file')}{_in_brackets(place.read)}"] if place.read else []
    if place.bytes is not None and place.read:
        facts[0] += f", {_size(place.bytes)}"
    if place.split_by:
        counts = ", ".join(
            f"{split} {count:,}" + " (not read)" * (split == TEST) for split, count in place.splits.items()
        )
        facts.append(f"split by {place.split_by}" + f": {counts}" * bool(counts))
    if place.documents:
        facts.append(f"{_count(place.documents, 'document')} {place.scope}")
    result = [f"{place.stream}: {place.place}: {place.kind}" + f"; {'; '.join(facts)}" * bool(facts)]
    if place.fields:
        taken = ", ".join(f"{name} from {column}" for name, column in place.fields.items())
        ignored = _first(place.ignored_fields)
        result.append(f"  fields: {taken}" + f"; ignored: {ignored}" * bool(ignored))
    if place.not_read:
        result.append(f"  not read: {format_extensions(place.not_read)}")
    if place.left_out:
        result.append(f"  left out: {format_counts(place.left_out)}")
    return result + [f"  {note}" for note in place.notes]


def most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts in falling order; equal counts in the order of their names."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def format_extensions(counts: Mapping[str, int]) -> str:
    """The most frequent extensions: "12 .ipynb, 3 .md"."""
    ordered = list(most_frequent(counts).items())
    shown = ", ".join(
        _count(count, extension) if extension == FOLDER else f"{count:,} {extension}"
        for extension, count in ordered[:SHOWN]
    )
    others = sum(count for _, count in ordered[SHOWN:])
    return shown + (f", {others:,} others" if others else "")


def holds(listing: Listing) -> str:
    """What a folder holds instead of files to read, for an error message: "it holds 12 .ipynb"."""
    parts = [format_extensions(listing.not_wanted)] if listing.not_wanted else []
    parts += [format_counts({IGNORED: listing.ignored})] if listing.ignored else []
    parts += [_count(len(listing.broken), "broken link")] if listing.broken else []
    return f"it holds {', '.join(parts)}" if parts else "it is empty"


def _in_brackets(counts: Mapping[str, int]) -> str:
    if len(counts) == 1:
        extension = next(iter(counts))
        return f" ({extension})" * bool(extension)
    return f" ({format_extensions(counts)})" if counts else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _and_more(count: int) -> str:
    return f", and {count:,} more" if count else ""


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"
