"""Packs documents into full windows of a fixed length. The state of a packer is a few integers.

Documents are concatenated and cut at the edge of the window (arXiv 2308.12950, section 2.3: only documents that are not
cut are transformed for infilling). A document whose infilling form fits the rest of the window is written in that form,
if one was drawn. Otherwise it is written plain. If the plain form does not fit either, it is cut, and its remaining
tokens start the next window.
"""

import dataclasses
from collections import Counter
from typing import NamedTuple, Protocol

import numpy as np

from codellama_jax.errors import UserError
from tasks.encoder import Encoder
from tasks.fim import FimSplit
from tasks.sources.base import Dialogue, Document

FEATURES = {
    "tokens": np.int32,
    "targets": np.int32,  # the next token of the same document
    "segment_ids": np.int32,  # 1, 2, ... for the documents of a window; 0 is padding (dialogues and validation)
    "positions": np.int32,
    "loss_weights": np.float32,  # of the target; 0 at a document's last token and on prompts
    "stream_ids": np.int32,
}

# A text with more than this many characters per token of the available space probably does not fit it.
CHARACTERS_PER_TOKEN = 2.5


class Cursor(NamedTuple):
    """The location of a document in a reader.

    Attributes:
        shard: number of the reader's shard, counted over all epochs.
        block: number of the block in the shard.
        document: number of the document in the block, in the reader's order.
    """

    shard: int
    block: int
    document: int


START = Cursor(0, 0, 0)


@dataclasses.dataclass(frozen=True)
class PackerState:
    """The complete state of a packer: where it resumes.

    Attributes:
        next: the cursor of the next document to read.
        pending: (cursor, tokens already used) of the documents before `next` that are not completely used, in order.
            Only the first can have used tokens: it was cut at the end of the last window.
    """

    next: Cursor = START
    pending: tuple[tuple[Cursor, int], ...] = ()

    def row(self, queue: int) -> np.ndarray:
        """The state as int64 [queue + 2, 4]: `next`, then `pending`. Unused rows are -1."""
        row = np.full((queue + 2, 4), -1, np.int64)
        row[0] = *self.next, 0
        for index, (cursor, used) in enumerate(self.pending, 1):
            row[index] = *cursor, used
        return row

    @classmethod
    def of_row(cls, row: np.ndarray) -> "PackerState":
        """The inverse of `row`."""
        (first, *pending) = [(Cursor(int(a), int(b), int(c)), int(used)) for a, b, c, used in row if a >= 0]
        return cls(first[0], tuple(pending))


