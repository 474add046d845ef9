"""Readers: the order of documents, epochs, and counts of the documents that filters remove."""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from memory_source import (
    Fuzz,
    MemorySource,
    Shards,
    accept_all,
    single_stream,
    stream_input,
)

from codellama_jax.config.data import Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.loader import LoaderState, stream_seed
from tasks.packing import START, Cursor
from tasks.reader import Reader
from tasks.sources.base import Document
from tasks.sources.filters import LeftOut


def numbered(shards: int, least: int = 0) -> Shards:
    """Distinct texts in blocks of `least` or more. With least=0, some shards have no document."""
    rng = np.random.default_rng(1)
    made = []
    for shard in range(shards):
        sizes = least + rng.integers(0, 6, rng.integers(least > 0, 4))
        made.append([[f"{shard}/{block}/{number}" for number in range(size)] for block, size in enumerate(sizes)])
    made[-1].append([f"{shards}/{number}" for number in range(least + 2)])
    return made


def walked(reader: Reader, epochs: int) -> Iterator[tuple[int, Cursor, Document]]:
    """(epoch, cursor, document) of all documents of a reader in the first epochs."""
    cursor, document = reader.seek(START)
    while reader.global_shard(cursor.shard) < epochs * reader.shards:
        assert isinstance(document, Document)
        yield reader.global_shard(cursor.shard) // reader.shards, cursor, document
        cursor, document = reader.seek(cursor._replace(document=cursor.document + 1))


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "unshuffled"])
@pytest.mark.parametrize("readers", [1, 2, 4, 8])
@pytest.mark.parametrize("shards", [1, 3, 4, 8, 37])
def test_all_readers_together_give_every_document_once_per_epoch(shards: int, readers: int, shuffle: bool):
    """For fewer shards than readers, as many, or more; neither needs to divide the other. All keys are different."""
    contents = numbered(shards, least=0 if shuffle else readers)  # otherwise a reader might never have a document
    expected = sorted(text for shard in contents for block in shard for text in block)
    epochs: list[list[str]] = [[] for _ in range(5)]
    keys = []
    for number in range(readers):
        reader = Reader(MemorySource("code", contents), number, readers, (0, 1), accept_all, shuffle)
        for epoch, cursor, document in walked(reader, len(epochs)):
            epochs[epoch].append(document.text)
            keys.append(reader.key(cursor))
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert len(set(keys)) == len(keys)


def test_every_epoch_has_another_order():
    """The order of shards changes, and the order of the documents in a block. The blocks of a shard stay in order."""
    contents = [[[f"{p}/{b}/{d}" for d in range(4)] for b in range(3)] for p in range(20)]
    epochs: list[list[list[str]]] = [[] for _ in range(5)]
    for epoch, _, document in walked(Reader(MemorySource("code", contents), 0, 1, (0, 1), accept_all), 5):
        epochs[epoch].append(document.text.split("/"))
    blocks = [[block for block, _ in itertools.groupby(epoch, lambda name: name[:2])] for epoch in epochs]
    orders = [tuple(shard for shard, _ in itertools.groupby(epoch, lambda name: name[0])) for epoch in epochs]
    assert all(len(order) == 20 and tuple(map(str, range(20))) != order for order in orders) and len(set(orders)) == 5
    for epoch, order in zip(blocks, orders, strict=True):
        assert epoch == [[shard, block] for shard in order for block in "012"]
    within = collections.defaultdict[str, list[str]](list)
    for epoch in epochs:
        for block, group in itertools.groupby(epoch, lambda name: "/".join(name[:2])):
            within[block].append("".join(name[2] for name in group))
    seen = collections.Counter(order for orders_of_block in within.values() for order in orders_of_block)
    assert len(seen) == 24 and max(seen.values()) < 40  # of 300: all orders of four documents, about equally often


def test_without_shuffling_a_reader_keeps_the_order_of_the_source():
    contents = numbered(12)
    reader = Reader(MemorySource("code", contents), 0, 1, (0, 1), accept_all, shuffle=False)
    expected = [text for shard in contents for block in shard for text in block]
    assert [document.text for _, _, document in walked(reader, 3)] == 3 * expected


