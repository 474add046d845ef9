"""The interface of a source: documents or dialogues, in shards of blocks.

A source is one split of one stream. It consists of shards, which can be read in any order. A shard consists of blocks,
which are read one after the other. Opening a source lists files and reads only as far as the first usable one. A shard
yields the same documents every time.
"""

import bisect
import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from codellama_jax.chat import Message
from tasks.sources import filters
from tasks.sources.duplicates import Identity
from tasks.sources.inventory import PlaceInventory

CODE_STREAMS = ("code", "python")

# Part of the fingerprints of folders and records. It changes with every version that makes other documents of the same
# files, so that no run resumes with data that it did not start with.
READING_RULES = "rules 2"


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text and its metadata.

    Attributes:
        path: relative to the corpus; with #N for the Nth part of a file that was cut.
        language, repository, licence: "" where unknown.
        changed: names of the rules that changed the text.
    """

    text: str
    path: str
    language: str = ""
    repository: str = ""
    licence: str = ""
    changed: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue: its messages in order, and its location.

    Attributes:
        path: identifies the dialogue; cheap to compute.
        location: identifies it in error messages. str(location) may be slow, because it may count the lines of a file.
        ignored: names of the fields of its messages that are ignored, once for each message that has one.
    """

    messages: list[Message]
    path: str
    location: object = dataclasses.field(default="", compare=False, repr=False)
    ignored: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)


Item = TypeVar("Item", Document, Dialogue)


@dataclasses.dataclass
class Block(Generic[Item]):
    """The unit of reading and shuffling.

    Attributes:
        items: the documents.
        left_out: (name of the filter, location) of each document that a filter removed; str(location) is for messages.
        changed: (name of the rule, path) of each document whose text a rule changed.
        in_order: whether the documents are read in this order, because each continues the one before it.
    """

    items: list[Item]
    left_out: list[tuple[str, object]]
    changed: list[tuple[str, object]] = dataclasses.field(default_factory=list)
    in_order: bool = False


class Source(Protocol[Item]):
    """One split of one stream. The text streams are Source[Document]; instruct is Source[Dialogue].

    Attributes:
        name: the stream's name.
    """

    name: str

    def __len__(self) -> int:
        """Number of shards, at least 1. A shard is a file of a folder, or part of a file of records."""

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Item]]:
        """Yields the blocks of a shard after the first `skip`, which are skipped as cheaply as the format allows."""

    def fingerprint(self) -> str:
        """Hex hash of the paths and sizes of the files, in order, and of the settings that decide what is read."""

    def inventory(self) -> Sequence[PlaceInventory]:
        """What is read of each place, in order."""

    def place(self, shard: int) -> int:
        """Which place of `inventory` a shard belongs to."""

    def file_splits(self) -> Mapping[Identity, str]:
        """File of this split -> the split, or what decides the split of its records; for files with an identity."""


def items(source: Source[Item], shard: int) -> Iterator[Item]:
    """All documents of a shard, in the order of the source."""
    return itertools.chain.from_iterable(block.items for block in source.read(shard))


class ConcatenatedSource:
    """The shards of several sources, one source after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.name, self._sources = sources[0].name, sources
        self.dialogues = has_dialogues(sources[0])
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, shard: int, skip: int = 0) -> Iterator[Block]:
        index = bisect.bisect_right(self._ends, shard)
        return self._sources[index].read(shard - (self._ends[index - 1] if index else 0), skip)

    def fingerprint(self) -> str:
        return hash_of(self.name, "joined", ((source.fingerprint(), len(source)) for source in self._sources))

    def inventory(self) -> Sequence[PlaceInventory]:
        return [place for source in self._sources for place in source.inventory()]

    def place(self, shard: int) -> int:
        return bisect.bisect_right(self._ends, shard)

    def file_splits(self) -> Mapping[Identity, str]:
        return dict(itertools.chain.from_iterable(source.file_splits().items() for source in self._sources))


def has_dialogues(source: Source) -> bool:
    """Whether the items of a source are dialogues. Sources of dialogues have an attribute `dialogues`."""
    return getattr(source, "dialogues", False)


def changed(documents: Iterable[Document]) -> list[tuple[str, object]]:
    """Block.changed for documents that have not been cut or grouped."""
    return [(rule, document.path) for document in documents for rule in document.changed]


@dataclasses.dataclass(frozen=True)
class Sample:
    """Counts of the documents that were read to find the first one.

    Attributes:
        documents: number of documents.
        left_out: filter -> number of documents that it removed.
    """

    documents: int
    left_out: collections.Counter[str]


def read_first(source: Source) -> Sample:
    """Reads as far as the first document, which is usually in shard 0. Without a document, everything is read."""
    left_out: collections.Counter[str] = collections.Counter()
    for shard in range(len(source)):
        for block in source.read(shard):
            left_out.update(reason for reason, _ in block.left_out)
            if block.items:
                return Sample(len(block.items), left_out)
    return Sample(0, left_out)


def left_out_text(left_out: Mapping[str, int]) -> str:
    """Counts of removed documents, for an error message: "; left out: 3 generated"."""
    return f"; left out: {filters.format_counts(left_out)}" if left_out else ""


def binding(stream: str) -> str:
    """The name of a stream's corpus in messages: the setting, and its gin macro on the command line."""
    return f"Corpus.{stream} / --gin.{stream.upper()}_CORPUS"


def hash_of(name: str, rules: object, entries: Iterable[tuple[str, int]]) -> str:
    """Hex hash for Source.fingerprint.

    Args:
        name: the stream's name.
        rules: settings that decide what is read; their repr() is hashed.
        entries: (path, size) of each file.
    """
    digest = hashlib.blake2b(f"{name} {rules!r}\n".encode(), digest_size=16)
    for path, size in entries:
        digest.update(f"{size} {path}\n".encode())
    return digest.hexdigest()
