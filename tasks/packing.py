"""Documents into full windows of a fixed length, resumable from a few integers.

Documents are concatenated and cut at the window's edge (arXiv 2308.12950, section 2.3: infilling only for documents
that are not cut). A document whose infilling form fits what is left of its window takes it, if one was drawn; else it
is plain if that fits; else it is cut, and its rest opens the next window.
"""

import dataclasses
from collections import Counter
from typing import Protocol

import numpy as np

from codellama_jax.config.data import Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks import chat
from tasks.fim import Cut, draw, encode_cut, encode_plain
from tasks.sources.base import Dialogue, Document

FEATURES = {
    "tokens": np.int32,
    "targets": np.int32,  # the next token of the same document
    "segment_ids": np.int32,  # 1, 2, ... for the documents of a window; 0 is padding (validation only)
    "positions": np.int32,
    "loss_weights": np.float32,  # of the target; 0 at a document's last token and on prompts
    "stream_ids": np.int32,
}

LIKELY = 2.5  # characters a token, below which a text of code is likely to fit


@dataclasses.dataclass
class Encoder:
    """Gives documents their forms as ids.

    Attributes:
        tokenizer, fim, chat: how.
        seed: integers that, with a document's key, decide its infilling.
    """

    tokenizer: Tokenizer
    fim: Fim
    chat: Chat
    seed: tuple[int, ...]

    def check(self, document: Document | Dialogue) -> None:
        """Raises LeftOut if it is a dialogue that the chat format cannot have."""
        if isinstance(document, Dialogue):
            chat.check(document.messages, self.chat.format)

    def plain(self, document: Document | Dialogue) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids with BOS and EOS, and each id's weight as a target (None: all 1)."""
        if isinstance(document, Dialogue):
            return chat.encode_dialogue(self.tokenizer, document.messages, self.chat.format, document.path)
        return encode_plain(self.tokenizer, document.text), None

    def cut(self, document: Document | Dialogue, key: tuple[int, ...]) -> Cut | None:
        """The infilling drawn for this document, a pure function of seed and key; None for dialogues."""
        if isinstance(document, Dialogue) or self.fim.rate == 0:
            return None
        return draw(document.text, self.fim, np.random.default_rng([*self.seed, *key]))

    def infilled(self, document: Document, cut: Cut) -> np.ndarray:
        """Ids of the infilling form."""
        return encode_cut(self.tokenizer, document.text, cut)


# Where a document stands in a lane: piece (counted over all epochs), block, document.
Cursor = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class PackerState:
    """Where a packer goes on: the whole of its state.

    Attributes:
        next: the place from which documents are taken.
        held: documents before it that are not used up, in order: (place, tokens of it that were used up). Those are 0
            but for one that was cut at the end of the last window, which comes first.
    """

    next: Cursor = (0, 0, 0)
    held: tuple[tuple[Cursor, int], ...] = ()

    def row(self, queue: int) -> np.ndarray:
        """As int64 [queue + 2, 4]: next, then held; unused rows are -1."""
        row = np.full((queue + 2, 4), -1, np.int64)
        row[0] = *self.next, 0
        for index, (place, used) in enumerate(self.held, 1):
            row[index] = *place, used
        return row

    @classmethod
    def of_row(cls, row: np.ndarray) -> "PackerState":
        """What `row` gave."""
        (first, *held) = [((int(a), int(b), int(c)), int(used)) for a, b, c, used in row if a >= 0]
        return cls(first[0], tuple(held))


