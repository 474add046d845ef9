"""The loader: batches resume exactly, and are the same for any number of hosts."""

import collections
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from memory_source import (
    CHAT,
    QUEUES,
    SHARES,
    Shards,
    global_batches,
    same_arrays,
    same_batch,
    stream_input,
    through_json,
)

from codellama_jax.config.data import STREAMS, Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tasks.loader import Batch, DataLoader, LoaderState, StreamInput
from tasks.packing import FEATURES

RESUMED_AFTER = [0, 1, 2, 3, 4, 5, 7, 9, 10, 13, 16, 17, 23, 29, 31, 37, 41, 47, 53, 59]


@pytest.mark.parametrize("queue", QUEUES)
def test_the_test_data_covers_repetition_kinds_and_queues(
    make_loader: Callable[..., DataLoader], uninterrupted_by_queue: dict[int, list[Batch]], queue: int
):
    """The streams repeat, every kind of document occurs, and with a queue some documents wait."""
    batches = uninterrupted_by_queue[queue]
    epochs = make_loader(queue=queue).epochs(batches[-1].state)
    assert all(count > 3 for count in epochs.values()) and epochs["nl"] > 6
    assert {packed.kind for batch in batches for _, packed in batch.started} == {"psm", "spm", "plain", "cut"}
    waiting = sum((batch.state.positions[:, :, 2:, 0] >= 0).sum() for batch in batches)
    assert (waiting > 100) == (queue > 0)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("k", RESUMED_AFTER)
def test_resumes_exactly_after_any_batch(
    make_loader: Callable[..., DataLoader], uninterrupted_by_queue: dict[int, list[Batch]], k: int, queue: int
):
    """Arrays, documents and state of fifty batches are equal, byte for byte."""
    batches = uninterrupted_by_queue[queue]
    resumed = make_loader(queue=queue, state=through_json(batches[k - 1].state) if k else None)
    for number in range(k, k + 50):
        assert same_batch(resumed.next_batch(), batches[number]), number


def test_resuming_reads_only_pending_documents_and_later_ones(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]
):
    """It reads neither used blocks nor earlier shards."""
    resumed = make_loader(state=uninterrupted[40].state)
    resumed.next_batch()
    for source in (stream.source for stream in resumed.streams):
        assert len(source.reads) < 60  # type: ignore[attr-defined]
    shards_read = resumed.state().positions[:, 0, 0, 0]
    assert len(resumed.streams[0].source.reads) < shards_read.sum() / 2  # type: ignore[attr-defined]


def test_reading_the_state_changes_nothing(make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]):
    loader = make_loader()
    for expected in uninterrupted[:10]:
        loader.state(), loader.fingerprint(), loader.epochs(loader.state()), loader.left_out()
        batch = loader.next_batch()
        assert same_batch(batch, expected)
        assert np.array_equal(loader.state().positions, batch.state.positions)
        assert loader.state().batch == batch.state.batch


def test_batches_have_all_features_and_full_windows(uninterrupted: list[Batch]):
    for number, batch in enumerate(uninterrupted):
        assert {name: values.dtype for name, values in batch.arrays.items()} == FEATURES
        assert {values.shape for values in batch.arrays.values()} == {(8, 64)}
        assert (batch.arrays["segment_ids"] > 0).all()  # streams repeat, so windows are never padded
        assert batch.state.batch == number + 1 and batch.state.positions.shape == (4, 3, 2, 4)
        assert (batch.arrays["stream_ids"] == batch.arrays["stream_ids"][:, :1]).all()  # a window has one stream
        started = {name for name, _ in batch.started}
        assert started <= {STREAMS[index] for index in set(batch.arrays["stream_ids"].flat)} <= set(SHARES)