def test_seek_finds_every_document_again():
    """This holds for cursors in any order. A cursor without a document gives the next document."""
    for readers in (1, 3):
        source = MemorySource("code", numbered(8))
        expected_documents = {
            cursor: document
            for _, cursor, document in walked(Reader(source, 1 % readers, readers, (0, 1), accept_all), 4)
        }
        order = np.random.default_rng(2).permutation(len(expected_documents))
        reader = Reader(source, 1 % readers, readers, (0, 1), accept_all)
        cursors = list(expected_documents)
        for index in order:
            assert reader.seek(cursors[index]) == (cursors[index], expected_documents[cursors[index]])
        for before, after in itertools.pairwise(cursors):
            assert reader.seek(before._replace(document=before.document + 1)) == (after, expected_documents[after])


def test_a_block_is_read_once_and_earlier_blocks_are_skipped():
    """This holds while a reader advances, and if it starts in the middle of a shard."""
    contents = [[["a"] * 3 for _ in range(4)] for _ in range(3)]
    source = MemorySource("code", contents)
    every = list(walked(Reader(source, 0, 1, (0, 1), accept_all), 1))
    assert sorted(source.reads[:12]) == [(shard, block) for shard in range(3) for block in range(4)]
    assert len(source.reads) <= 13  # the next epoch's first
    cursor = next(cursor for _, cursor, _ in every if cursor[:2] == (1, 2))
    again = MemorySource("code", contents)
    Reader(again, 0, 1, (0, 1), accept_all).seek(cursor)
    assert [block for _, block in again.reads] == [2]


def test_infilling_is_drawn_again_in_every_epoch(small_tokenizer: Tokenizer):
    """Not only the order of documents changes: the same document is split at other characters."""
    text = "def f(a):\n    return a\n" * 4
    loader = single_stream(
        stream_input("code", [[[text]]], small_tokenizer, Fim(rate=1.0)), readers=2, batch_size=2, length=400
    )
    splits = [packed.split for _ in range(10) for _, packed in loader.next_batch().started if packed.split is not None]
    assert len(splits) > 15 and len(set(splits)) > 0.9 * len(splits)


