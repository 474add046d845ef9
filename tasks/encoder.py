"""Encodes the documents of a stream as token ids."""

import dataclasses

import numpy as np

from codellama_jax.chat import encode_dialogue
from codellama_jax.config.data import LAST_TURNS, Chat, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks import dialogues
from tasks.fim import FimSplit, draw_split, encode_infilling, encode_plain
from tasks.sources.base import Dialogue, Document


@dataclasses.dataclass
class Encoder:
    """Encodes documents and dialogues, plain or in an infilling form.

    Attributes:
        tokenizer: the run's tokenizer.
        fim: the infilling transform. It applies to documents, not to dialogues.
        chat: the dialogue format.
        seed: integers that, together with a document's key, determine its infilling.
        long_dialogues: Packing.long_dialogues.
    """

    tokenizer: Tokenizer
    fim: Fim
    chat: Chat
    seed: tuple[int, ...]
    long_dialogues: str = LAST_TURNS

    def validate(self, document: Document | Dialogue) -> None:
        """Raises LeftOut for a dialogue that the chat format cannot express."""
        if isinstance(document, Dialogue):
            dialogues.validate(document.messages, self.chat.format, self.tokenizer)

    def plain(self, document: Document | Dialogue) -> tuple[np.ndarray, np.ndarray | None]:
        """The ids of the plain form, and the weight of each id as a target (None: all 1)."""
        if isinstance(document, Dialogue):
            return encode_dialogue(self.tokenizer, document.messages, self.chat.format, document.path)
        return encode_plain(self.tokenizer, document.text), None

    def dialogue(self, dialogue: Dialogue, length: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """The ids of a dialogue in a window of `length` tokens, their weights as targets, and whether it is shortened.

        Raises:
            LeftOut: the dialogue does not fit, and cannot or shall not be shortened.
        """
        last_turns = self.long_dialogues == LAST_TURNS
        return dialogues.encode_in_window(
            self.tokenizer, dialogue.messages, self.chat.format, length, last_turns, dialogue.path
        )

    def draw_split(self, document: Document | Dialogue, key: tuple[int, ...]) -> FimSplit | None:
        """The infilling split of this document: a pure function of seed and key. None if it is not transformed."""
        if isinstance(document, Dialogue) or self.fim.rate == 0:
            return None
        return draw_split(document.text, self.fim, np.random.default_rng([*self.seed, *key]))

    def infilling(self, document: Document, split: FimSplit) -> np.ndarray:
        """Ids of the infilling form."""
        return encode_infilling(self.tokenizer, document.text, split)
