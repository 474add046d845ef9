"""One reader of one stream: its documents, in an order that depends only on the seed and the reader's index."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from codellama_jax.config.data import STREAMS
from codellama_jax.errors import UserError
from tasks.packing import Cursor
from tasks.sources.base import Block, Dialogue, Document, Source, binding
from tasks.sources.filters import LeftOut, format_counts


@functools.lru_cache(maxsize=16)
def _permutation(seed: tuple[int, ...], count: int) -> np.ndarray:
    """The order of the shards in one epoch; all readers use the same array."""
    return np.random.default_rng(seed).permutation(count)


class Reader:
    """Reads the documents of one of the `readers` readers of a stream.

    The shards of the source are permuted for each epoch, and each reader takes every `readers`-th of them. The
    documents of each block are permuted too, unless the block keeps its order. If the source has fewer shards than
    there are readers, several readers read the same shard, and each takes every n-th document of a block.

    Args:
        source: the stream's source.
        index, readers: which reader this is, and how many there are.
        seed: determines the order.
        validate: raises LeftOut for a document that must be skipped.
        shuffle: if False, shards and documents keep the order of the source.
        repeat: if False, the reader ends after one epoch.

    Attributes:
        shards: number of shards of all readers in one epoch. A shard that several readers share counts once for each.
        left_out: filter -> number of documents that the filter removed, of those that this reader has read since it was
            opened. At most one epoch is counted.
        changed: rule -> number of documents whose text the rule changed, counted in the same way.
        examples: filter or rule -> the location of the first of its documents.
        ignored: field -> number of messages of dialogues in which the field is ignored, counted as `left_out` is.
        ignored_examples: field -> the location of the first such dialogue.
        left_out_of: (place, filter) -> part of left_out; a place is an index of the source's inventory.
        seen: place -> number of documents that this reader has read and that passed, in the same epoch.
    """

    def __init__(
        self,
        source: Source,
        index: int,
        readers: int,
        seed: Sequence[int],
        validate: Callable[[Document | Dialogue], None],
        shuffle: bool = True,
        repeat: bool = True,
    ):
        self._source, self._index, self._readers = source, index, readers
        self._seed, self._validate, self._shuffle, self._repeat = tuple(seed), validate, shuffle, repeat
        self._readers_per_shard = -(-readers // len(source))
        self.shards = len(source) * self._readers_per_shard
        self._current: tuple[int, int, list] = (-1, -1, [])  # the block in memory: shard, number, documents
        self._following_blocks: Iterator[Block] = iter(())
        self._last_counted, self._first_shard = (-1, -1), -1
        self._no_document_yet = False  # the current shard was read from its start and gave no document so far
        self._empty_shards: set[int] = set()  # shards of the source without a document, since the last document
        self.left_out: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.examples: dict[str, object] = {}
        self.left_out_of: Counter[tuple[int, str]] = Counter()
        self.seen: Counter[int] = Counter()
        self.ignored: Counter[str] = Counter()
        self.ignored_examples: dict[str, object] = {}
        self._left_out_since: int | None = None  # shard from which on `leave_out` was called for every document
        self._last: Cursor | None = None  # of the last document

    def global_shard(self, shard: int) -> int:
        """The number of this reader's shard among the shards of all readers, over all epochs."""
        return shard * self._readers + self._index

    def key(self, cursor: Cursor) -> tuple[int, ...]:
        """Integers that identify the document at a cursor among all readers and epochs."""
        return self.global_shard(cursor.shard), cursor.block, cursor.document

    def seek(self, cursor: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The first document at or after a cursor, with its own cursor; None at the end.

        Raises:
            UserError: no shard has a usable document.
        """
        while len(self._empty_shards) < len(self._source):
            if not self._repeat and self.global_shard(cursor.shard) >= self.shards:
                return None
            documents = self._documents(cursor.shard, cursor.block)
            if documents is None:
                cursor = Cursor(cursor.shard + 1, 0, 0)
            elif cursor.document < len(documents):
                if self._last is not None:  # the last document was used
                    self._left_out_since = None
                self._last = cursor
                return cursor, documents[cursor.document]
            else:
                cursor = Cursor(cursor.shard, cursor.block + 1, 0)
        raise self._no_document()

    def leave_out(self, cursor: Cursor, reason: str, document: Document | Dialogue) -> None:
        """Counts a document that `seek` returned and that the packer leaves out.

        Raises:
            UserError: the packer has left out all documents of an epoch.
        """
        self._last = None
        if self._left_out_since is None:
            self._left_out_since = cursor.shard
        if self._in_first_epoch(cursor.shard):
            self.left_out[reason] += 1
            self.examples.setdefault(reason, _location(document))
        if (cursor.shard - self._left_out_since) * self._readers > self.shards:
            raise self._no_document()

    def _in_first_epoch(self, shard: int) -> bool:
        """Whether a shard belongs to the first epoch that this reader has read since it was opened."""
        self._first_shard = shard if self._first_shard < 0 else self._first_shard
        return self.global_shard(shard) - self._first_shard * self._readers < self.shards

    def _no_document(self) -> UserError:
        name = self._source.name
        setting = binding(name) if name in STREAMS else "Mixture.seqio"
        return UserError(
            f"{setting}: there is no usable document in {name}"
            + (f"; left out: {format_counts(self.left_out)}" if self.left_out else "")
        )

    def _documents(self, shard: int, block: int) -> list | None:
        """The documents of a block in this reader's order; None after the last block of the shard."""
        if self._current[:2] == (shard, block):
            return self._current[2]
        epoch, index = divmod(self.global_shard(shard), self.shards)
        if self._shuffle:
            index = int(_permutation((*self._seed, epoch), self.shards)[index])
        source_shard, share = divmod(index, self._readers_per_shard)
        if self._current[:2] != (shard, block - 1):
            self._following_blocks = iter(self._source.read(source_shard, block))
            self._no_document_yet = block == 0
        read = next(self._following_blocks, None)
        if read is None:
            self._current = (-1, -1, [])
            if self._no_document_yet:
                self._empty_shards.add(source_shard)
            return None
        documents = self._validated(read, shard, block, count=share == 0, place=self._source.place(source_shard))
        if documents:
            self._no_document_yet = False
            self._empty_shards.clear()
        documents = documents[share :: self._readers_per_shard]
        if self._shuffle and not read.in_order and len(documents) > 1:
            order = np.random.default_rng([*self._seed, self.global_shard(shard), block]).permutation(len(documents))
            documents = [documents[i] for i in order]
        self._current = (shard, block, documents)
        return documents

    def _validated(self, block: Block, shard: int, number: int, count: bool, place: int) -> list:
        """The documents of a block that pass `validate`. Counts the others, each once, if `count`."""
        passed, left_out = [], list(block.left_out)
        for item in block.items:
            try:
                self._validate(item)
                passed.append(item)
            except LeftOut as error:
                left_out.append((error.reason, _location(item)))
        if self._in_first_epoch(shard) and count and (shard, number) > self._last_counted:
            self._last_counted = shard, number
            self.seen[place] += len(passed)
            self.left_out_of.update((place, reason) for reason, _ in left_out)
            for counts, entries in ((self.left_out, left_out), (self.changed, block.changed)):
                for name, location in entries:
                    counts[name] += 1
                    self.examples.setdefault(name, location)
            for item in passed:
                for field in item.ignored if isinstance(item, Dialogue) else ():
                    self.ignored[field] += 1
                    self.ignored_examples.setdefault(field, _location(item))
        return passed


def _location(document: Document | Dialogue) -> object:
    """The location of a document for messages."""
    return document.location or document.path if isinstance(document, Dialogue) else document.path
