"""What every tokenizer of this project does: text to ids and back, and the ids that never come from text."""

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.tokenizer.infilling import Markers, Order

MODEL, JSON = "tokenizer.model", "tokenizer.json"  # the file of each kind of tokenizer


class Tokenizer(abc.ABC):
    """Encodes text to ids and decodes ids to text. Text is never encoded as a control token.

        tokenizer = open_tokenizer("tokenizer.model", infilling=True)  # or tokenizer.json, or a folder with one of them
        tokenizer.encode("def f():\\n")  # array([ 822,  285, 7295,   13], dtype=int32)

    Attributes:
        file_name: MODEL or JSON, the name of its file.
        model: the content of that file.
        files: all files that describe it, by name: what a checkpoint of its model carries.
        implicit_space: whether `encode` puts a space before a text, as Llama 2's SentencePiece model does.
        normalization: the Unicode normal form that text is brought into before it is encoded; None: text stays as it
            is, and decode(encode(text)) == text.
        infilling: whether there are ids for infilling.
        orders: the orders of infilling that models with these ids were trained on, the preferred one first.
        pieces: number of ids up to the last that text is encoded with.
        rows: number of rows that a model's embedding needs.
        bos_id: the id that begins a text; None: texts begin without one.
        eos_id: the id that ends a text.
        unk_id, pad_id: the ids of unknown text and of padding; None: there is none.
        end_ids: further ids that end an answer, such as the end of a turn in dialogues.
        separator_ids: ids that end what a model writes in a hole, such as those between files.
        prefix_id, suffix_id, middle_id, eot_id: the ids of infilling (tokenizer/infilling.py); None without infilling.
        markers: the names of the tokens of infilling; None if the tokenizer's file does not name them.
        step_id: the id of <step> in the dialogue format "source"; None if there is none.
        fingerprint: hex SHA-256 of what determines the ids, stored with data that was encoded with the tokenizer.
        control_ids: the ids of tokens that never come from text, by their names.
        token_names: names of special tokens, such as "bos_token", as chat templates read them.
        chat_template: the template of dialogues in the language of Jinja; None: it has none.
        stripping: control tokens that remove the white space before or after them in a rendered template.
    """

    file_name: ClassVar[str]
    no_infilling: ClassVar[str]  # the error message of infilling without its ids

    model: bytes
    files: dict[str, bytes]
    implicit_space: bool
    normalization: str | None = None
    infilling: bool
    orders: tuple[Order, ...] = ("spm", "psm")
    pieces: int
    rows: int
    bos_id: int | None
    eos_id: int
    unk_id: int | None = None
    pad_id: int | None = None
    end_ids: tuple[int, ...] = ()
    separator_ids: tuple[int, ...] = ()
    prefix_id: int | None = None
    suffix_id: int | None = None
    middle_id: int | None = None
    eot_id: int | None = None
    markers: Markers | None = None
    step_id: int | None = None
    fingerprint: str
    control_ids: Mapping[str, int]
    token_names: Mapping[str, str]
    chat_template: str | None = None
    stripping: Mapping[str, tuple[bool, bool]] = {}  # never changed

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encodes a text, with the implicit leading space if there is one, without BOS and EOS; returns int32 ids."""

    @abc.abstractmethod
    def encode_continuation(self, text: str) -> np.ndarray:
        """Encodes the continuation of a text, without the implicit leading space; returns int32 ids.

        With an implicit space, encode(text) == encode_continuation(" " + text) for every text except the empty one.
        """

    def encode_segment(self, text: str, first: bool) -> np.ndarray:
        """Encodes text beside control tokens in a rendered chat template, as transformers does; returns int32 ids.

        Args:
            text: the text between two control tokens, or before or after one.
            first: whether it begins the rendered template.
        """
        return self.encode(text)

    @abc.abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids from `encode`. Ids that represent no text (BOS, EOS, infilling, padding) are dropped.

        Bytes that are not UTF-8, which a model may generate, become U+FFFD.
        """

    @abc.abstractmethod
    def decode_continuation(self, ids: Iterable[int]) -> str:
        """Decodes ids from `encode_continuation`: like `decode`, but keeps a leading space."""

    @abc.abstractmethod
    def token_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; b"" for control ids. Ids beyond the list represent no text."""

    @abc.abstractmethod
    def vocabulary(self) -> Sequence[Any]:
        """What each id means, in the order of the ids: two tokenizers of a kind agree where these values do."""

    @property
    def start_ids(self) -> list[int]:
        """The ids that begin a text: BOS, or none."""
        return [] if self.bos_id is None else [self.bos_id]

    def stop_ids(self, *first: int | None) -> tuple[int, ...]:
        """The ids that end what a model writes: those given, then eos_id, eot_id and end_ids; at most eight."""
        wanted = (*first, self.eos_id, self.eot_id, *self.end_ids)
        return tuple(dict.fromkeys(id for id in wanted if id is not None))[:8]

    def prompt_ids(self, text: str) -> list[int]:
        """The ids of the beginning of a text. There is at least one: without BOS, an empty text is EOS."""
        return [*self.start_ids, *self.encode(text).tolist()] or [self.eos_id]

    def token_name(self, id: int) -> str:
        """The name of a control token; <ID> of an id without a name."""
        return next((name for name, other in self.control_ids.items() if other == id), f"<{id}>")

    def infilling_prompt(self, prefix: str, suffix: str, order: Order = "psm") -> np.ndarray:
        """Makes the int32 ids of an infilling prompt. The model continues it with the middle and ends with eot_id.

            psm  BOS PRE enc(prefix) SUF encI(suffix) MID
            spm  BOS PRE SUF encI(suffix) MID enc(prefix)

        Here enc is `encode`, and encI is `encode_continuation`. `decode_continuation` decodes what the model generates
        after either prompt.

        Raises:
            UserError: the tokenizer has no infilling ids.
            ValueError: `order` is neither "psm" nor "spm".
        """
        if not self.infilling:
            raise UserError(self.no_infilling)
        return self.infilling_ids(self.encode(prefix), self.encode_continuation(suffix), order)

    def infilling_ids(self, before: np.ndarray, after: np.ndarray, order: Order) -> np.ndarray:
        """The infilling prompt of a prefix and a suffix that are ids already; see `infilling_prompt`.

        Raises:
            ValueError: `order` is neither "psm" nor "spm".
        """
        parts: list[Any]
        if order == "psm":
            parts = [[*self.start_ids, self.prefix_id], before, [self.suffix_id], after, [self.middle_id]]
        elif order == "spm":
            parts = [[*self.start_ids, self.prefix_id, self.suffix_id], after, [self.middle_id], before]
        else:
            raise ValueError(f"order is {order!r}; it must be 'psm' or 'spm'")
        return np.concatenate([np.asarray(part, np.int32) for part in parts])
