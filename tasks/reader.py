"""The documents of one lane of one stream, in an order that is a function of seed, lane and number alone."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from codellama_jax.errors import UserError
from tasks.packing import Cursor
from tasks.sources.base import Block, Dialogue, Document, Source, binding
from tasks.sources.filters import LeftOut, format_counts


@functools.lru_cache(maxsize=16)
def _permutation(seed: tuple[int, ...], count: int) -> np.ndarray:
    """The order of pieces in one epoch; one array for all readers."""
    return np.random.default_rng(seed).permutation(count)


class Reader:
    """The documents of one lane of one stream: each lane takes each `readers`-th piece of an order that is drawn
    anew for each epoch, and the documents of each block in an order that is drawn as well.

    Where there are fewer pieces than readers, a piece is dealt out to several: each takes every n-th document of a
    block.

    Args:
        source: of the stream.
        lane, readers: this lane's number, and how many there are.
        seed: of the order.
        check: raises LeftOut for a document that is not taken.
        shuffle: False takes pieces and documents as the source has them.
        endless: False ends after one epoch.

    Attributes:
        left_out: filter -> documents that it left out of what this lane has read since it was opened, over at most as
            many pieces as there are.
        examples: filter -> the first place where it left one out.
    """

    def __init__(
        self,
        source: Source,
        lane: int,
        readers: int,
        seed: Sequence[int],
        check: Callable[[Document | Dialogue], None],
        shuffle: bool = True,
        endless: bool = True,
    ):
        self._source, self._lane, self._lanes = source, lane, readers
        self._seed, self._check, self._shuffle, self._endless = tuple(seed), check, shuffle, endless
        self._shares = -(-readers // len(source))  # readers that a piece is dealt out to
        self.pieces = len(source) * self._shares
        self._block: tuple[int, int, list] = (-1, -1, [])  # the one in hand: piece, number, documents
        self._blocks: Iterator[Block] = iter(())  # those after it
        self._counted, self._first = (-1, -1), -1
        self._barren = False  # no document has come of the piece in hand, all of which was read
        self._empty: set[int] = set()  # pieces of the source of which none came, since the last document
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, object] = {}

    def number(self, piece: int) -> int:
        """Number of the lane's piece among all readers' pieces, over all epochs."""
        return piece * self._lanes + self._lane

    def key(self, place: Cursor) -> tuple[int, ...]:
        """What identifies a document among all readers and epochs."""
        piece, block, document = place
        return self.number(piece), block, document

    def find(self, place: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        """The first document at a place or after it, and where it stands; None past the last.

        Raises:
            UserError: all pieces were read, and there was none.
        """
        piece, block, document = place
        while len(self._empty) < len(self._source):
            if not self._endless and self.number(piece) >= self.pieces:
                return None
            documents = self._documents(piece, block)
            if documents is None:
                piece, block, document = piece + 1, 0, 0
            elif document < len(documents):
                return (piece, block, document), documents[document]
            else:
                block, document = block + 1, 0
        name = self._source.name
        raise UserError(
            f"{binding(name)}: there is no usable document in {name}"
            + (f"; left out: {format_counts(self.left_out)}" if self.left_out else "")
        )

    def _documents(self, piece: int, block: int) -> list | None:
        """The documents of a block in the lane's order; None past the last of a piece."""
        if self._block[:2] == (piece, block):
            return self._block[2]
        epoch, index = divmod(self.number(piece), self.pieces)
        if self._shuffle:
            index = int(_permutation((*self._seed, epoch), self.pieces)[index])
        index, share = divmod(index, self._shares)
        if self._block[:2] != (piece, block - 1):
            self._blocks = iter(self._source.read(index, block))
            self._barren = block == 0
        read = next(self._blocks, None)
        if read is None:
            self._block = (-1, -1, [])
            if self._barren:
                self._empty.add(index)
            return None
        documents = self._checked(read, piece, block, counts=share == 0)
        if documents:
            self._barren = False
            self._empty.clear()
        documents = documents[share :: self._shares]
        if self._shuffle and len(documents) > 1:
            order = np.random.default_rng([*self._seed, self.number(piece), block]).permutation(len(documents))
            documents = [documents[i] for i in order]
        self._block = (piece, block, documents)
        return documents

    def _checked(self, block: Block, piece: int, number: int, counts: bool) -> list:
        """What is taken of a block; notes the rest, once."""
        taken, left_out = [], list(block.left_out)
        for item in block.items:
            try:
                self._check(item)
                taken.append(item)
            except LeftOut as refusal:
                left_out.append((refusal.reason, getattr(item, "location", item.path)))
        self._first = piece if self._first < 0 else self._first
        within = self.number(piece) - self._first * self._lanes < self.pieces
        if counts and within and (piece, number) > self._counted:
            self._counted = piece, number
            for reason, where in left_out:
                self.left_out[reason] += 1
                self.examples.setdefault(reason, where)
        return taken
