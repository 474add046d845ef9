"""The batch stream: resumed as uninterrupted, the same for any hosts, with the planned shares of tokens."""

import collections
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codellama_jax.config.data import STREAMS, Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import Batch, DataLoader, LoaderState, StreamInput, prefetched, task_seed
from tasks.packing import FEATURES, Cursor, Encoder
from tasks.reader import Reader
from tasks.sources.base import Block, Document, hash_of
from tasks.sources.filters import LeftOut

ROOT = Path(__file__).parents[2]
Fuzz = Callable[[np.random.Generator, int], str]
Pieces = Sequence[Sequence[Sequence[str]]]  # texts of the documents of the blocks of the pieces
SHARES = {"code": 0.6, "nl_code": 0.3, "nl": 0.1}
FIM, CHAT = Fim(), Chat()


class Texts:
    """A source that holds its documents in memory, and remembers which blocks were asked for.

    A text that begins with "!" is left out by the source, under the name "exclaimed".
    """

    def __init__(self, name: str, pieces: Pieces):
        self.name, self._pieces = name, pieces
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._pieces)

    def read(self, piece: int, skip: int = 0) -> Iterator[Block[Document]]:
        for number, texts in list(enumerate(self._pieces[piece]))[skip:]:
            self.reads.append((piece, number))
            places = [(text, f"{self.name}/{piece}/{number}/{index}") for index, text in enumerate(texts)]
            yield Block(
                [Document(text, where) for text, where in places if text[:1] != "!"],
                [("exclaimed", where) for text, where in places if text[:1] == "!"],
            )

    def fingerprint(self) -> str:
        flat = [(f"{block}", index) for index, piece in enumerate(self._pieces) for block in piece]
        return hash_of(self.name, None, flat)


def taken(document: Document) -> None:
    """The check of a Lane that takes everything."""


def task(name: str, pieces: Pieces, tokenizer: Tokenizer, fim: Fim = FIM, seed: int = 5) -> StreamInput:
    return StreamInput(name, Texts(name, pieces), Encoder(tokenizer, fim, CHAT, task_seed(seed, name)))


def alone(stream_task: StreamInput, **changes: Any) -> DataLoader:
    """A stream of one task, window by window."""
    settings: dict[str, Any] = {"seed": 0, "readers": 1, "batch_size": 1, "length": 16, "mask_documents": False}
    return DataLoader([stream_task], {stream_task.name: 1.0}, **settings | changes)


@pytest.fixture(scope="module")
def corpora(fuzzed: Fuzz) -> dict[str, Pieces]:
    """A stream of many pieces, one of few, and one of three, which are fewer than readers and repeat often.

    Blocks hold no, one or several documents, pieces no, one or several blocks.
    """
    rng = np.random.default_rng(11)

    def pieces(number: int, blocks: int, documents: int, shortest: int, longest: int) -> Pieces:
        return [
            [
                [fuzzed(rng, int(rng.integers(shortest, longest))) for _ in range(rng.integers(0, documents + 1))]
                for _ in range(rng.integers(0, blocks + 1))
            ]
            for _ in range(number)
        ]

    nl = [[[fuzzed(rng, int(rng.integers(10, 90))) for _ in range(3)] for _ in range(2)] for _ in range(3)]
    return {"code": pieces(30, 3, 4, 1, 400), "nl_code": [*pieces(7, 2, 3, 200, 900), [["a"]]], "nl": nl}


@pytest.fixture(scope="module")
def build(corpora: dict[str, Pieces], small_tokenizer: Tokenizer) -> Callable[..., DataLoader]:
    """Streams over `corpora`; keywords change what a Stream takes, `fim` and `tokenizer` the encoders."""

    def build(fim: Fim = FIM, tokenizer: Tokenizer = small_tokenizer, **changes: Any) -> DataLoader:
        settings: dict[str, Any] = {
            "tasks": [task(name, pieces, tokenizer, fim) for name, pieces in corpora.items()],
            "shares": SHARES,
            "seed": 5,
            "readers": 4,
            "batch_size": 8,
            "length": 64,
            "mask_documents": True,
        }
        return DataLoader(**settings | changes)

    return build


def same(one: Batch, other: Batch) -> bool:
    def described(batch: Batch) -> Any:
        begun = [
            (name, packed.document, packed.kind, packed.cut, packed.tokens.tolist()) for name, packed in batch.begun
        ]
        arrays = {name: (values.shape, values.dtype, values.tobytes()) for name, values in batch.arrays.items()}
        return begun, arrays, batch.kinds, batch.state.batch, batch.state.positions.tobytes()

    return described(one) == described(other)


def through_json(state: LoaderState) -> LoaderState:
    saved = json.loads(json.dumps({"batch": state.batch, "positions": state.positions.tolist()}))
    return LoaderState(saved["batch"], np.array(saved["positions"], np.int64))