@pytest.mark.parametrize("queue", QUEUES)
def test_tokens_are_counted_by_stream_and_kind(uninterrupted_by_queue: dict[int, list[Batch]], queue: int):
    started: collections.Counter[str] = collections.Counter()
    counted: collections.Counter[str] = collections.Counter()
    for batch in uninterrupted_by_queue[queue]:
        for name in SHARES:
            assert batch.tokens[name].total() == (batch.arrays["stream_ids"] == STREAMS.index(name)).sum()
            counted += batch.tokens[name]
        started.update({packed.kind: 0 for _, packed in batch.started})
        for _, packed in batch.started:
            started[packed.kind] += len(packed.tokens)
        assert batch.infilling_tokens == sum(len(p.tokens) for _, p in batch.started if p.kind in ("psm", "spm"))
    assert {kind: counted[kind] for kind in ("plain", "psm", "spm")} == {k: n for k, n in started.items() if k != "cut"}


def test_another_seed_gives_other_batches(make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]):
    """The sequence of streams has another phase, even with the same encoders."""
    other = make_loader(seed=6)
    for expected in uninterrupted[:8]:
        assert not same_arrays(other.next_batch().arrays, expected.arrays)


def test_batches_do_not_depend_on_the_order_of_the_streams(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch]
):
    """The same shares in another order are the same mixture: fingerprint, batches and state are equal."""
    loader = make_loader()
    for streams in itertools.permutations(loader.streams):
        other = make_loader(streams=streams, shares={stream.name: SHARES[stream.name] for stream in streams})
        assert other.fingerprint() == loader.fingerprint()
        assert all(same_batch(other.next_batch(), expected) for expected in uninterrupted[:4])
        resumed = make_loader(streams=streams, state=through_json(uninterrupted[9].state))
        assert same_batch(resumed.next_batch(), uninterrupted[10])


def test_the_state_is_small(make_loader: Callable[..., DataLoader]):
    """This holds for a large run too."""
    loader = make_loader(readers=64, batch_size=64, queue=16, length=16)
    loader.next_batch()
    state = loader.state()
    assert state.positions.shape == (64, 3, 18, 4) and state.positions.nbytes < 200_000


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_hosts(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch], hosts: int
):
    together = global_batches([make_loader(host=host, hosts=hosts) for host in range(hosts)])
    for expected, (arrays, state) in zip(uninterrupted[:20], together, strict=False):
        assert same_arrays(arrays, expected.arrays)
        assert np.array_equal(state.positions, expected.state.positions)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("run", [((4, 13), (2, 30), (1, 50)), ((1, 5), (4, 6), (2, 40)), ((2, 20), (1, 33), (4, 60))])
def test_the_number_of_hosts_can_change_during_a_run(
    make_loader: Callable[..., DataLoader], uninterrupted_by_queue: dict[int, list[Batch]], queue: int, run: tuple
):
    """`run` lists (hosts, last batch). Between them, the state is saved as JSON. The batches are those of one host."""
    batches = uninterrupted_by_queue[queue]
    state: LoaderState | None = None
    begin = 0
    for hosts, end in run:
        parts = np.split(state.positions, hosts) if state else [None] * hosts
        together = global_batches(
            [
                make_loader(host=host, hosts=hosts, queue=queue, state=LoaderState(begin, part) if state else None)
                for host, part in enumerate(parts)
            ]
        )
        for number in range(begin, end):
            arrays, state = next(together)
            assert same_arrays(arrays, batches[number].arrays), (hosts, number)
            assert np.array_equal(state.positions, batches[number].state.positions)
        assert state is not None
        state, begin = through_json(state), end
        assert state.batch == end