class Documents(Protocol):
    """The documents of one lane of one stream, in an order that never changes."""

    def find(self, place: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The first document at a place or after it, and where it stands; None past the last."""

    def key(self, place: Cursor) -> tuple[int, ...]:
        """Integers that identify the document at a place among all lanes and epochs."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """A document that begins in a window.

    Attributes:
        document: as the source gave it.
        kind: plain, psm, spm, or cut (plain, and continued in the next window).
        tokens: all its ids in that form, with BOS and EOS.
        cut: where an infilling form was cut.
    """

    document: Document | Dialogue
    kind: str
    tokens: np.ndarray
    cut: Cut | None


@dataclasses.dataclass
class Window:
    """Attributes:
    arrays: the FEATURES but stream_ids, each [length].
    tokens: by kind of their document: plain, psm, spm, cut.
    begun: documents that begin here.
    documents: all that have tokens here.
    """

    arrays: dict[str, np.ndarray]
    tokens: Counter[str]
    begun: list[Packed]
    documents: list[Document | Dialogue]


@dataclasses.dataclass
class _Held:
    """A document that a packer has in hand, and its forms as far as they were asked for."""

    place: Cursor
    document: Document | Dialogue
    used: int = 0
    plain: tuple[np.ndarray, np.ndarray | None] | None = None
    drawn: bool = False
    cut: Cut | None = None
    infilled: np.ndarray | None = None


class Packer:
    """Packs one lane of one stream.

    A document that fits what is left of its window is put there: in its infilling form if one was drawn and that fits,
    else plain. With queue = 0, one that does not fit is cut. With a queue it may wait for a window that it fits, and
    its place is given to the first one that does, of those that wait and then of those that come next; where the queue
    is full and none fits, the first one of those that fit no window at all is cut, or else the first one.

    Args:
        documents: of the lane.
        encoder: gives documents their forms.
        length: tokens of a window.
        restart_positions: count positions from 0 in each document instead of over the window.
        queue: documents that may wait.
        position: where to begin.
    """

    def __init__(
        self,
        documents: Documents,
        encoder: Encoder,
        length: int,
        restart_positions: bool,
        queue: int = 0,
        position: PackerState | None = None,
    ):
        self._documents, self._encoder = documents, encoder
        self._length, self._restart_positions, self._queue = length, restart_positions, queue
        position = position or PackerState()
        self._next = position.next
        # Found again when the first window is asked for: a source may be slow to open.
        self._unread = position.held
        self._held: list[_Held] = []

    @property
    def position(self) -> PackerState:
        """After the last window."""
        return PackerState(self._next, self._unread or tuple((held.place, held.used) for held in self._held))

    def next_window(self) -> Window | None:
        """The next window; None when the documents are used up. Only the last one before None may be padded.

        Raises:
            UserError: the corpus has changed since the position was noted.
        """
        for place, used in self._unread:
            found = self._documents.find(place)
            if found is None or found[0] != place:
                raise UserError("the corpus is not what it was: a document that the stream had begun is gone")
            self._held.append(_Held(place, found[1], used))
        self._unread = ()
        arrays = {name: np.zeros(self._length, dtype) for name, dtype in FEATURES.items() if name != "stream_ids"}
        window = Window(arrays, Counter(), [], [])
        filled = segment = 0
        while filled < self._length and (held := self._choose(self._length - filled)) is not None:
            segment += 1
            ids, weights, kind, cut = self._form(held, self._length - filled)
            offset = held.used
            if offset >= len(ids):
                raise UserError(f"the corpus is not what it was: {held.document.path} has become shorter")
            taken = min(self._length - filled, len(ids) - offset)
            here = slice(filled, filled + taken)
            arrays["tokens"][here] = ids[offset : offset + taken]
            arrays["segment_ids"][here] = segment
            arrays["positions"][here] = np.arange(taken) + (0 if self._restart_positions else filled)
            # A target is the next token of the same document. The last token of a document has none: what follows it
            # belongs to another. The last of a window has one, which is the first token of the next window.
            targets = ids[offset + 1 : offset + taken + 1]
            there = slice(filled, filled + len(targets))
            arrays["targets"][there] = targets
            arrays["loss_weights"][there] = 1 if weights is None else weights[offset + 1 : offset + taken + 1]
            if offset == 0:
                window.begun.append(Packed(held.document, kind, ids, cut))
            window.documents.append(held.document)
            window.tokens[kind] += taken
            filled += taken
            held.used += taken
            if held.used < len(ids):
                self._held.insert(0, held)  # its rest opens the next window
        return window if filled else None

    def _choose(self, room: int) -> _Held | None:
        """Takes the document that comes next in a window with this much room; None at the end of all."""
        waiting = self._held
        if waiting and waiting[0].used:
            return waiting.pop(0)
        for index, held in enumerate(waiting):
            if self._whole(held) <= room:
                return waiting.pop(index)
        while self._queue and len(waiting) <= self._queue and (taken := self._take()) is not None:
            if self._whole(taken) <= room:
                return taken
            waiting.append(taken)
        # Nothing fits. What fits no window is cut anyway, so it is what fills this one.
        for index, held in enumerate(waiting):
            if self._whole(held) > self._length:
                return waiting.pop(index)
        return waiting.pop(0) if waiting else self._take()

    def _take(self) -> _Held | None:
        found = self._documents.find(self._next)
        if found is None:
            return None
        (piece, block, document), item = found
        self._next = piece, block, document + 1
        return _Held(found[0], item)

    def _whole(self, held: _Held) -> int:
        """Tokens of the form that the document would have in a window of its own."""
        infilled = self._infilled(held, self._length)
        return len(infilled[1]) if infilled else len(self._plain(held)[0])

    def _form(self, held: _Held, room: int) -> tuple[np.ndarray, np.ndarray | None, str, Cut | None]:
        """The document's ids, weights, kind and cut in a window with this much room."""
        if not held.used and (infilled := self._infilled(held, room)):
            cut, ids = infilled
            return ids, None, cut.order, cut
        ids, weights = self._plain(held)
        return ids, weights, "cut" if held.used or len(ids) > room else "plain", None

    def _plain(self, held: _Held) -> tuple[np.ndarray, np.ndarray | None]:
        if held.plain is None:
            held.plain = self._encoder.plain(held.document)
        return held.plain

    def _infilled(self, held: _Held, room: int) -> tuple[Cut, np.ndarray] | None:
        """The document's infilling form, if one was drawn and it fits the room."""
        if not held.drawn:
            held.drawn = True
            held.cut = self._encoder.cut(held.document, self._documents.key(held.place))
        if held.cut is None or not isinstance(held.document, Document):
            return None
        if held.infilled is None:
            # Encoding is what costs. A text that is likely not to fit is encoded plain first, which is what it then
            # needs anyway; if that does not fit, neither does the other form, which has four ids and two seams more.
            if len(held.document.text) > LIKELY * room and len(self._plain(held)[0]) > room:
                return None
            held.infilled = self._encoder.infilled(held.document, held.cut)
        return (held.cut, held.infilled) if len(held.infilled) <= room else None