def of_hosts(streams: Sequence[DataLoader]) -> Iterator[tuple[dict[str, np.ndarray], LoaderState]]:
    """Global batches and states of all hosts' streams put together."""
    while True:
        batches = [stream.next_batch() for stream in streams]
        assert len({batch.state.batch for batch in batches}) == 1
        positions = np.concatenate([batch.state.positions for batch in batches])
        arrays = {name: np.concatenate([batch.arrays[name] for batch in batches]) for name in FEATURES}
        yield arrays, LoaderState(batches[0].state.batch, positions)


def same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in FEATURES)


# --- a pure function of configuration, seed and number ----------------------------------------------------------------

BATCHES = 110
KILLED_AFTER = [0, 1, 2, 3, 4, 5, 7, 9, 10, 13, 16, 17, 23, 29, 31, 37, 41, 47, 53, 59]
QUEUES = (0, 3)


@pytest.fixture(scope="module")
def uninterrupted_with(build: Callable[..., DataLoader]) -> dict[int, list[Batch]]:
    """The first batches for each length of the queue."""
    streams = {queue: build(queue=queue) for queue in QUEUES}
    return {queue: [stream.next_batch() for _ in range(BATCHES)] for queue, stream in streams.items()}


@pytest.fixture(scope="module")
def uninterrupted(uninterrupted_with: dict[int, list[Batch]]) -> list[Batch]:
    return uninterrupted_with[0]


@pytest.mark.parametrize("queue", QUEUES)
def test_there_is_something_to_get_wrong(
    build: Callable[..., DataLoader], uninterrupted_with: dict[int, list[Batch]], queue: int
):
    """While the following is tested: repetition, every kind of document, and with a queue documents that wait."""
    batches = uninterrupted_with[queue]
    epochs = build(queue=queue).epochs(batches[-1].state)
    assert all(count > 3 for count in epochs.values()) and epochs["nl"] > 6
    assert {packed.kind for batch in batches for _, packed in batch.begun} == {"psm", "spm", "plain", "cut"}
    waiting = sum((batch.state.positions[:, :, 2:, 0] >= 0).sum() for batch in batches)
    assert (waiting > 100) == (queue > 0)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("k", KILLED_AFTER)
def test_resumed_after_any_batch_it_goes_on_as_if_nothing_had_been(
    build: Callable[..., DataLoader], uninterrupted_with: dict[int, list[Batch]], k: int, queue: int
):
    """For fifty batches, byte for byte: arrays, documents and state."""
    batches = uninterrupted_with[queue]
    resumed = build(queue=queue, state=through_json(batches[k - 1].state) if k else None)
    for number in range(k, k + 50):
        assert same(resumed.next_batch(), batches[number]), number


def test_resuming_reads_what_is_held_and_from_there_on(build: Callable[..., DataLoader], uninterrupted: list[Batch]):
    """Not the blocks that were used up, and nothing of pieces before."""
    resumed = build(state=uninterrupted[40].state)
    resumed.next_batch()
    for source in (task.source for task in resumed.tasks):
        assert len(source.reads) < 60  # type: ignore[attr-defined]
    readers = resumed.state().positions[:, 0, 0, 0]
    assert len(resumed.tasks[0].source.reads) < readers.sum() / 2  # type: ignore[attr-defined]


def test_asking_for_the_state_changes_nothing(build: Callable[..., DataLoader], uninterrupted: list[Batch]):
    stream = build()
    for expected in uninterrupted[:10]:
        stream.state(), stream.fingerprint(), stream.epochs(stream.state()), stream.left_out()
        batch = stream.next_batch()
        assert same(batch, expected)
        assert np.array_equal(stream.state().positions, batch.state.positions)
        assert stream.state().batch == batch.state.batch


def test_batches_have_all_features_and_whole_windows(uninterrupted: list[Batch]):
    for number, batch in enumerate(uninterrupted):
        assert {name: values.dtype for name, values in batch.arrays.items()} == FEATURES
        assert {values.shape for values in batch.arrays.values()} == {(8, 64)}
        assert (batch.arrays["segment_ids"] > 0).all()  # a stream repeats and is never padded
        assert batch.state.batch == number + 1 and batch.state.positions.shape == (4, 3, 2, 4)
        assert (batch.arrays["stream_ids"] == batch.arrays["stream_ids"][:, :1]).all()  # a window has one stream
        begun = {name for name, _ in batch.begun}
        assert begun <= {STREAMS[index] for index in set(batch.arrays["stream_ids"].flat)} <= set(SHARES)


@pytest.mark.parametrize("queue", QUEUES)
def test_kinds_count_the_tokens_of_each_stream(uninterrupted_with: dict[int, list[Batch]], queue: int):
    begun: collections.Counter[str] = collections.Counter()
    counted: collections.Counter[str] = collections.Counter()
    for batch in uninterrupted_with[queue]:
        for name in SHARES:
            assert batch.kinds[name].total() == (batch.arrays["stream_ids"] == STREAMS.index(name)).sum()
            counted += batch.kinds[name]
        begun.update({packed.kind: 0 for _, packed in batch.begun})
        for _, packed in batch.begun:
            begun[packed.kind] += len(packed.tokens)
        assert batch.infilling_tokens == sum(len(p.tokens) for _, p in batch.begun if p.kind in ("psm", "spm"))
    assert {kind: counted[kind] for kind in ("plain", "psm", "spm")} == {k: n for k, n in begun.items() if k != "cut"}