def test_two_streams_with_the_same_seed_have_different_orders_and_splits(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    rng = np.random.default_rng(2)
    contents = [[[fuzzed(rng, 60)]] for _ in range(40)]
    assert stream_seed(0, "code") != stream_seed(0, "python") and stream_seed(0, "code") != stream_seed(1, "code")
    started: dict[str, list[Any]] = {}
    for name in ("code", "python"):
        loader = single_stream(stream_input(name, contents, small_tokenizer), length=2000)
        started[name] = [(packed.document.text, packed.split) for _, packed in loader.next_batch().started]  # type: ignore[union-attr]
    code, python = started["code"], started["python"]
    assert [text for text, _ in code] != [text for text, _ in python]
    splits, others = dict(code), dict(python)
    both = splits.keys() & others.keys()
    assert len(both) > 5 and sum(splits[text] == others[text] for text in both) < len(both) / 2


@pytest.mark.parametrize("readers", [1, 8, 64])
def test_a_single_document_is_enough_for_any_number_of_readers(small_tokenizer: Tokenizer, readers: int):
    loader = single_stream(
        stream_input("nl", [[["a text"]]], small_tokenizer), readers=readers, batch_size=readers, length=64
    )
    for _ in range(4):
        batch = loader.next_batch()
        assert (batch.arrays["segment_ids"] > 0).all()


def test_epochs_count_the_shards_that_were_read(small_tokenizer: Tokenizer, corpora: dict[str, Shards]):
    """With one document per shard they can be counted."""
    contents = [[[text]] for shard in corpora["nl"] for block in shard for text in block]
    loader = single_stream(stream_input("nl", contents, small_tokenizer))
    assert loader.epochs(loader.state()) == {"nl": 0.0}
    started = 0
    for _ in range(200):
        batch = loader.next_batch()
        started += len(batch.started)
        used_up = round(loader.epochs(batch.state)["nl"] * len(contents))
        assert used_up in (started - 1, started)  # the last document may continue in the next window
    assert started > 2 * len(contents)


@pytest.mark.parametrize("shards, readers", [(1, 1), (3, 1), (3, 8), (8, 4), (5, 4)])
def test_epochs_are_the_mean_over_the_readers(small_tokenizer: Tokenizer, shards: int, readers: int):
    """They are the number of times that a document has started, to within the current shard of each reader."""
    contents = [[[f"text {shard} {number} " * 3 for number in range(8)]] for shard in range(shards)]
    loader = single_stream(
        stream_input("nl", contents, small_tokenizer), readers=readers, batch_size=readers, length=32
    )
    started = 0
    for _ in range(60):
        batch = loader.next_batch()
        started += len(batch.started)
    epochs = loader.epochs(batch.state)["nl"]
    shares = -(-readers // shards)
    assert epochs > 1 and abs(epochs - started / (8 * shards)) <= readers / (shards * shares)
    positions = loader.state().positions
    positions[:, 0, 0, 0] = 3 * np.arange(readers)
    shards_read = 3 * (readers - 1) * readers / 2
    assert loader.epochs(LoaderState(0, positions))["nl"] == pytest.approx(shards_read / (shards * shares))


# --- filters ----------------------------------------------------------------------------------------------------------


def no_digits(document: Document) -> None:
    if any(character.isdigit() for character in document.text):
        raise LeftOut("digits")


@pytest.mark.parametrize("readers", [1, 2, 8])
@pytest.mark.parametrize("shards", [1, 3, 8, 21])
def test_removed_documents_are_counted_once_over_all_readers_and_epochs(shards: int, readers: int):
    """Both the source and the reader remove documents. The reader gives all others."""
    bad = [["!", "digit 7", "!!"], ["7"], [], ["!", "!"]]
    contents = [[[*["good"] * 8, *bad[shard % 4]], [*bad[(shard + 1) % 4], *["good"] * 8]] for shard in range(shards)]
    texts = [text for shard in contents for block in shard for text in block]
    once = {"exclaimed": sum("!" in text for text in texts), "digits": sum("7" in text for text in texts)}
    epochs, good = 3, 0
    counted: collections.Counter[str] = collections.Counter()
    for number in range(readers):
        reader = Reader(MemorySource("code", contents), number, readers, (0, 1), no_digits)
        good += sum(document.text == "good" for _, _, document in walked(reader, epochs))
        counted += reader.left_out
        assert set(reader.left_out) == set(reader.examples)
    assert counted == {reason: count for reason, count in once.items() if count}
    assert good == epochs * texts.count("good")


def test_removed_documents_are_not_counted_again_when_a_block_is_read_again():
    """Blocks are read again on resume: pending documents may precede and follow the one that was cut."""
    reader = Reader(MemorySource("code", [[["good", "!"], ["good", "!", "!"], ["good"]]]), 0, 1, (0, 1), accept_all)
    reader.seek(Cursor(0, 1, 0))
    reader.seek(START)
    reader.seek(Cursor(0, 1, 0))
    reader.seek(Cursor(0, 2, 0))
    assert reader.left_out["exclaimed"] in (2, 3)


def test_removed_documents_are_reported_with_a_location(small_tokenizer: Tokenizer):
    contents = [[["good", "!bad", "fine"]], [["well", "!worse"]]]
    loader = single_stream(stream_input("nl", contents, small_tokenizer), readers=2, batch_size=2, length=200)
    assert loader.left_out() == {"nl": {}} and loader.left_out_lines() == []
    assert loader.epochs(loader.next_batch().state)["nl"] > 2
    assert loader.left_out() == {"nl": {"exclaimed": 2}}
    message = "left out of nl: 2 exclaimed, the first nl/"
    (line,) = loader.left_out_lines()
    assert line in (f"{message}0/0/1", f"{message}1/0/1")


def test_a_source_without_usable_documents_is_an_error(small_tokenizer: Tokenizer):
    for contents, why in (([[], [[]], [[], []]], ""), ([[["!"]], [["!"], ["!"]]], "; left out: 3 exclaimed")):
        loader = single_stream(stream_input("nl", contents, small_tokenizer))
        with pytest.raises(UserError, match=f"NL_CORPUS: there is no usable document in nl{why}$"):
            loader.next_batch()
