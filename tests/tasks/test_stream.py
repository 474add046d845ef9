"""The batch stream: resumed as uninterrupted, the same for any hosts, shares of tokens as planned, files in turn."""

import collections
import dataclasses
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.config import STREAMS, Chat, Fim
from tasks.packing import FEATURES, Encoder
from tasks.sources import Document, File, Texts
from tasks.stream import Batch, FileOrder, Stream, StreamState, StreamTask, prefetched, task_seed

Fuzz = Callable[[np.random.Generator, int], str]
SHARES = {"code": 0.6, "nl_code": 0.3, "nl": 0.1}
FIM, CHAT = Fim(), Chat()


def texts(name: str, contents: Sequence[str | None]) -> Texts:
    """A source that holds its files in memory; None is a file that is left out when read."""
    files = [
        File(f"{name}/{i:03d}", len(text or ""), functools.partial(_same, text)) for i, text in enumerate(contents)
    ]
    return Texts(name, files)


def _same(value: Any) -> Any:
    return value


def task(name: str, contents: Sequence[str | None], tokenizer: Tokenizer, fim: Fim = FIM, seed: int = 5) -> StreamTask:
    return StreamTask(name, texts(name, contents), Encoder(tokenizer, fim, CHAT, task_seed(seed, name)))


@pytest.fixture(scope="module")
def corpora(fuzzed: Fuzz) -> dict[str, list[str | None]]:
    """A stream of many files, one of few, and one of three short files, which repeats often; some are left out."""
    rng = np.random.default_rng(11)
    code = [fuzzed(rng, int(rng.integers(1, 400))) for _ in range(60)]
    nl_code = [fuzzed(rng, int(rng.integers(200, 900))) for _ in range(7)]
    nl = [fuzzed(rng, int(rng.integers(10, 90))) for _ in range(3)]
    return {"code": [*code, None], "nl_code": [None, *nl_code], "nl": nl}


@pytest.fixture(scope="module")
def build(corpora: dict[str, list[str | None]], small_tokenizer: Tokenizer) -> Callable[..., Stream]:
    """Streams over `corpora`; keywords change what a Stream takes, `fim` and `tokenizer` the encoders."""

    def build(fim: Fim = FIM, tokenizer: Tokenizer = small_tokenizer, **changes: Any) -> Stream:
        settings: dict[str, Any] = {
            "tasks": [task(name, contents, tokenizer, fim) for name, contents in corpora.items()],
            "shares": SHARES,
            "seed": 5,
            "lanes": 4,
            "batch_size": 8,
            "length": 64,
            "mask_documents": True,
        }
        return Stream(**settings | changes)

    return build


def same(one: Batch, other: Batch) -> bool:
    def described(batch: Batch) -> Any:
        begun = [
            (name, packed.document, packed.kind, packed.cut, packed.tokens.tolist()) for name, packed in batch.begun
        ]
        arrays = {name: (values.shape, values.dtype, values.tobytes()) for name, values in batch.arrays.items()}
        return begun, arrays, batch.infilling_tokens, batch.state.batch, batch.state.positions.tolist()

    return described(one) == described(other)


def through_json(state: StreamState) -> StreamState:
    saved = json.loads(json.dumps({"batch": state.batch, "positions": state.positions.tolist()}))
    return StreamState(saved["batch"], np.array(saved["positions"], np.int64))


def of_hosts(streams: Sequence[Stream]) -> Iterator[tuple[dict[str, np.ndarray], StreamState]]:
    """Global batches and states of all hosts' streams put together."""
    while True:
        batches = [stream.next_batch() for stream in streams]
        assert len({batch.state.batch for batch in batches}) == 1
        positions = np.concatenate([batch.state.positions for batch in batches])
        arrays = {name: np.concatenate([batch.arrays[name] for batch in batches]) for name in FEATURES}
        yield arrays, StreamState(batches[0].state.batch, positions)


def same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in FEATURES)


# --- a pure function of configuration, seed and number ----------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(build: Callable[..., Stream]) -> list[Batch]:
    stream = build()
    return [stream.next_batch() for _ in range(64)]


def test_resumed_after_any_batch_it_goes_on_as_if_nothing_had_been(
    build: Callable[..., Stream], uninterrupted: list[Batch]
):
    stream = build()
    epochs = stream.epochs(uninterrupted[-1].state)
    kinds = {packed.kind for batch in uninterrupted for _, packed in batch.begun}
    assert epochs["nl"] > 5 and epochs["nl_code"] > 2 and kinds == {"psm", "spm", "plain", "cut"}
    for k in [0, 1, 2, 3, 4, 5, 7, 9, 10, 13, 16, 17, 23, 29, 31, 37, 41, 47, 53, 59]:
        resumed = build(state=through_json(uninterrupted[k - 1].state) if k else None)
        for expected in uninterrupted[k : k + 4]:
            assert same(resumed.next_batch(), expected), k