def test_another_seed_is_another_stream(build: Callable[..., DataLoader], uninterrupted: list[Batch]):
    """Its windows' streams come in another phase, even with the same encoders."""
    other = build(seed=6)
    for expected in uninterrupted[:8]:
        assert not same_arrays(other.next_batch().arrays, expected.arrays)


def test_the_order_of_the_mixtures_streams_does_not_matter(
    build: Callable[..., DataLoader], uninterrupted: list[Batch]
):
    """The same shares written down in another order are the same mixture: fingerprint, batches and state agree."""
    stream = build()
    for tasks in itertools.permutations(stream.tasks):
        other = build(tasks=tasks, shares={task.name: SHARES[task.name] for task in tasks})
        assert other.fingerprint() == stream.fingerprint()
        assert all(same(other.next_batch(), expected) for expected in uninterrupted[:4])
        resumed = build(tasks=tasks, state=through_json(uninterrupted[9].state))
        assert same(resumed.next_batch(), uninterrupted[10])


def test_the_state_is_small(build: Callable[..., DataLoader]):
    """As large a run's as ours are."""
    stream = build(readers=64, batch_size=64, queue=16, length=16)
    stream.next_batch()
    state = stream.state()
    assert state.positions.shape == (64, 3, 18, 4) and state.positions.nbytes < 200_000


# --- a real kill ------------------------------------------------------------------------------------------------------

# Writes the digest of each batch, and then the state: as a run does, which is ahead of what it has saved.
WORKER = """
import hashlib, json, os, sys, time
import numpy as np
from codellama_jax.tokenizer import Tokenizer
from codellama_jax.config.data import Chat, Corpus, Fim
from tasks.packing import Encoder
from tasks.sources.folder import Folder
from tasks.loader import Stream, StreamState, StreamTask

folder, queue, digests, batches = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
encoder = Encoder(Tokenizer.from_file(f"{folder}/a.model", True), Fim(), Chat(), (0, 1))
corpus = Corpus(validation_share=0.0, document_characters=150)
tasks = [StreamTask(name, Folder(f"{folder}/{name}", "train", name=name, corpus=corpus), encoder)
         for name in ("code", "nl")]
saved, state = f"{folder}/state{queue}.json", None
if os.path.exists(saved):
    with open(saved) as file:
        state = StreamState(*json.load(file))
    state = StreamState(state.batch, np.array(state.positions, np.int64))
stream = Stream(tasks, {"code": 0.7, "nl": 0.3}, seed=0, readers=4, batch_size=8, length=64, mask_documents=True,
                queue=queue, state=state)
with open(f"{folder}/{digests}", "w") as file:
    for _ in range(batches):
        batch = stream.next_batch()
        digest = hashlib.sha256(b"".join(batch.arrays[name].tobytes() for name in sorted(batch.arrays)))
        file.write(f"{batch.state.batch} {digest.hexdigest()}\\n")
        file.flush()
        with open(f"{saved}.new", "w") as new:
            json.dump([batch.state.batch, batch.state.positions.tolist()], new)
        os.replace(f"{saved}.new", saved)
        time.sleep(0.002)
"""


