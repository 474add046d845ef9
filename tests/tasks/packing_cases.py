"""Documents, packers and their expected windows, for the tests of packing."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codellama_jax.config.data import Chat, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks.encoder import Encoder
from tasks.fim import encode_infilling
from tasks.packing import Cursor, PackedDocument, Packer, PackerState, Window
from tasks.sources.base import Dialogue, Document

LENGTHS = [1, 2, 3, 7, 16, 64, 257]
QUEUES = [0, 1, 4, 16]
# (length of a window, length of the queue). Most documents fit 64 tokens, few fit 16, and none fits 1.
SIZES = [(1, 0), (7, 0), (64, 0), (257, 0), (2, 4), (16, 1), (16, 16), (64, 1), (64, 4), (64, 16)]
USUAL, ALWAYS, NEVER = Fim(), Fim(rate=1.0), Fim(rate=0.0)
Fuzz = Callable[[np.random.Generator, int], str]
Files = Sequence[Sequence[Document | Dialogue]]

sizes = pytest.mark.parametrize("length, queue", SIZES)


class ListReader:
    """The documents of a list of files, as a DocumentReader that records the requested cursors."""

    def __init__(self, files: Files):
        self._files = files
        self.requested: list[Cursor] = []
        self.left_out: list[tuple[Cursor, str]] = []

    def seek(self, cursor: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        self.requested.append(cursor)
        shard, _, document = cursor
        while shard < len(self._files):
            if document < len(self._files[shard]):
                return Cursor(shard, 0, document), self._files[shard][document]
            shard, document = shard + 1, 0
        return None

    def key(self, cursor: Cursor) -> tuple[int, ...]:
        return cursor

    def leave_out(self, cursor: Cursor, reason: str, document: Document | Dialogue) -> None:
        self.left_out.append((cursor, reason))


def encoder(tokenizer: Tokenizer, fim: Fim = USUAL) -> Encoder:
    return Encoder(tokenizer, fim, Chat(), seed=(0, 7))


def packer(
    files: Files,
    encoder: Encoder,
    length: int,
    queue: int = 0,
    restart: bool = False,
    state: PackerState | None = None,
) -> Packer:
    return Packer(ListReader(files), encoder, length, restart, queue, state)


def windows_of(packer: Packer) -> list[Window]:
    windows = list(itertools.islice(iter(packer.next_window, None), 50_000))
    assert len(windows) < 50_000, "the packer does not end"
    return windows


def started_in(windows: list[Window]) -> list[PackedDocument]:
    return [packed for window in windows for packed in window.started]


def concatenated(windows: list[Window], name: str) -> np.ndarray:
    """A feature of all windows, one after another, without padding."""
    values = np.concatenate([window.arrays[name] for window in windows])
    return values[np.concatenate([window.arrays["segment_ids"] for window in windows]) > 0]


def same_window(one: Window | None, other: Window | None) -> bool:
    if one is None or other is None:
        return one is other
    started = [
        (packed.document, packed.kind, packed.split, packed.tokens.tolist())
        for w in (one, other)
        for packed in w.started
    ]
    return (
        all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)
        and one.tokens == other.tokens
        and started[: len(one.started)] == started[len(one.started) :]
    )


def fuzzed_files(
    fuzzed: Fuzz, seed: int, longest: int = 300, dialogues: bool = False
) -> list[list[Document | Dialogue]]:
    """Files of zero or more documents. Many are shorter than a window of 64 tokens, some longer than several."""
    rng = np.random.default_rng(seed)
    files: list[list[Document | Dialogue]] = []
    for number in range(60):
        file: list[Document | Dialogue] = []
        for index in range(rng.integers(0, 4)):
            where = f"{number}/{index}"
            if dialogues and rng.random() < 0.5:
                question, answer = (
                    fuzzed(rng, int(rng.integers(5, 60))).replace("[", "").replace("<", "") for _ in "ab"
                )
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.append(Dialogue(messages * int(rng.integers(1, 3)), where))
            else:
                characters = int(longest ** rng.random()) - 1 if rng.random() < 0.9 else 4 * longest
                file.append(Document(fuzzed(rng, characters), where))
        files.append(file)
    return files


def short_files(number: int, seed: int) -> list[list[Document | Dialogue]]:
    """Documents of 3 to 52 tokens for any tokenizer: every digit is a token."""
    digits = np.random.default_rng(seed).integers(0, 50, number)
    return [[Document("7" * int(count), str(index))] for index, count in enumerate(digits)]


def document_of(tokenizer: Tokenizer, tokens: int) -> Document:
    """A document of exactly this many tokens with BOS and EOS: a digit is a token, and a space precedes the first."""
    document = Document("".join(str(i % 10) for i in range(tokens - 3)), f"{tokens} tokens")
    assert len(tokenizer.encode(document.text)) + 2 == tokens
    return document


def expected_forms(files: Files, encoder: Encoder, length: int) -> list[tuple[str, np.ndarray]]:
    """Kind and ids of each document without a queue: the infilling form if it fits, otherwise the plain form."""
    forms = []
    filled = 0
    for file, documents in enumerate(files):
        for number, document in enumerate(documents):
            ids, _ = encoder.plain(document)
            room = length - filled % length
            split = encoder.draw_split(document, (file, 0, number))
            kind = "plain" if len(ids) <= room else "cut"
            if split is not None:
                infilled = encode_infilling(encoder.tokenizer, document.text, split)
                if len(infilled) <= room:
                    kind, ids = split.order, infilled
            forms.append((kind, ids))
            filled += len(ids)
    return forms


def weights_of(packed: PackedDocument, encoder: Encoder) -> list[float]:
    """The weights of a document's tokens as targets."""
    _, weights = encoder.plain(packed.document)
    return [1.0] * len(packed.tokens) if weights is None else weights.tolist()
