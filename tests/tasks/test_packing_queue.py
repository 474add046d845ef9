"""Packing: documents that wait in the queue, and resuming from a state."""

import json

import numpy as np
import pytest
from packing_cases import (
    QUEUES,
    Files,
    Fuzz,
    ListReader,
    encoder,
    fuzzed_files,
    packer,
    same_window,
    started_in,
    windows_of,
)

from codellama_jax.tokenizer import Tokenizer
from tasks.packing import Cursor, Packer, PackerState
from tasks.sources.base import Document

# --- the queue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES)
def test_at_most_as_many_documents_wait_as_the_queue_is_long(small_tokenizer: Tokenizer, files: Files, queue: int):
    """A document that was cut is also pending, as the first. The others precede `next`, in the order of the source."""
    windows, most = packer(files, encoder(small_tokenizer), 64, queue), 0
    while windows.next_window() is not None:
        state = windows.state
        waiting = [cursor for cursor, used in state.pending if not used]
        assert not any(used for _, used in state.pending[1:])
        assert len(waiting) <= queue and len(state.pending) <= len(waiting) + 1
        assert waiting == sorted(waiting) and all(cursor < state.next for cursor, _ in state.pending)
        most = max(most, len(waiting))
    assert windows.state.pending == () and most >= min(queue, 4) - 1


@pytest.mark.parametrize("queue", QUEUES)
def test_a_document_is_cut_only_if_none_fits(small_tokenizer: Tokenizer, fuzzed: Fuzz, queue: int):
    """No waiting document fits, and the queue is full. One that fits a window is cut only if none is longer."""
    length = 64
    files = fuzzed_files(fuzzed, 8)
    encode, reader = encoder(small_tokenizer), ListReader(files)
    windows = Packer(reader, encode, length, False, queue)
    end = 0

    def full_length(cursor: Cursor) -> int:
        """Tokens of the form that a document has in an empty window."""
        shard, _, number = cursor
        document = files[shard][number]
        split, (ids, _) = encode.draw_split(document, cursor), encode.plain(document)
        infilled = len(encode.infilling(document, split)) if split is not None else length + 1  # type: ignore[arg-type]
        return infilled if infilled <= length else len(ids)

    cuts = 0
    while (window := windows.next_window()) is not None:
        end = end or int(reader.seek(windows.state.next) is None)
        if not window.started or window.started[-1].kind != "cut":
            continue
        cuts += 1
        room = int((window.arrays["segment_ids"] == window.arrays["segment_ids"].max()).sum())
        (cursor, _), *waiting = windows.state.pending
        assert all(full_length(other) > room for other, _ in waiting)
        if full_length(cursor) <= length:
            assert all(full_length(other) <= length for other, _ in waiting)
        assert end or len(waiting) >= queue - 1
    assert cuts > 5


def test_a_queue_reduces_cuts_of_documents_that_fit_a_window(small_tokenizer: Tokenizer):
    """To about half if, as in code, some documents are longer than a window and can be cut instead."""
    length, number = 256, 2000
    digits = np.exp(np.random.default_rng(9).normal(np.log(length / 4), 1.4, number)).astype(int)
    files = [[Document("7" * int(count), str(index))] for index, count in enumerate(digits)]
    fitting = int((digits + 3 <= length).sum())
    cut, infilled = [], []
    for queue in QUEUES:
        started = started_in(windows_of(packer(files, encoder(small_tokenizer), length, queue)))
        kinds = [packed.kind for packed in started if len(packed.document.text) + 3 <= length]  # type: ignore[union-attr]
        assert len(kinds) == fitting
        cut.append(kinds.count("cut") / fitting)
        infilled.append((kinds.count("psm") + kinds.count("spm")) / fitting)
    assert cut[0] > 0.25 and cut[2] < 0.75 * cut[0] and cut[3] < 0.62 * cut[0]
    assert cut == sorted(cut, reverse=True) and infilled == sorted(infilled)


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES)
def test_a_state_is_a_row_of_integers(queue: int):
    rng = np.random.default_rng(queue)

    def cursor() -> Cursor:
        shard, block, document = (int(10 ** rng.uniform(0, 15)) for _ in range(3))
        return Cursor(shard, block, document)

    for _ in range(200):
        waiting = tuple((cursor(), 0) for _ in range(rng.integers(0, queue + 1)))
        cut = ((cursor(), int(rng.integers(1, 10**9))),) if rng.random() < 0.5 else ()
        state = PackerState(cursor(), cut + waiting)
        row = state.row(queue)
        assert (row.shape, row.dtype) == ((queue + 2, 4), np.int64)
        assert PackerState.of_row(row) == state
        assert PackerState.of_row(np.array(json.loads(json.dumps(row.tolist())), np.int64)) == state
    assert PackerState.of_row(PackerState().row(queue)) == PackerState()


@pytest.mark.parametrize(
    "length, queue", [(2, 0), (7, 0), (64, 0), (257, 0), (16, 1), (64, 1), (16, 4), (64, 4), (64, 16), (257, 16)]
)
def test_resumes_exactly_after_any_window(small_tokenizer: Tokenizer, files: Files, length: int, queue: int):
    encode = encoder(small_tokenizer)
    original = packer(files, encode, length, queue, restart=True)
    windows, states = [], [original.state]
    while (window := original.next_window()) is not None:
        windows.append(window)
        states.append(original.state)
    assert len(windows) > 5
    for begin, state in list(enumerate(states))[:: max(1, len(states) // 40)]:
        saved = PackerState.of_row(np.array(json.loads(json.dumps(state.row(queue).tolist())), np.int64))
        resumed = packer(files, encoder(small_tokenizer), length, queue, restart=True, state=saved)
        assert resumed.state == state
        for index in range(begin, min(begin + 4, len(windows))):
            assert same_window(resumed.next_window(), windows[index]), (begin, index)
            assert resumed.state == states[index + 1]
        if begin + 4 > len(windows):
            assert resumed.next_window() is None


@pytest.mark.parametrize("queue", QUEUES)
def test_resuming_requests_only_pending_and_next_documents(small_tokenizer: Tokenizer, files: Files, queue: int):
    """It requests no used document, none twice, and none before the first window is requested."""
    original = packer(files, encoder(small_tokenizer), 64, queue)
    for _ in range(25):
        original.next_window()
    state = original.state
    assert state.next.shard > 1 and len(state.pending) >= min(queue, 4) - 1  # some documents were read
    reader = ListReader(files)
    resumed = Packer(reader, encoder(small_tokenizer), 64, False, queue, state)
    assert reader.requested == []
    assert len(windows_of(resumed)) > 1
    pending, rest = reader.requested[: len(state.pending)], reader.requested[len(state.pending) :]
    assert pending == [cursor for cursor, _ in state.pending]
    assert rest[0] == state.next and rest == sorted(rest)
    existing = [cursor for cursor in rest if reader.seek(cursor) is not None]
    assert len(existing) == len(set(existing))
