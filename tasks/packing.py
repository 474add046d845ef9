"""Documents into full windows of a fixed length, resumable from three integers.

Documents are concatenated and cut at the window's edge (arXiv 2308.12950, section 2.3: infilling only for documents
that are not cut). A document that fits what is left of its window may take its infilling form, if one was drawn and it
fits as well; a document that does not fit stays plain, and its rest opens the next window.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from codellama_jax.tokenizer import Tokenizer
from tasks import chat
from tasks.config import Chat, Fim
from tasks.fim import Cut, draw, encode_cut, encode_plain
from tasks.sources import Dialogue, Document

FEATURES = {
    "tokens": np.int32,
    "targets": np.int32,  # the next token of the same document
    "segment_ids": np.int32,  # 1, 2, ... for the documents of a window; 0 is padding (validation only)
    "positions": np.int32,
    "loss_weights": np.float32,  # of the target; 0 at a document's last token and on prompts
    "stream_ids": np.int32,
}


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

    def plain(self, document: Document | Dialogue) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids with BOS and EOS, and each id's weight as a target (None: all 1)."""
        if isinstance(document, Dialogue):
            return chat.encode_dialogue(self.tokenizer, document.messages, self.chat.format, document.path)
        return encode_plain(self.tokenizer, document.text), None

    def cut(self, document: Document | Dialogue, key: tuple[int, ...]) -> Cut | None:
        """The infilling drawn for this document, a pure function of seed and key; None for dialogues."""
        if isinstance(document, Dialogue) or self.fim.rate == 0:
            return None
        return draw(len(document.text), self.fim, np.random.default_rng([*self.seed, *key]))

    def infilled(self, document: Document, cut: Cut) -> np.ndarray:
        """Ids of the infilling form."""
        return encode_cut(self.tokenizer, document.text, cut)


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a packer goes on: the whole of its state.

    Attributes:
        file: files that were used up.
        document: documents of the next file that were used up.
        offset: tokens of the next document (in its plain form) that were used up.
    """

    file: int = 0
    document: int = 0
    offset: int = 0


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
    infilling_tokens: tokens of documents in an infilling form.
    begun: documents that begin here.
    """

    arrays: dict[str, np.ndarray]
    infilling_tokens: int
    begun: list[Packed]


class Packer:
    """Packs one lane of one stream.

    Args:
        read: file number, counted from 0 -> its documents, [] where the file is left out, None past the last.
        key: file and document number -> integers that identify the document among all lanes and epochs.
        encoder: gives documents their forms.
        length: tokens of a window.
        restart_positions: count positions from 0 in each document instead of over the window.
        position: where to begin.
    """

    def __init__(
        self,
        read: Callable[[int], Sequence[Document | Dialogue] | None],
        key: Callable[[int, int], tuple[int, ...]],
        encoder: Encoder,
        length: int,
        restart_positions: bool,
        position: Position | None = None,
    ):
        self._read, self._key, self._encoder = read, key, encoder
        self._length, self._restart_positions = length, restart_positions
        self.position = position or Position()
        self._file: tuple[int, Sequence[Document | Dialogue] | None] = (-1, None)  # the one in hand, by number
        self._plain: tuple[Position, Any] = (Position(-1), None)  # the document in hand, encoded

    def next_window(self) -> Window | None:
        """The next window; None when the documents are used up. Only the last one before None may be padded."""
        arrays = {name: np.zeros(self._length, dtype) for name, dtype in FEATURES.items() if name != "stream_ids"}
        window = Window(arrays, 0, [])
        filled = segment = 0
        while filled < self._length and (document := self._document()) is not None:
            segment += 1
            ids, weights, kind, cut = self._form(document, self._length - filled)
            offset = self.position.offset
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
                window.begun.append(Packed(document, kind, ids, cut))
            window.infilling_tokens += taken if kind in ("psm", "spm") else 0
            filled += taken
            position = self.position
            if offset + taken == len(ids):
                self.position = Position(position.file, position.document + 1)
            else:
                self.position = dataclasses.replace(position, offset=offset + taken)
        return window if filled else None

    def _document(self) -> Document | Dialogue | None:
        """The document at the position, after moving it past the end of files; None at the end of all."""
        while True:
            number, documents = self._file
            if number != self.position.file:
                number, documents = self._file = (self.position.file, self._read(self.position.file))
            if documents is None:
                return None
            if self.position.document < len(documents):
                return documents[self.position.document]
            self.position = Position(number + 1)

    def _form(self, document: Document | Dialogue, room: int) -> tuple[np.ndarray, np.ndarray | None, str, Cut | None]:
        """The document's ids, weights, kind and cut in a window with this much room."""
        here = dataclasses.replace(self.position, offset=0)
        if self._plain[0] != here:
            self._plain = (here, self._encoder.plain(document))
        ids, weights = self._plain[1]
        if self.position.offset or len(ids) > room:
            return ids, weights, "cut", None
        cut = self._encoder.cut(document, self._key(here.file, here.document))
        if cut is not None and isinstance(document, Document):
            infilled = self._encoder.infilled(document, cut)
            if len(infilled) <= room:
                return infilled, None, cut.order, cut
        return ids, weights, "plain", None
