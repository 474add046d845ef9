"""Packs dialogues into windows. A dialogue is never cut: an answer without its question is not a training example.

The paper does not describe how dialogues are packed; this is our choice.
"""

import numpy as np

from codellama_jax.errors import UserError
from tasks.fim import FimSplit
from tasks.packing import Packer, PendingDocument
from tasks.sources.base import Dialogue
from tasks.sources.filters import LeftOut


class DialoguePacker(Packer):
    """Packs the dialogues of one reader.

    A window begins with the dialogue that has waited longest. Then, of the dialogues that wait, the longest one that
    fits the rest of the window is added, until none fits. The rest of the window is padding. At most `queue` dialogues
    wait, and at least one. A dialogue that is longer than a window is shortened or left out, as the encoder's
    `long_dialogues` says.
    """

    def _choose(self, room: int) -> PendingDocument | None:
        pending = self._pending
        while len(pending) < max(self._queue, 1) and (item := self._read()) is not None:
            pending.append(item)
        if room == self._length:
            return pending.pop(0) if pending else None
        fitting = [(len(self._plain(item)[0]), -index) for index, item in enumerate(pending)]
        length, index = max((entry for entry in fitting if entry[0] <= room), default=(0, 0))
        return pending.pop(-index) if length else None

    def _plain(self, item: PendingDocument) -> tuple[np.ndarray, np.ndarray | None]:
        if item.plain is None:
            assert isinstance(item.document, Dialogue)
            ids, weights, item.shortened = self._encoder.dialogue(item.document, self._length)
            item.plain = ids, weights
        return item.plain

    def _form(self, item: PendingDocument, room: int) -> tuple[np.ndarray, np.ndarray | None, str, FimSplit | None]:
        ids, weights = self._plain(item)
        return ids, weights, "last_turns" if item.shortened else "plain", None

    def _read_pending(self) -> None:
        super()._read_pending()
        for item in self._pending:
            try:
                self._plain(item)
            except LeftOut:
                raise UserError(f"the corpus has changed: {item.document.path} has become longer") from None

    def _read(self) -> PendingDocument | None:
        """The next dialogue that can be brought into a window."""
        while (item := super()._read()) is not None:
            try:
                self._plain(item)
                return item
            except LeftOut as error:
                self._reader.leave_out(item.cursor, error.reason, item.document)
        return None