def test_asking_for_the_state_changes_nothing(build: Callable[..., Stream], uninterrupted: list[Batch]):
    stream = build()
    for expected in uninterrupted[:10]:
        stream.state(), stream.fingerprint(), stream.epochs(stream.state())
        batch = stream.next_batch()
        assert same(batch, expected)
        assert np.array_equal(stream.state().positions, batch.state.positions)
        assert stream.state().batch == batch.state.batch


def test_batches_have_all_features_and_whole_windows(uninterrupted: list[Batch]):
    for number, batch in enumerate(uninterrupted):
        assert {name: values.dtype for name, values in batch.arrays.items()} == FEATURES
        assert {values.shape for values in batch.arrays.values()} == {(8, 64)}
        assert (batch.arrays["segment_ids"] > 0).all()  # a stream repeats and is never padded
        assert batch.state.batch == number + 1 and batch.state.positions.shape == (4, 3, 3)
        assert (batch.arrays["stream_ids"] == batch.arrays["stream_ids"][:, :1]).all()  # a window has one stream
        begun = {name for name, _ in batch.begun}
        assert begun <= {STREAMS[index] for index in set(batch.arrays["stream_ids"].flat)} <= set(SHARES)


def test_another_seed_is_another_stream(build: Callable[..., Stream], uninterrupted: list[Batch]):
    """Its files come in another order and its windows' streams in another phase, even with the same encoders."""
    other = build(seed=6)
    for expected in uninterrupted[:8]:
        assert not same_arrays(other.next_batch().arrays, expected.arrays)


def test_the_order_of_the_mixtures_streams_does_not_matter(build: Callable[..., Stream], uninterrupted: list[Batch]):
    """The same shares written down in another order are the same mixture: fingerprint, batches and state agree."""
    stream = build()
    for tasks in itertools.permutations(stream.tasks):
        other = build(tasks=tasks, shares={task.name: SHARES[task.name] for task in tasks})
        assert other.fingerprint() == stream.fingerprint()
        assert all(same(other.next_batch(), expected) for expected in uninterrupted[:4])
        resumed = build(tasks=tasks, state=through_json(uninterrupted[9].state))
        assert same(resumed.next_batch(), uninterrupted[10])


# --- hosts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_number_of_hosts_does_not_matter(build: Callable[..., Stream], uninterrupted: list[Batch], hosts: int):
    together = of_hosts([build(host=host, hosts=hosts) for host in range(hosts)])
    for expected, (arrays, state) in zip(uninterrupted[:20], together, strict=False):
        assert same_arrays(arrays, expected.arrays)
        assert np.array_equal(state.positions, expected.state.positions)


@pytest.mark.parametrize("before, after", [(4, 2), (4, 1), (2, 1), (1, 4), (2, 4)])
def test_other_hosts_resume_what_these_began(
    build: Callable[..., Stream], uninterrupted: list[Batch], before: int, after: int
):
    began = of_hosts([build(host=host, hosts=before) for host in range(before)])
    for _, (_, state) in zip(range(13), began, strict=False):
        saved = through_json(state)
    parts = np.split(saved.positions, after)
    resumed = of_hosts(
        [build(host=host, hosts=after, state=StreamState(saved.batch, part)) for host, part in enumerate(parts)]
    )
    for expected, (arrays, _) in zip(uninterrupted[13:30], resumed, strict=False):
        assert same_arrays(arrays, expected.arrays)


def test_lanes_that_do_not_fit_are_refused(build: Callable[..., Stream]):
    for changes in ({"batch_size": 6}, {"hosts": 3}, {"hosts": 8}, {"lanes": 5}):
        with pytest.raises(UserError, match=r"Stream\.lanes=") as refused:
            build(**changes)
        assert "\n" not in str(refused.value)


# --- shares -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shares",
    [
        SHARES,
        {"code": 0.85, "nl_code": 0.08, "nl": 0.07},
        {"code": 1 / 3, "nl_code": 1 / 3, "nl": 1 / 3},
        {"code": 1.0},
    ],
    ids=str,
)
def test_any_stretch_of_windows_has_the_planned_shares(build: Callable[..., Stream], shares: dict[str, float]):
    """To within a few windows, wherever it begins and however long it is, a step's windows as well as a run's."""
    rng = np.random.default_rng(3)
    stream = build(shares=shares)
    planned = np.array([shares[task.name] for task in stream.tasks])
    for _ in range(300):
        begin, length = int(10 ** rng.uniform(0, 9)), int(10 ** rng.uniform(0, 5))
        streams = stream.stream_of(np.arange(begin, begin + length))
        counts = np.bincount(streams, minlength=len(planned))
        assert (np.abs(counts - length * planned) < 4).all(), (begin, length)