def test_readers_must_divide_the_batch_and_be_a_multiple_of_the_hosts(make_loader: Callable[..., DataLoader]):
    for changes in ({"batch_size": 6}, {"hosts": 3}, {"hosts": 8}, {"readers": 5}):
        with pytest.raises(UserError, match=r"DataLoader\.readers=") as error:
            make_loader(**changes)
        assert "\n" not in str(error.value)


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_everything_that_changes_the_batches(
    make_loader: Callable[..., DataLoader], small_tokenizer: Tokenizer, corpora: dict[str, Shards]
):
    tokenizer = SentencePieceTokenizer(small_tokenizer.model, infilling=False)

    def streams(chat: Chat = CHAT, seed: int = 5, **changes: Shards) -> list[StreamInput]:
        inputs = [
            stream_input(name, shards, small_tokenizer, seed=seed) for name, shards in (corpora | changes).items()
        ]
        return [dataclasses.replace(s, encoder=dataclasses.replace(s.encoder, chat=chat)) for s in inputs]

    loaders = {
        "unchanged": make_loader(),
        "shares": make_loader(shares={"code": 0.6, "nl_code": 0.2, "nl": 0.2}),
        "one stream less": make_loader(shares={"code": 0.7, "nl_code": 0.3}),
        "seed": make_loader(seed=6),
        "seed of infilling": make_loader(streams=streams(seed=6)),
        "readers": make_loader(readers=2),
        "batch_size": make_loader(batch_size=16),
        "length": make_loader(length=65),
        "mask_documents": make_loader(mask_documents=False),
        "queue": make_loader(queue=1),
        "fim.rate": make_loader(fim=Fim(rate=0.8)),
        "fim.psm_share": make_loader(fim=Fim(psm_share=0.4)),
        "fim.cut": make_loader(fim=Fim(cut="line")),
        "fim.cut both": make_loader(fim=Fim(cut="both")),
        "fim.line_share": make_loader(fim=Fim(cut="both", line_share=0.4)),
        "tokenizer": make_loader(tokenizer=tokenizer),
        "chat": make_loader(streams=streams(chat=Chat("source"))),
        "the source": make_loader(streams=streams(code=[*corpora["code"], [["more"]]])),
    }
    fingerprints = {name: loader.fingerprint() for name, loader in loaders.items()}
    assert len(set(fingerprints.values())) == len(fingerprints)
    # checkpoints of versions without the setting resume
    assert make_loader(fim=Fim(line_share=0.4)).fingerprint() == fingerprints["unchanged"]


def test_the_fingerprint_does_not_depend_on_hosts_or_state(
    make_loader: Callable[..., DataLoader], uninterrupted: list[Batch], small_tokenizer: Tokenizer
):
    """It does not depend on the host, the number of hosts or the state, and is the same for a new loader."""
    loader = make_loader()
    expected = loader.fingerprint()
    loader.next_batch()
    assert loader.fingerprint() == expected
    for hosts in (1, 2, 4):
        assert {make_loader(host=host, hosts=hosts).fingerprint() for host in range(hosts)} == {expected}
    assert make_loader(state=uninterrupted[30].state).fingerprint() == expected
    assert make_loader(shares=SHARES | {"instruct": 0.0}).fingerprint() == expected
    assert (
        make_loader(tokenizer=SentencePieceTokenizer(small_tokenizer.model, infilling=True)).fingerprint() == expected
    )


# --- what is logged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
def test_metrics_describe_the_batch(make_loader: Callable[..., DataLoader], hosts: int):
    """With several hosts they are estimates: the counts of one host, times the number of hosts."""
    loader = make_loader(hosts=hosts)
    for _ in range(5):
        batch = loader.next_batch()
        metrics = loader.metrics(batch)
        infilled = [packed for _, packed in batch.started if packed.kind in ("psm", "spm")]
        assert metrics["infilling_tokens"] == hosts * sum(len(packed.tokens) for packed in infilled)
        assert metrics["infilling_share"] == sum(len(packed.tokens) for packed in infilled) / (8 // hosts * 64)
        assert metrics["documents"] == hosts * len(batch.started)
        assert metrics["infilling_documents"] == hosts * len(infilled)
        epochs = {name: metrics[f"epoch/{name}"] for name in SHARES}
        assert epochs == loader.epochs(batch.state)
