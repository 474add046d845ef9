"""Streams with documents in memory, for the tests of readers and loaders."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from codellama_jax.config.data import Chat, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks.encoder import Encoder
from tasks.loader import Batch, DataLoader, LoaderState, StreamInput, stream_seed
from tasks.packing import FEATURES
from tasks.sources.base import Block, Document, hash_of
from tasks.sources.duplicates import Identity
from tasks.sources.inventory import PlaceInventory

Fuzz = Callable[[np.random.Generator, int], str]
Shards = Sequence[Sequence[Sequence[str]]]  # texts of the documents of the blocks of the shards
SHARES = {"code": 0.6, "nl_code": 0.3, "nl": 0.1}
FIM, CHAT = Fim(), Chat()
QUEUES = (0, 3)


class MemorySource:
    """A source with documents in memory, which records the blocks that were read.

    It removes texts that start with "!", for the reason "exclaimed".
    """

    def __init__(self, name: str, shards: Shards):
        self.name, self._shards = name, shards
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Document]]:
        for number, texts in list(enumerate(self._shards[shard]))[skip:]:
            self.reads.append((shard, number))
            locations = [(text, f"{self.name}/{shard}/{number}/{index}") for index, text in enumerate(texts)]
            yield Block(
                [Document(text, path) for text, path in locations if text[:1] != "!"],
                [("exclaimed", path) for text, path in locations if text[:1] == "!"],
            )

    def fingerprint(self) -> str:
        flat = [(f"{block}", index) for index, shard in enumerate(self._shards) for block in shard]
        return hash_of(self.name, None, flat)

    def inventory(self) -> list[PlaceInventory]:
        """Two places: the first shard, and the others."""
        return [PlaceInventory(self.name, place, "memory") for place in ("first", "others")]

    def place(self, shard: int) -> int:
        return min(shard, 1)

    def file_splits(self) -> dict[Identity, str]:
        return {}


def accept_all(document: Document) -> None:
    """A `validate` function for a Reader of all documents."""


def stream_input(name: str, shards: Shards, tokenizer: Tokenizer, fim: Fim = FIM, seed: int = 5) -> StreamInput:
    return StreamInput(name, MemorySource(name, shards), Encoder(tokenizer, fim, CHAT, stream_seed(seed, name)))


def single_stream(stream: StreamInput, **changes: Any) -> DataLoader:
    """A loader of one stream, one window at a time."""
    settings: dict[str, Any] = {"seed": 0, "readers": 1, "batch_size": 1, "length": 16, "mask_documents": False}
    return DataLoader([stream], {stream.name: 1.0}, **settings | changes)


def same_batch(one: Batch, other: Batch) -> bool:
    def contents(batch: Batch) -> Any:
        started = [
            (name, packed.document, packed.kind, packed.split, packed.tokens.tolist()) for name, packed in batch.started
        ]
        arrays = {name: (values.shape, values.dtype, values.tobytes()) for name, values in batch.arrays.items()}
        return started, arrays, batch.tokens, batch.state.batch, batch.state.positions.tobytes()

    return contents(one) == contents(other)


def through_json(state: LoaderState) -> LoaderState:
    saved = json.loads(json.dumps({"batch": state.batch, "positions": state.positions.tolist()}))
    return LoaderState(saved["batch"], np.array(saved["positions"], np.int64))


def global_batches(loaders: Sequence[DataLoader]) -> Iterator[tuple[dict[str, np.ndarray], LoaderState]]:
    """Yields global batches and states, assembled from the loaders of all hosts."""
    while True:
        batches = [loader.next_batch() for loader in loaders]
        assert len({batch.state.batch for batch in batches}) == 1
        positions = np.concatenate([batch.state.positions for batch in batches])
        arrays = {name: np.concatenate([batch.arrays[name] for batch in batches]) for name in FEATURES}
        yield arrays, LoaderState(batches[0].state.batch, positions)


def same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in FEATURES)