def test_the_stream_of_a_window_depends_on_its_number_only(build: Callable[..., Stream]):
    stream, other = build(), build(lanes=2, host=1, hosts=2)
    numbers = np.arange(5000)
    assert np.array_equal(stream.stream_of(numbers), other.stream_of(numbers))
    assert np.array_equal(stream.stream_of(numbers)[::-1], stream.stream_of(numbers[::-1]))


def test_row_after_row_batches_are_the_windows_in_turn(build: Callable[..., Stream], uninterrupted: list[Batch]):
    """Row i of global batch b is window b * batch_size + i, so that batches have the planned shares as well."""
    stream = build()
    rows = np.concatenate([batch.arrays["stream_ids"][:, 0] for batch in uninterrupted])
    planned = stream.stream_of(np.arange(len(rows)))
    assert rows.tolist() == [STREAMS.index(stream.tasks[index].name) for index in planned]


def test_shares_are_shares_of_tokens_whatever_the_documents_lengths(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    rng = np.random.default_rng(8)
    long = [fuzzed(rng, int(rng.integers(1000, 2000))) for _ in range(20)]
    short = [fuzzed(rng, int(rng.integers(100, 200))) for _ in range(20)]
    shares = {"code": 0.5, "python": 0.5}
    for contents in ({"code": long, "python": short}, {"code": short, "python": long}):
        tasks = [task(name, contents[name], small_tokenizer) for name in contents]
        stream = Stream(tasks, shares, seed=0, lanes=2, batch_size=4, length=128, mask_documents=False)
        tokens: collections.Counter[int] = collections.Counter()
        documents: collections.Counter[str] = collections.Counter()
        for _ in range(100):
            batch = stream.next_batch()
            tokens.update(batch.arrays["stream_ids"].flat)
            documents.update(name for name, _ in batch.begun)
        for name in shares:
            assert abs(tokens[STREAMS.index(name)] / tokens.total() - shares[name]) < 0.01
        few, many = sorted(documents.values())
        assert many > 5 * few  # so the documents' shares were far apart


def test_a_stream_without_a_share_is_left_out(build: Callable[..., Stream]):
    for shares in ({"code": 0.5, "nl": 0.5}, {"code": 0.5, "nl": 0.5, "nl_code": 0.0}):
        stream = build(shares=shares)
        assert [task.name for task in stream.tasks] == ["code", "nl"]
        seen = {int(index) for _ in range(5) for index in stream.next_batch().arrays["stream_ids"].flat}
        assert seen == {STREAMS.index("code"), STREAMS.index("nl")}


# --- files ------------------------------------------------------------------------------------------------------------


class Recorded(Texts):
    """Remembers which files were read, in order."""

    def __init__(self, number: int):
        self.reads: list[int] = []
        super().__init__("code", [File(str(i), i, functools.partial(_same, f"text {i}")) for i in range(number)])

    def read(self, index: int) -> list[Document]:
        self.reads.append(index)
        return super().read(index)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
@pytest.mark.parametrize("files", [1, 3, 8, 37])
def test_every_file_is_read_once_in_each_epoch_over_all_lanes(files: int, lanes: int):
    source = Recorded(files)
    orders = [FileOrder(source, lane, lanes, (0, 1)) for lane in range(lanes)]
    epochs = 6
    for number in range(-(-files * epochs // lanes)):  # files and lanes need not divide one another
        for lane, order in enumerate(orders):
            assert order.number(number) == number * lanes + lane
            order.read(number)
    for epoch in range(epochs):
        assert sorted(source.reads[epoch * files : (epoch + 1) * files]) == list(range(files))


def test_epochs_have_orders_of_their_own(small_tokenizer: Tokenizer):
    source = Recorded(50)
    order = FileOrder(source, 0, 1, (0, 1))
    for number in range(50 * 6):
        order.read(number)
    epochs = [tuple(source.reads[begin : begin + 50]) for begin in range(0, 300, 50)]
    assert len(set(epochs)) == 6 and tuple(range(50)) not in epochs
    first = source.reads[:]
    for number in reversed(range(300)):  # a file's place depends on its number alone
        order.read(number)
    assert source.reads[300:][::-1] == first


def test_a_document_of_another_epoch_is_drawn_anew(small_tokenizer: Tokenizer):
    """Not only the order of files changes: a document that comes again is cut elsewhere."""
    text = "def f(a):\n    return a\n" * 4
    stream = Stream(
        [task("code", [text], small_tokenizer, Fim(rate=1.0))],
        {"code": 1.0},
        seed=0,
        lanes=2,
        batch_size=2,
        length=400,
        mask_documents=False,
    )
    cuts = [packed.cut for _ in range(10) for _, packed in stream.next_batch().begun if packed.cut is not None]
    assert len(cuts) > 15 and len(set(cuts)) > 0.9 * len(cuts)


def test_two_tasks_with_one_seed_draw_differently(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    rng = np.random.default_rng(2)
    contents = [fuzzed(rng, 60) for _ in range(40)]
    assert task_seed(0, "code") != task_seed(0, "python") and task_seed(0, "code") != task_seed(1, "code")
    begun: dict[str, list[Any]] = {}
    for name in ("code", "python"):
        stream = Stream(
            [task(name, contents, small_tokenizer)],
            {name: 1.0},
            seed=5,
            lanes=1,
            batch_size=1,
            length=2000,
            mask_documents=False,
        )
        begun[name] = [(packed.document.text, packed.cut) for _, packed in stream.next_batch().begun]  # type: ignore[union-attr]
    code, python = begun["code"], begun["python"]
    assert [text for text, _ in code] != [text for text, _ in python]
    cuts, others = dict(code), dict(python)
    both = cuts.keys() & others.keys()
    assert len(both) > 5 and sum(cuts[text] == others[text] for text in both) < len(both) / 2


def test_a_source_without_usable_files_says_so(small_tokenizer: Tokenizer):
    stream = Stream(
        [task("nl", [None, None, None], small_tokenizer)],
        {"nl": 1.0},
        seed=0,
        lanes=1,
        batch_size=1,
        length=8,
        mask_documents=False,
    )
    with pytest.raises(UserError, match="nl: none of its 3 files holds a usable document"):
        stream.next_batch()


def test_epochs_count_the_files_that_were_used_up(small_tokenizer: Tokenizer, corpora: dict[str, list[str | None]]):
    stream = Stream(
        [task("nl", corpora["nl"], small_tokenizer)],
        {"nl": 1.0},
        seed=0,
        lanes=1,
        batch_size=1,
        length=16,
        mask_documents=False,
    )
    assert stream.epochs(stream.state()) == {"nl": 0.0}
    begun = 0
    for _ in range(60):
        batch = stream.next_batch()
        begun += len(batch.begun)
        used_up = round(stream.epochs(batch.state)["nl"] * len(corpora["nl"]))
        assert used_up in (begun - 1, begun)  # the last one may go on in the next window
    assert begun > 15


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_whatever_shapes_the_stream(
    build: Callable[..., Stream], small_tokenizer: Tokenizer, corpora: dict[str, list[str | None]]
):
    tokenizer = Tokenizer(small_tokenizer.model, infilling=False)

    def tasks(chat: Chat = CHAT, seed: int = 5, **changes: list[str | None]) -> list[StreamTask]:
        made = [task(name, contents, small_tokenizer, seed=seed) for name, contents in (corpora | changes).items()]
        return [dataclasses.replace(t, encoder=dataclasses.replace(t.encoder, chat=chat)) for t in made]

    code = corpora["code"]
    streams = {
        "as it is": build(),
        "shares": build(shares={"code": 0.6, "nl_code": 0.2, "nl": 0.2}),
        "a stream less": build(shares={"code": 0.7, "nl_code": 0.3}),
        "seed": build(seed=6),
        "seed of infilling": build(tasks=tasks(seed=6)),
        "lanes": build(lanes=2),
        "batch_size": build(batch_size=16),
        "length": build(length=65),
        "mask_documents": build(mask_documents=False),
        "fim.rate": build(fim=Fim(rate=0.8)),
        "fim.psm_share": build(fim=Fim(psm_share=0.4)),
        "tokenizer": build(tokenizer=tokenizer),
        "chat": build(tasks=tasks(chat=Chat("source"))),
        "a longer file": build(tasks=tasks(code=[f"{code[0]}.", *code[1:]])),
        "a file more": build(tasks=tasks(code=[*code, "more"])),
        "files in another order": build(tasks=tasks(code=code[::-1])),
    }
    fingerprints = {name: stream.fingerprint() for name, stream in streams.items()}
    assert len(set(fingerprints.values())) == len(fingerprints)


def test_the_fingerprint_does_not_change_otherwise(
    build: Callable[..., Stream], uninterrupted: list[Batch], small_tokenizer: Tokenizer
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


# --- prefetching ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.usefixtures("no_thread_left")
def test_prefetched_batches_are_the_streams(build: Callable[..., Stream], uninterrupted: list[Batch], depth: int):
    batches = prefetched(build(), depth)
    for expected, batch in zip(uninterrupted[:10], batches, strict=False):
        assert same(batch, expected)
    batches.close()


@pytest.mark.usefixtures("no_thread_left")
def test_what_was_prepared_but_not_consumed_is_not_lost(build: Callable[..., Stream], uninterrupted: list[Batch]):
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
def test_closing_ends_the_thread_even_while_it_waits(build: Callable[..., Stream]):
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