class DocumentReader(Protocol):
    """Documents in a fixed order."""

    def seek(self, cursor: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The first document at or after a cursor, with its own cursor; None at the end."""

    def key(self, cursor: Cursor) -> tuple[int, ...]:
        """Integers that identify the document at a cursor among all readers and epochs."""

    def leave_out(self, cursor: Cursor, reason: str, document: Document | Dialogue) -> None:
        """Counts a document that `seek` returned and that the packer leaves out.

        Raises:
            UserError: the packer has left out all documents of an epoch.
        """


@dataclasses.dataclass(frozen=True)
class PackedDocument:
    """A document that starts in a window.

    Attributes:
        document: the unchanged document of the source.
        kind: plain, psm, spm, cut (plain, and continued in the next window), or last_turns (a dialogue without its
            first turns).
        tokens: all its ids in that form, with BOS and EOS.
        split: the split of an infilling form; None for the other kinds.
    """

    document: Document | Dialogue
    kind: str
    tokens: np.ndarray
    split: FimSplit | None


@dataclasses.dataclass
class Window:
    """A packed window.

    Attributes:
        arrays: the FEATURES without stream_ids, each [length].
        tokens: kind of document (plain, psm, spm, cut, last_turns) -> number of tokens.
        started: documents that start in this window.
        documents: all documents with tokens in this window.
    """

    arrays: dict[str, np.ndarray]
    tokens: Counter[str]
    started: list[PackedDocument]
    documents: list[Document | Dialogue]


@dataclasses.dataclass
class PendingDocument:
    """A document that was read but is not completely used. Its forms are encoded when they are first needed.

    `shortened` says that a dialogue has lost its first turns.
    """

    cursor: Cursor
    document: Document | Dialogue
    used: int = 0
    plain: tuple[np.ndarray, np.ndarray | None] | None = None
    shortened: bool = False
    split_drawn: bool = False
    split: FimSplit | None = None
    infilling: np.ndarray | None = None


class Packer:
    """Packs the documents of one reader. Dialogues, which must not be cut, are packed by DialoguePacker.

    A document that fits the rest of the window is added to it: in its infilling form if one was drawn and fits,
    otherwise plain. With queue = 0, a document that does not fit is cut. With a queue, it may wait for a window that it
    fits, and the first document that fits is added instead; waiting documents are tried before new ones. If the queue
    is full and none fits, a document is cut: the first one that is longer than any window, or else the first one.

    Args:
        reader: reads the documents.
        encoder: encodes the documents.
        length: number of tokens in a window.
        restart_positions: whether positions count from 0 in each document instead of in the window.
        queue: number of documents that may wait.
        state: where to resume; None starts at the first document.
    """

    def __init__(
        self,
        reader: DocumentReader,
        encoder: Encoder,
        length: int,
        restart_positions: bool,
        queue: int = 0,
        state: PackerState | None = None,
    ):
        self._reader, self._encoder = reader, encoder
        self._length, self._restart_positions, self._queue = length, restart_positions, queue
        state = state or PackerState()
        self._next = state.next
        # Pending documents that are read when the first window is requested, because opening a source may be slow.
        self._unread = state.pending
        self._pending: list[PendingDocument] = []

    @property
    def state(self) -> PackerState:
        """The state after the last window."""
        return PackerState(self._next, self._unread or tuple((item.cursor, item.used) for item in self._pending))

    def next_window(self) -> Window | None:
        """The next window; None after the last document. Only the last window can be padded.

        Raises:
            UserError: the corpus has changed since the state was saved.
        """
        self._read_pending()
        arrays = {name: np.zeros(self._length, dtype) for name, dtype in FEATURES.items() if name != "stream_ids"}
        window = Window(arrays, Counter(), [], [])
        filled = segment = 0
        while filled < self._length and (item := self._choose(self._length - filled)) is not None:
            segment += 1
            filled += self._add(item, window, filled, segment)
        return window if filled else None

    def _read_pending(self) -> None:
        """Reads the pending documents of the state from which the packer resumes."""
        for cursor, used in self._unread:
            result = self._reader.seek(cursor)
            if result is None or result[0] != cursor:
                raise UserError("the corpus has changed: a document that was partly used is missing")
            self._pending.append(PendingDocument(cursor, result[1], used))
        self._unread = ()

    def _add(self, item: PendingDocument, window: Window, start: int, segment: int) -> int:
        """Writes the unused tokens of a document into the window at `start`, as many as fit; returns their number."""
        room = self._length - start
        ids, weights, kind, split = self._form(item, room)
        offset = item.used
        if offset >= len(ids):
            raise UserError(f"the corpus has changed: {item.document.path} has become shorter")
        count = min(room, len(ids) - offset)
        span = slice(start, start + count)
        window.arrays["tokens"][span] = ids[offset : offset + count]
        window.arrays["segment_ids"][span] = segment
        window.arrays["positions"][span] = np.arange(count) + (0 if self._restart_positions else start)
        # A target is the next token of the same document. The last token of a document has no target, because the next
        # token belongs to another document. The last token of a window has one: the first token of the next window.
        targets = ids[offset + 1 : offset + count + 1]
        target_span = slice(start, start + len(targets))
        window.arrays["targets"][target_span] = targets
        window.arrays["loss_weights"][target_span] = 1 if weights is None else weights[offset + 1 : offset + count + 1]
        if offset == 0:
            window.started.append(PackedDocument(item.document, kind, ids, split))
        window.documents.append(item.document)
        window.tokens[kind] += count
        item.used += count
        if item.used < len(ids):
            self._pending.insert(0, item)  # its remaining tokens start the next window
        return count

    def _choose(self, room: int) -> PendingDocument | None:
        """Chooses the next document for a window with this much room; None after the last document."""
        pending = self._pending
        if pending and pending[0].used:
            return pending.pop(0)
        for index, item in enumerate(pending):
            if self._full_length(item) <= room:
                return pending.pop(index)
        while self._queue and len(pending) <= self._queue and (item_read := self._read()) is not None:
            if self._full_length(item_read) <= room:
                return item_read
            pending.append(item_read)
        # No document fits. One that is longer than any window has to be cut anyway, so it fills this one.
        for index, item in enumerate(pending):
            if self._full_length(item) > self._length:
                return pending.pop(index)
        return pending.pop(0) if pending else self._read()

    def _read(self) -> PendingDocument | None:
        result = self._reader.seek(self._next)
        if result is None:
            return None
        cursor, document = result
        self._next = cursor._replace(document=cursor.document + 1)
        return PendingDocument(cursor, document)

    def _full_length(self, item: PendingDocument) -> int:
        """Tokens of the form that the document has in an empty window."""
        infilling = self._infilling(item, self._length)
        return len(infilling[1]) if infilling else len(self._plain(item)[0])

    def _form(self, item: PendingDocument, room: int) -> tuple[np.ndarray, np.ndarray | None, str, FimSplit | None]:
        """The document's ids, weights, kind and split in a window with this much room."""
        if not item.used and (infilling := self._infilling(item, room)):
            split, ids = infilling
            return ids, None, split.order, split
        ids, weights = self._plain(item)
        return ids, weights, "cut" if item.used or len(ids) > room else "plain", None

    def _plain(self, item: PendingDocument) -> tuple[np.ndarray, np.ndarray | None]:
        if item.plain is None:
            item.plain = self._encoder.plain(item.document)
        return item.plain

    def _infilling(self, item: PendingDocument, room: int) -> tuple[FimSplit, np.ndarray] | None:
        """The document's infilling form, if one was drawn and it fits the room."""
        if not item.split_drawn:
            item.split_drawn = True
            item.split = self._encoder.draw_split(item.document, self._reader.key(item.cursor))
        if item.split is None or not isinstance(item.document, Document):
            return None
        if item.infilling is None:
            # Encoding dominates the cost. A text that probably does not fit is first encoded in its plain form. If that
            # does not fit, neither does the infilling form, which has more ids and need not be encoded.
            if len(item.document.text) > CHARACTERS_PER_TOKEN * room and len(self._plain(item)[0]) > room:
                return None
            item.infilling = self._encoder.infilling(item.document, item.split)
        return (item.split, item.infilling) if len(item.infilling) <= room else None