@pytest.mark.parametrize("queue", QUEUES)
def test_killed_in_the_middle_it_goes_on_from_the_last_state_written(
    tmp_path: Path, fuzzed: Fuzz, small_tokenizer: Tokenizer, queue: int
):
    rng = np.random.default_rng(17)
    for name, extension in (("code", "c"), ("nl", "txt")):
        (tmp_path / name).mkdir()
        for number in range(12):
            text = fuzzed(rng, int(rng.integers(20, 900))).replace("\0", "")
            (tmp_path / name / f"{number}.{extension}").write_bytes(text.encode())
    (tmp_path / "a.model").write_bytes(small_tokenizer.model)

    def start(digests: str, batches: int) -> subprocess.Popen:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(queue), digests, str(batches)]
        return subprocess.Popen(command, cwd=ROOT)

    def written(digests: str) -> list[str]:
        return (tmp_path / digests).read_text().splitlines()

    state = tmp_path / f"state{queue}.json"
    killed, patience = start("killed", 100_000), time.monotonic() + 60
    try:
        while not (state.exists() and json.loads(state.read_text())[0] >= 25) and time.monotonic() < patience:
            time.sleep(0.01)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    last = json.loads(state.read_text())[0]
    assert last >= 25
    assert start("resumed", 60).wait(60) == 0
    state.unlink()
    assert start("uninterrupted", last + 60).wait(60) == 0
    expected = written("uninterrupted")
    assert len(set(expected)) == len(expected) == last + 60
    assert written("killed")[:last] == expected[:last]  # the last line may be half written
    assert written("resumed") == expected[last:]


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_number_of_hosts_does_not_matter(build: Callable[..., DataLoader], uninterrupted: list[Batch], hosts: int):
    together = of_hosts([build(host=host, hosts=hosts) for host in range(hosts)])
    for expected, (arrays, state) in zip(uninterrupted[:20], together, strict=False):
        assert same_arrays(arrays, expected.arrays)
        assert np.array_equal(state.positions, expected.state.positions)


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("run", [((4, 13), (2, 30), (1, 50)), ((1, 5), (4, 6), (2, 40)), ((2, 20), (1, 33), (4, 60))])
def test_hosts_come_and_go_in_one_run(
    build: Callable[..., DataLoader], uninterrupted_with: dict[int, list[Batch]], queue: int, run: tuple
):
    """Of each stretch (hosts, until which batch): the state goes through JSON, and the batches are those of one."""
    batches = uninterrupted_with[queue]
    state: LoaderState | None = None
    begin = 0
    for hosts, end in run:
        parts = np.split(state.positions, hosts) if state else [None] * hosts
        together = of_hosts(
            [
                build(host=host, hosts=hosts, queue=queue, state=LoaderState(begin, part) if state else None)
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


def test_lanes_that_do_not_fit_are_refused(build: Callable[..., DataLoader]):
    for changes in ({"batch_size": 6}, {"hosts": 3}, {"hosts": 8}, {"readers": 5}):
        with pytest.raises(UserError, match=r"DataLoader\.readers=") as refused:
            build(**changes)
        assert "\n" not in str(refused.value)


# --- shares -----------------------------------------------------------------------------------------------------------

PLANNED = [
    SHARES,
    {"code": 0.85, "nl_code": 0.08, "nl": 0.07},
    {"code": 1 / 3, "nl_code": 1 / 3, "nl": 1 / 3},
    {"code": 1.0},
]


@pytest.mark.parametrize("shares", PLANNED, ids=str)
def test_any_stretch_of_windows_has_the_planned_shares(build: Callable[..., DataLoader], shares: dict[str, float]):
    """To within a few windows, wherever it begins and however long it is, a step's windows as well as a run's."""
    rng = np.random.default_rng(3)
    stream = build(shares=shares)
    planned = np.array([shares[task.name] for task in stream.tasks])
    for _ in range(300):
        begin, length = int(10 ** rng.uniform(0, 9)), int(10 ** rng.uniform(0, 5))
        streams = stream.stream_of(np.arange(begin, begin + length))
        counts = np.bincount(streams, minlength=len(planned))
        assert (np.abs(counts - length * planned) < 4).all(), (begin, length)


def test_the_stream_of_a_window_depends_on_its_number_only(build: Callable[..., DataLoader]):
    stream, other = build(), build(readers=2, host=1, hosts=2)
    numbers = np.arange(5000)
    assert np.array_equal(stream.stream_of(numbers), other.stream_of(numbers))
    assert np.array_equal(stream.stream_of(numbers)[::-1], stream.stream_of(numbers[::-1]))


def test_batches_are_the_windows_in_turn(build: Callable[..., DataLoader], uninterrupted: list[Batch]):
    """The windows of batch b are those from b * batch_size on, so that batches have the planned shares as well."""
    stream = build()
    for number, batch in enumerate(uninterrupted):
        planned = stream.stream_of(np.arange(number * 8, number * 8 + 8))
        names = sorted(stream.tasks[index].name for index in planned)
        assert sorted(STREAMS[index] for index in batch.arrays["stream_ids"][:, 0]) == names


@pytest.mark.parametrize("batch_size", [8, 13, 21, 34, 144])
@pytest.mark.parametrize("shares", PLANNED[:2], ids=str)
def test_no_lane_stays_with_a_stream(small_tokenizer: Tokenizer, shares: dict[str, float], batch_size: int):
    """For longer than chance has it, nor moves on with the next batch: also where batches are Fibonacci numbers, whose
    windows would be almost in step with how windows are dealt out."""
    short = [[["7" * 20] * batch_size]]
    tasks = [task(name, short, small_tokenizer, Fim(rate=0.0)) for name in shares]
    readers = batch_size
    stream = DataLoader(tasks, shares, seed=5, readers=readers, batch_size=batch_size, length=1, mask_documents=False)
    batches = 6_000 // batch_size
    streams = np.array([stream.next_batch().arrays["stream_ids"][:, 0] for _ in range(batches)])
    for name, share in shares.items():
        here = (streams == STREAMS.index(name)).T.tolist()  # a row for each lane
        longest = max(sum(group) for lane in here for stays, group in itertools.groupby(lane) if stays)
        assert longest < 3 + 2 * math.log(streams.size) / math.log(1 / share), name
    stays = (streams[1:] == streams[:-1]).mean()
    chance = sum(share**2 for share in shares.values())
    assert abs(stays - chance) < 0.03


def test_shares_are_shares_of_tokens_whatever_the_documents_lengths(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    """Within a hundredth after 2,000 windows, where documents of one stream are ten times as long as another's."""
    rng = np.random.default_rng(8)
    shares = {"code": 0.85, "nl_code": 0.08, "nl": 0.07}
    lengths = [(1000, 2000), (300, 600), (100, 200)]
    for of in (lengths, lengths[::-1]):
        tasks = [
            task(name, [[[fuzzed(rng, int(rng.integers(*span))) for _ in range(4)]] for _ in range(5)], small_tokenizer)
            for name, span in zip(shares, of, strict=True)
        ]
        stream = DataLoader(tasks, shares, seed=0, readers=4, batch_size=8, length=48, mask_documents=False, queue=2)
        tokens: collections.Counter[int] = collections.Counter()
        characters: dict[str, list[int]] = {name: [] for name in shares}
        for _ in range(250):
            batch = stream.next_batch()
            tokens.update(batch.arrays["stream_ids"].ravel().tolist())
            for name, packed in batch.begun:
                characters[name].append(len(packed.document.text))  # type: ignore[union-attr]
        assert tokens.total() == 2_000 * 48
        for name, share in shares.items():
            assert abs(tokens[STREAMS.index(name)] / tokens.total() - share) < 0.01
        few, _, many = sorted(map(np.mean, characters.values()))
        assert many > 9 * few


def test_a_stream_without_a_share_is_left_out(build: Callable[..., DataLoader]):
    for shares in ({"code": 0.5, "nl": 0.5}, {"code": 0.5, "nl": 0.5, "nl_code": 0.0}):
        stream = build(shares=shares)
        assert [task.name for task in stream.tasks] == ["code", "nl"]
        seen = {int(index) for _ in range(5) for index in stream.next_batch().arrays["stream_ids"].flat}
        assert seen == {STREAMS.index("code"), STREAMS.index("nl")}


# --- documents --------------------------------------------------------------------------------------------------------


def numbered(pieces: int, least: int = 0) -> Pieces:
    """Texts that are all different, in blocks of `least` or more; without, some pieces hold no document."""
    rng = np.random.default_rng(1)
    made = []
    for piece in range(pieces):
        sizes = least + rng.integers(0, 6, rng.integers(least > 0, 4))
        made.append([[f"{piece}/{block}/{number}" for number in range(size)] for block, size in enumerate(sizes)])
    made[-1].append([f"{pieces}/{number}" for number in range(least + 2)])
    return made


def walked(lane: Reader, epochs: int) -> Iterator[tuple[int, Cursor, Document]]:
    """(epoch, place, document) of what a lane has in so many epochs."""
    place, document = lane.find((0, 0, 0))
    while lane.number(place[0]) < epochs * lane.pieces:
        assert isinstance(document, Document)
        yield lane.number(place[0]) // lane.pieces, place, document
        piece, block, number = place
        place, document = lane.find((piece, block, number + 1))


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "as it is"])
@pytest.mark.parametrize("readers", [1, 2, 4, 8])
@pytest.mark.parametrize("pieces", [1, 3, 4, 8, 37])
def test_every_document_is_there_once_in_each_epoch_over_all_lanes(pieces: int, readers: int, shuffle: bool):
    """Fewer pieces than readers, as many, or more; they need not divide one another. And no two have one key."""
    contents = numbered(pieces, least=0 if shuffle else readers)  # else a lane might have none, ever
    expected = sorted(text for piece in contents for block in piece for text in block)
    epochs: list[list[str]] = [[] for _ in range(5)]
    keys = []
    for number in range(readers):
        lane = Reader(Texts("code", contents), number, readers, (0, 1), taken, shuffle)
        for epoch, place, document in walked(lane, len(epochs)):
            epochs[epoch].append(document.text)
            keys.append(lane.key(place))
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len(set(keys)) == len(keys)


def test_epochs_have_orders_of_their_own():
    """Of pieces, and of documents within a block; a piece's blocks come one after the other."""
    contents = [[[f"{p}/{b}/{d}" for d in range(4)] for b in range(3)] for p in range(20)]
    epochs: list[list[list[str]]] = [[] for _ in range(5)]
    for epoch, _, document in walked(Reader(Texts("code", contents), 0, 1, (0, 1), taken), 5):
        epochs[epoch].append(document.text.split("/"))
    blocks = [[block for block, _ in itertools.groupby(epoch, lambda name: name[:2])] for epoch in epochs]
    orders = [tuple(piece for piece, _ in itertools.groupby(epoch, lambda name: name[0])) for epoch in epochs]
    assert all(len(order) == 20 and tuple(map(str, range(20))) != order for order in orders) and len(set(orders)) == 5
    for epoch, order in zip(blocks, orders, strict=True):
        assert epoch == [[piece, block] for piece in order for block in "012"]
    within = collections.defaultdict[str, list[str]](list)
    for epoch in epochs:
        for block, group in itertools.groupby(epoch, lambda name: "/".join(name[:2])):
            within[block].append("".join(name[2] for name in group))
    seen = collections.Counter(order for orders_of_block in within.values() for order in orders_of_block)
    assert len(seen) == 24 and max(seen.values()) < 40  # of 300: all orders of four, none much more than another


def test_unshuffled_a_lane_has_the_order_of_the_source():
    contents = numbered(12)
    lane = Reader(Texts("code", contents), 0, 1, (0, 1), taken, shuffle=False)
    expected = [text for piece in contents for block in piece for text in block]
    assert [document.text for _, _, document in walked(lane, 3)] == 3 * expected


def test_a_document_is_found_again_where_it_stood():
    """In whatever order places are asked for; and a place where none stands gives the next one."""
    for readers in (1, 3):
        source = Texts("code", numbered(8))
        stood = {
            place: document for _, place, document in walked(Reader(source, 1 % readers, readers, (0, 1), taken), 4)
        }
        order = np.random.default_rng(2).permutation(len(stood))
        lane = Reader(source, 1 % readers, readers, (0, 1), taken)
        places = list(stood)
        for index in order:
            assert lane.find(places[index]) == (places[index], stood[places[index]])
        for before, after in itertools.pairwise(places):
            piece, block, number = before
            assert lane.find((piece, block, number + 1)) == (after, stood[after])


def test_a_block_is_read_once_and_those_before_it_not_at_all():
    """While a lane goes on; and where it begins in the middle of a piece."""
    contents = [[["a"] * 3 for _ in range(4)] for _ in range(3)]
    source = Texts("code", contents)
    every = list(walked(Reader(source, 0, 1, (0, 1), taken), 1))
    assert sorted(source.reads[:12]) == [(piece, block) for piece in range(3) for block in range(4)]
    assert len(source.reads) <= 13  # the next epoch's first
    place = next(place for _, place, _ in every if place[:2] == (1, 2))
    again = Texts("code", contents)
    Reader(again, 0, 1, (0, 1), taken).find(place)
    assert [block for _, block in again.reads] == [2]


def test_a_document_of_another_epoch_is_drawn_anew(small_tokenizer: Tokenizer):
    """Not only the order of documents changes: one that comes again is cut elsewhere."""
    text = "def f(a):\n    return a\n" * 4
    stream = alone(task("code", [[[text]]], small_tokenizer, Fim(rate=1.0)), readers=2, batch_size=2, length=400)
    cuts = [packed.cut for _ in range(10) for _, packed in stream.next_batch().begun if packed.cut is not None]
    assert len(cuts) > 15 and len(set(cuts)) > 0.9 * len(cuts)


def test_two_tasks_with_one_seed_draw_differently(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    rng = np.random.default_rng(2)
    contents = [[[fuzzed(rng, 60)]] for _ in range(40)]
    assert task_seed(0, "code") != task_seed(0, "python") and task_seed(0, "code") != task_seed(1, "code")
    begun: dict[str, list[Any]] = {}
    for name in ("code", "python"):
        stream = alone(task(name, contents, small_tokenizer), length=2000)
        begun[name] = [(packed.document.text, packed.cut) for _, packed in stream.next_batch().begun]  # type: ignore[union-attr]
    code, python = begun["code"], begun["python"]
    assert [text for text, _ in code] != [text for text, _ in python]
    cuts, others = dict(code), dict(python)
    both = cuts.keys() & others.keys()
    assert len(both) > 5 and sum(cuts[text] == others[text] for text in both) < len(both) / 2


@pytest.mark.parametrize("readers", [1, 8, 64])
def test_a_single_document_serves_any_number_of_lanes(small_tokenizer: Tokenizer, readers: int):
    stream = alone(task("nl", [[["a text"]]], small_tokenizer), readers=readers, batch_size=readers, length=64)
    for _ in range(4):
        batch = stream.next_batch()
        assert (batch.arrays["segment_ids"] > 0).all()


def test_epochs_count_what_was_taken(small_tokenizer: Tokenizer, corpora: dict[str, Pieces]):
    """The pieces over all readers, whether a lane is ahead or not; with one document a piece they can be counted."""
    contents = [[[text]] for piece in corpora["nl"] for block in piece for text in block]
    stream = alone(task("nl", contents, small_tokenizer))
    assert stream.epochs(stream.state()) == {"nl": 0.0}
    begun = 0
    for _ in range(200):
        batch = stream.next_batch()
        begun += len(batch.begun)
        used_up = round(stream.epochs(batch.state)["nl"] * len(contents))
        assert used_up in (begun - 1, begun)  # the last one may go on in the next window
    assert begun > 2 * len(contents)


@pytest.mark.parametrize("pieces, readers", [(1, 1), (3, 1), (3, 8), (8, 4), (5, 4)])
def test_epochs_are_the_mean_over_the_lanes(small_tokenizer: Tokenizer, pieces: int, readers: int):
    """However many times a document has begun, to within what each lane has in hand."""
    contents = [[[f"text {piece} {number} " * 3 for number in range(8)]] for piece in range(pieces)]
    stream = alone(task("nl", contents, small_tokenizer), readers=readers, batch_size=readers, length=32)
    begun = 0
    for _ in range(60):
        batch = stream.next_batch()
        begun += len(batch.begun)
    epochs = stream.epochs(batch.state)["nl"]
    shares = -(-readers // pieces)
    assert epochs > 1 and abs(epochs - begun / (8 * pieces)) <= readers / (pieces * shares)
    positions = stream.state().positions
    positions[:, 0, 0, 0] = 3 * np.arange(readers)
    taken_pieces = 3 * (readers - 1) * readers / 2
    assert stream.epochs(LoaderState(0, positions))["nl"] == pytest.approx(taken_pieces / (pieces * shares))


# --- what is left out -------------------------------------------------------------------------------------------------


def no_digits(document: Document) -> None:
    if any(character.isdigit() for character in document.text):
        raise LeftOut("digits")


@pytest.mark.parametrize("readers", [1, 2, 8])
@pytest.mark.parametrize("pieces", [1, 3, 8, 21])
def test_what_is_left_out_is_counted_once_over_all_lanes_and_epochs(pieces: int, readers: int):
    """By the source, and by the check of the lane; the lane goes on with the others, of which each block has enough."""
    bad = [["!", "digit 7", "!!"], ["7"], [], ["!", "!"]]
    contents = [[[*["good"] * 8, *bad[piece % 4]], [*bad[(piece + 1) % 4], *["good"] * 8]] for piece in range(pieces)]
    texts = [text for piece in contents for block in piece for text in block]
    once = {"exclaimed": sum("!" in text for text in texts), "digits": sum("7" in text for text in texts)}
    epochs, good = 3, 0
    counted: collections.Counter[str] = collections.Counter()
    for number in range(readers):
        lane = Reader(Texts("code", contents), number, readers, (0, 1), no_digits)
        good += sum(document.text == "good" for _, _, document in walked(lane, epochs))
        counted += lane.left_out
        assert set(lane.left_out) == set(lane.examples)
    assert counted == {reason: count for reason, count in once.items() if count}
    assert good == epochs * texts.count("good")


def test_what_is_left_out_is_not_counted_again_where_a_block_is_read_again():
    """As when a stream resumes: what is held may stand before and after what was cut."""
    lane = Reader(Texts("code", [[["good", "!"], ["good", "!", "!"], ["good"]]]), 0, 1, (0, 1), taken)
    lane.find((0, 1, 0))
    lane.find((0, 0, 0))
    lane.find((0, 1, 0))
    lane.find((0, 2, 0))
    assert lane.left_out["exclaimed"] in (2, 3)


def test_what_is_left_out_is_told_with_a_place(small_tokenizer: Tokenizer):
    contents = [[["good", "!bad", "fine"]], [["well", "!worse"]]]
    stream = alone(task("nl", contents, small_tokenizer), readers=2, batch_size=2, length=200)
    assert stream.left_out() == {"nl": {}} and stream.left_out_lines() == []
    assert stream.epochs(stream.next_batch().state)["nl"] > 2
    assert stream.left_out() == {"nl": {"exclaimed": 2}}
    told = "left out of nl: 2 exclaimed, the first nl/"
    (line,) = stream.left_out_lines()
    assert line in (f"{told}0/0/1", f"{told}1/0/1")


def test_a_source_without_usable_documents_says_so(small_tokenizer: Tokenizer):
    for contents, why in (([[], [[]], [[], []]], ""), ([[["!"]], [["!"], ["!"]]], "; left out: 3 exclaimed")):
        stream = alone(task("nl", contents, small_tokenizer))
        with pytest.raises(UserError, match=f"NL_CORPUS: there is no usable document in nl{why}$"):
            stream.next_batch()


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_whatever_shapes_the_stream(
    build: Callable[..., DataLoader], small_tokenizer: Tokenizer, corpora: dict[str, Pieces]
):
    tokenizer = Tokenizer(small_tokenizer.model, infilling=False)

    def tasks(chat: Chat = CHAT, seed: int = 5, **changes: Pieces) -> list[StreamInput]:
        made = [task(name, pieces, small_tokenizer, seed=seed) for name, pieces in (corpora | changes).items()]
        return [dataclasses.replace(t, encoder=dataclasses.replace(t.encoder, chat=chat)) for t in made]

    streams = {
        "as it is": build(),
        "shares": build(shares={"code": 0.6, "nl_code": 0.2, "nl": 0.2}),
        "a stream less": build(shares={"code": 0.7, "nl_code": 0.3}),
        "seed": build(seed=6),
        "seed of infilling": build(tasks=tasks(seed=6)),
        "readers": build(readers=2),
        "batch_size": build(batch_size=16),
        "length": build(length=65),
        "mask_documents": build(mask_documents=False),
        "queue": build(queue=1),
        "fim.rate": build(fim=Fim(rate=0.8)),
        "fim.psm_share": build(fim=Fim(psm_share=0.4)),
        "fim.cut": build(fim=Fim(cut="line")),
        "tokenizer": build(tokenizer=tokenizer),
        "chat": build(tasks=tasks(chat=Chat("source"))),
        "the source": build(tasks=tasks(code=[*corpora["code"], [["more"]]])),
    }
    fingerprints = {name: stream.fingerprint() for name, stream in streams.items()}
    assert len(set(fingerprints.values())) == len(fingerprints)


def test_the_fingerprint_does_not_change_otherwise(
    build: Callable[..., DataLoader], uninterrupted: list[Batch], small_tokenizer: Tokenizer
):
    """Not with the host or the number of them, not with where the stream stands, not when all is built again."""
    stream = build()
    expected = stream.fingerprint()
    stream.next_batch()
    assert stream.fingerprint() == expected
    for hosts in (1, 2, 4):
        assert {build(host=host, hosts=hosts).fingerprint() for host in range(hosts)} == {expected}
    assert build(state=uninterrupted[30].state).fingerprint() == expected
    assert build(shares=SHARES | {"instruct": 0.0}).fingerprint() == expected
    assert build(tokenizer=Tokenizer(small_tokenizer.model, infilling=True)).fingerprint() == expected


# --- what is logged ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2])
def test_metrics_say_what_a_batch_is_made_of(build: Callable[..., DataLoader], hosts: int):
    """Of several hosts an estimate: one's counts, times their number."""
    stream = build(hosts=hosts)
    for _ in range(5):
        batch = stream.next_batch()
        metrics = stream.metrics(batch)
        infilled = [packed for _, packed in batch.begun if packed.kind in ("psm", "spm")]
        assert metrics["infilling_tokens"] == hosts * sum(len(packed.tokens) for packed in infilled)
        assert metrics["infilling_share"] == sum(len(packed.tokens) for packed in infilled) / (8 // hosts * 64)
        assert metrics["documents"] == hosts * len(batch.begun)
        assert metrics["infilling_documents"] == hosts * len(infilled)
        epochs = {name: metrics[f"epoch/{name}"] for name in SHARES}
        assert epochs == stream.epochs(batch.state)


# --- prefetching ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.usefixtures("no_thread_left")
def test_prefetched_batches_are_the_streams(build: Callable[..., DataLoader], uninterrupted: list[Batch], depth: int):
    batches = prefetched(build(), depth)
    for expected, batch in zip(uninterrupted[:10], batches, strict=False):
        assert same(batch, expected)
    batches.close()


@pytest.mark.usefixtures("no_thread_left")
def test_what_was_prepared_but_not_consumed_is_not_lost(build: Callable[..., DataLoader], uninterrupted: list[Batch]):
    batches = prefetched(build(), 4)
    last = [next(batches) for _ in range(7)][-1]
    time.sleep(0.05)  # the worker goes ahead
    batches.close()
    assert same(build(state=last.state).next_batch(), uninterrupted[7])


class Failing:
    """A stream whose third batch fails."""

    def __init__(self, error: BaseException):
        self.error, self.given = error, 0

    def next_batch(self) -> int:
        self.given += 1
        if self.given == 3:
            raise self.error
        return self.given


@pytest.mark.parametrize("error", [UserError("a file cannot be read"), ValueError("a bug"), KeyboardInterrupt()])
@pytest.mark.usefixtures("no_thread_left")
def test_the_workers_exception_is_raised_where_the_batch_is_asked_for(error: BaseException):
    """After the batches before it, as it is, and the thread ends."""
    batches = prefetched(Failing(error))  # type: ignore[arg-type]
    assert [next(batches), next(batches)] == [1, 2]
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            next(batches)
        except BaseException as given:
            raised.append(given)

    asking = threading.Thread(target=ask, daemon=True)  # so that a law that is broken fails and does not hang
    asking.start()
    asking.join(10)
    assert len(raised) == 1 and raised[0] is error
    with pytest.raises(StopIteration):
        next(batches)


@pytest.mark.usefixtures("no_thread_left")
def test_closing_ends_the_thread_even_while_it_waits(build: Callable[..., DataLoader]):
    batches = prefetched(build(), 1)
    next(batches)
    time.sleep(0.05)  # by now the worker waits for room
    batches.close()


@pytest.mark.usefixtures("no_thread_left")
def test_it_keeps_no_more_than_depth_ahead():
    class Counting:
        made = 0

        def next_batch(self) -> int:
            self.made += 1
            return self.made

    stream = Counting()
    batches = prefetched(stream, 3)  # type: ignore[arg-type]
    assert next(batches) == 1
    patience = time.monotonic() + 10
    while stream.made < 5 and time.monotonic() < patience:
        time.sleep(0.01)
    time.sleep(0.05)
    assert stream.made == 5  # one taken, three ready, one that waits for room
    batches.close()
