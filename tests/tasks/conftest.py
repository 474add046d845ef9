"""Loaders over documents in memory, and the batches of a run that is not interrupted."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from memory_source import (
    FIM,
    QUEUES,
    SHARES,
    Fuzz,
    Shards,
    stream_input,
)
from packing_cases import Files, fuzzed_files

from codellama_jax.config.data import STREAMS, Corpus, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader

BATCHES = 110


@pytest.fixture(scope="module")
def corpora(fuzzed: Fuzz) -> dict[str, Shards]:
    """Streams of many shards, of few, and of three. Three are fewer than the readers, so that stream repeats often.

    A block has any number of documents, including none, and a shard any number of blocks.
    """
    rng = np.random.default_rng(11)

    def shards(number: int, blocks: int, documents: int, shortest: int, longest: int) -> Shards:
        return [
            [
                [fuzzed(rng, int(rng.integers(shortest, longest))) for _ in range(rng.integers(0, documents + 1))]
                for _ in range(rng.integers(0, blocks + 1))
            ]
            for _ in range(number)
        ]

    nl = [[[fuzzed(rng, int(rng.integers(10, 90))) for _ in range(3)] for _ in range(2)] for _ in range(3)]
    return {"code": shards(30, 3, 4, 1, 400), "nl_code": [*shards(7, 2, 3, 200, 900), [["a"]]], "nl": nl}


@pytest.fixture(scope="module")
def make_loader(corpora: dict[str, Shards], small_tokenizer: Tokenizer) -> Callable[..., DataLoader]:
    """Creates loaders over `corpora`. Keywords replace arguments; `fim` and `tokenizer` change the encoders."""

    def make(fim: Fim = FIM, tokenizer: Tokenizer = small_tokenizer, **changes: Any) -> DataLoader:
        settings: dict[str, Any] = {
            "streams": [stream_input(name, shards, tokenizer, fim) for name, shards in corpora.items()],
            "shares": SHARES,
            "seed": 5,
            "readers": 4,
            "batch_size": 8,
            "length": 64,
            "mask_documents": True,
        }
        return DataLoader(**settings | changes)

    return make


@pytest.fixture(scope="module")
def uninterrupted_by_queue(make_loader: Callable[..., DataLoader]) -> dict[int, list[Batch]]:
    """Length of the queue -> the first batches."""
    loaders = {queue: make_loader(queue=queue) for queue in QUEUES}
    return {queue: [loader.next_batch() for _ in range(BATCHES)] for queue, loader in loaders.items()}


@pytest.fixture(scope="module")
def uninterrupted(uninterrupted_by_queue: dict[int, list[Batch]]) -> list[Batch]:
    return uninterrupted_by_queue[0]


@pytest.fixture(params=[(1, False), (2, True)], ids=["documents", "dialogues"])
def files(request: pytest.FixtureRequest, fuzzed: Fuzz) -> Files:
    return fuzzed_files(fuzzed, request.param[0], dialogues=request.param[1])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, fuzzed: Fuzz) -> Corpus:
    """A folder for each stream. Some files fit a window, some do not, and filters remove some."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(21)
    for stream, extension in (("code", "c"), ("python", "py"), ("nl_code", "md"), ("nl", "txt")):
        (root / stream).mkdir()
        for number in range(30):
            text = fuzzed(rng, int(rng.integers(1, 500))).replace("\0", "")
            (root / stream / f"{number}.{extension}").write_bytes(text.encode())
        (root / stream / f"binary.{extension}").write_bytes(b"a\0b")
    lines = []
    for _ in range(80):
        question, answer = (fuzzed(rng, int(rng.integers(5, 40))).replace("[", "").replace("<", "") for _ in "ab")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}) + "\n")
    (root / "instruct.jsonl").write_text("".join(lines))
    folders = {stream: str(root / stream) for stream in STREAMS[:-1]}
    return Corpus(
        **folders,
        instruct=str(root / "instruct.jsonl"),
        validation_share=0.4,
        document_characters=300,
        shuffle_bytes=1500,  # so that there are several blocks of dialogues
    )
