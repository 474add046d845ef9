"""The shares of the streams in windows, batches and tokens."""

import collections
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from memory_source import (
    SHARES,
    Fuzz,
    stream_input,
)

from codellama_jax.config.data import STREAMS, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader

PLANNED = [
    SHARES,
    {"code": 0.85, "nl_code": 0.08, "nl": 0.07},
    {"code": 1 / 3, "nl_code": 1 / 3, "nl": 1 / 3},
    {"code": 1.0},
]


@pytest.mark.parametrize("shares", PLANNED, ids=str)
def test_every_run_of_windows_has_the_planned_shares(make_loader: Callable[..., DataLoader], shares: dict[str, float]):
    """To within a few windows, for any start and any length from one step to a complete run."""
    rng = np.random.default_rng(3)
    loader = make_loader(shares=shares)
    planned = np.array([shares[stream.name] for stream in loader.streams])
    for _ in range(300):
        begin, length = int(10 ** rng.uniform(0, 9)), int(10 ** rng.uniform(0, 5))
        streams = loader.schedule.streams(np.arange(begin, begin + length))
        counts = np.bincount(streams, minlength=len(planned))
        assert (np.abs(counts - length * planned) < 4).all(), (begin, length)


def test_the_stream_of_a_window_depends_on_its_number_only(make_loader: Callable[..., DataLoader]):
    loader, other = make_loader(), make_loader(readers=2, host=1, hosts=2)
    numbers = np.arange(5000)
    assert np.array_equal(loader.schedule.streams(numbers), other.schedule.streams(numbers))
    assert np.array_equal(loader.schedule.streams(numbers)[::-1], loader.schedule.streams(numbers[::-1]))


def test_batches_contain_consecutive_windows(make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]):
    """Batch b has the windows from b * batch_size on, so batches have the planned shares as well."""
    loader = make_loader()
    for number, batch in enumerate(uninterrupted):
        planned = loader.schedule.streams(np.arange(number * 8, number * 8 + 8))
        names = sorted(loader.streams[index].name for index in planned)
        assert sorted(STREAMS[index] for index in batch.arrays["stream_ids"][:, 0]) == names


@pytest.mark.parametrize("batch_size", [8, 13, 21, 34, 144])
@pytest.mark.parametrize("shares", PLANNED[:2], ids=str)
def test_the_streams_of_a_reader_look_random(small_tokenizer: Tokenizer, shares: dict[str, float], batch_size: int):
    """A reader neither keeps one stream for longer than by chance nor changes it in every batch.

    This includes batch sizes that are Fibonacci numbers, whose ratios are close to the golden ratio of the schedule.
    """
    short = [[["7" * 20] * batch_size]]
    streams = [stream_input(name, short, small_tokenizer, Fim(rate=0.0)) for name in shares]
    readers = batch_size
    loader = DataLoader(streams, shares, seed=5, readers=readers, batch_size=batch_size, length=1, mask_documents=False)
    batches = 6_000 // batch_size
    ids = np.array([loader.next_batch().arrays["stream_ids"][:, 0] for _ in range(batches)])
    for name, share in shares.items():
        chosen = (ids == STREAMS.index(name)).T.tolist()  # a row for each reader
        longest = max(sum(group) for reader in chosen for hit, group in itertools.groupby(reader) if hit)
        assert longest < 3 + 2 * math.log(ids.size) / math.log(1 / share), name
    repeated = (ids[1:] == ids[:-1]).mean()
    chance = sum(share**2 for share in shares.values())
    assert abs(repeated - chance) < 0.03


def test_shares_are_shares_of_tokens_for_any_document_lengths(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    """To within 0.01 after 2,000 windows, with documents that are ten times as long in one stream as in another."""
    rng = np.random.default_rng(8)
    shares = {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
    lengths = [(1000, 2000), (300, 600), (100, 200)]

    def texts(span: tuple[int, int]) -> list[str]:
        return [fuzzed(rng, int(rng.integers(*span))) for _ in range(4)]

    for spans in (lengths, lengths[::-1]):
        streams = [
            stream_input(name, [[texts(span)] for _ in range(5)], small_tokenizer)
            for name, span in zip(shares, spans, strict=True)
        ]
        loader = DataLoader(streams, shares, seed=0, readers=4, batch_size=8, length=48, mask_documents=False, queue=2)
        tokens: collections.Counter[int] = collections.Counter()
        characters: dict[str, list[int]] = {name: [] for name in shares}
        for _ in range(250):
            batch = loader.next_batch()
            tokens.update(batch.arrays["stream_ids"].ravel().tolist())
            for name, packed in batch.started:
                characters[name].append(len(packed.document.text))  # type: ignore[union-attr]
        assert tokens.total() == 2_000 * 48
        for name, share in shares.items():
            assert abs(tokens[STREAMS.index(name)] / tokens.total() - share) < 0.01
        few, _, many = sorted(map(np.mean, characters.values()))
        assert many > 9 * few


def test_a_stream_without_a_share_is_not_read(make_loader: Callable[..., DataLoader]):
    for shares in ({"code": 0.5, "nl": 0.5}, {"code": 0.5, "nl": 0.5, "nl_code": 0.0}):
        loader = make_loader(shares=shares)
        assert [stream.name for stream in loader.streams] == ["code", "nl"]
        seen = {int(index) for _ in range(5) for index in loader.next_batch().arrays["stream_ids"].flat}
        assert seen == {STREAMS.index("code"), STREAMS.index("nl")}
