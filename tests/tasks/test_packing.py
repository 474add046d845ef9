"""Packing: windows are full, no document is lost, and the arrays are correct."""

import itertools

import numpy as np
import pytest
from packing_cases import (
    ALWAYS,
    LENGTHS,
    NEVER,
    USUAL,
    Files,
    Fuzz,
    concatenated,
    document_of,
    encoder,
    expected_forms,
    fuzzed_files,
    packer,
    same_window,
    sizes,
    started_in,
    weights_of,
    windows_of,
)

from codellama_jax.config.data import Fim
from codellama_jax.tokenizer import Tokenizer
from tasks.fim import encode_infilling
from tasks.packing import FEATURES

# --- documents and windows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fim", [USUAL, NEVER, ALWAYS], ids=lambda fim: f"rate {fim.rate}")
@pytest.mark.parametrize("length", LENGTHS)
def test_without_a_queue_windows_are_the_concatenated_documents(
    small_tokenizer: Tokenizer, files: Files, length: int, fim: Fim
):
    encode = encoder(small_tokenizer, fim)
    windows = windows_of(packer(files, encode, length))
    forms = expected_forms(files, encode, length)
    assert concatenated(windows, "tokens").tolist() == [token for _, ids in forms for token in ids.tolist()]
    started = started_in(windows)
    assert [packed.kind for packed in started] == [kind for kind, _ in forms]
    assert [packed.document for packed in started] == [document for file in files for document in file]
    assert all(np.array_equal(packed.tokens, ids) for packed, (_, ids) in zip(started, forms, strict=True))


@pytest.mark.parametrize("fim", [USUAL, NEVER, ALWAYS], ids=lambda fim: f"rate {fim.rate}")
@sizes
def test_every_document_occurs_once_and_completely(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int, fim: Fim
):
    """It has one form and is contiguous: a document that was cut continues at the start of the next window."""
    encode = encoder(small_tokenizer, fim)
    windows = windows_of(packer(files, encode, length, queue))
    keys = {document.path: (file, 0, i) for file, documents in enumerate(files) for i, document in enumerate(documents)}
    started = started_in(windows)
    assert sorted(packed.document.path for packed in started) == sorted(keys)
    for packed in started:
        if packed.kind in ("psm", "spm"):
            assert packed.split == encode.draw_split(packed.document, keys[packed.document.path])
            assert packed.split is not None and packed.split.order == packed.kind
            assert np.array_equal(packed.tokens, encode_infilling(small_tokenizer, packed.document.text, packed.split))
        else:
            assert packed.split is None and np.array_equal(packed.tokens, encode.plain(packed.document)[0])
    rest: list[int] = []
    for window in windows:
        ids, segments = window.arrays["tokens"], window.arrays["segment_ids"]
        forms = [rest] * bool(rest) + [packed.tokens.tolist() for packed in window.started]
        assert segments.max() == len(forms)
        for number, form in enumerate(forms, 1):
            segment = ids[segments == number].tolist()
            assert segment == form[: len(segment)]
            rest = form[len(segment) :]
            assert not rest or number == len(forms)
    assert not rest


@pytest.mark.parametrize("queue", [0, 1, 3])
@pytest.mark.parametrize("fim", [NEVER, ALWAYS], ids=["plain", "infilling"])
def test_no_token_is_lost_at_the_edges_of_windows(small_tokenizer: Tokenizer, fim: Fim, queue: int):
    """For all sequences of three documents that end before, at or after the edge of a window, or span windows."""
    length = 16
    encode = encoder(small_tokenizer, fim)
    edges = [4, length - 1, length, length + 1, 2 * length - 1, 2 * length, 3 * length, 3 * length + 1, 5 * length]
    documents = {tokens: document_of(small_tokenizer, tokens) for tokens in edges}
    for lengths in itertools.product(edges, repeat=3):
        files = [[documents[lengths[0]], documents[lengths[1]]], [documents[lengths[2]]]]
        windows = windows_of(packer(files, encode, length, queue))
        started = started_in(windows)
        assert sorted(packed.document.path for packed in started) == sorted(f"{tokens} tokens" for tokens in lengths)
        forms = [packed.tokens for packed in started]
        assert concatenated(windows, "tokens").tolist() == np.concatenate(forms).tolist(), lengths
        assert len(windows) == -(-sum(map(len, forms)) // length)
        if not queue:
            assert [packed.kind for packed in started] == [kind for kind, _ in expected_forms(files, encode, length)]


@sizes
def test_every_window_but_the_last_is_full(small_tokenizer: Tokenizer, files: Files, length: int, queue: int):
    windows = windows_of(packer(files, encoder(small_tokenizer), length, queue))
    for window in windows:
        assert set(window.arrays) == set(FEATURES) - {"stream_ids"}
        for name, values in window.arrays.items():
            assert values.shape == (length,) and values.dtype == FEATURES[name]
    assert all((window.arrays["segment_ids"] > 0).all() for window in windows[:-1])
    padding = windows[-1].arrays["segment_ids"] == 0
    filled = int((~padding).sum())
    assert filled > 0 and not padding[:filled].any()  # padding is at the end
    for name, values in windows[-1].arrays.items():
        assert not values[filled:].any(), name


@pytest.mark.parametrize("queue", [0, 4])
def test_the_last_window_is_padded_and_none_follows(small_tokenizer: Tokenizer, queue: int):
    for tokens, full, rest in ((40, 2, 8), (32, 2, 0), (16, 1, 0), (4, 0, 4)):
        windows = packer([[document_of(small_tokenizer, tokens)]], encoder(small_tokenizer, NEVER), 16, queue)
        full_and_padded = [windows.next_window() for _ in range(full + (rest > 0))]
        assert [int((window.arrays["segment_ids"] > 0).sum()) for window in full_and_padded] == [16] * full + [rest] * (
            rest > 0
        )
        assert windows.next_window() is None and windows.next_window() is None


@pytest.mark.parametrize("queue", [0, 4])
def test_files_without_documents_are_skipped(small_tokenizer: Tokenizer, queue: int):
    encode = encoder(small_tokenizer, NEVER)
    assert packer([], encode, 16, queue).next_window() is None
    assert packer([[], []], encode, 16, queue).next_window() is None
    one, two = document_of(small_tokenizer, 20), document_of(small_tokenizer, 9)
    sparse = windows_of(packer([[], [one], [], [], [two], []], encode, 16, queue))
    dense = windows_of(packer([[one], [two]], encode, 16, queue))
    assert len(sparse) == len(dense) and all(map(same_window, sparse, dense))


# --- arrays -----------------------------------------------------------------------------------------------------------


@sizes
def test_targets_are_the_next_tokens_of_the_same_document(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int
):
    """This holds across windows too. Weights belong to the target. The last token of a document has weight 0."""
    encode = encoder(small_tokenizer)
    windows = windows_of(packer(files, encode, length, queue))
    started = started_in(windows)
    targets = [token for packed in started for token in [*packed.tokens[1:].tolist(), 0]]
    weights = [weight for packed in started for weight in [*weights_of(packed, encode)[1:], 0.0]]
    assert concatenated(windows, "targets").tolist() == targets
    assert concatenated(windows, "loss_weights").tolist() == weights


@pytest.mark.parametrize("length", LENGTHS)
def test_only_the_last_token_of_a_document_has_no_loss(small_tokenizer: Tokenizer, fuzzed: Fuzz, length: int):
    """Infilling ids, EOT and EOS are targets like text."""
    files = fuzzed_files(fuzzed, 3)
    windows = windows_of(packer(files, encoder(small_tokenizer), length))
    tokens, weights = concatenated(windows, "tokens"), concatenated(windows, "loss_weights")
    assert np.array_equal(weights == 0, tokens == small_tokenizer.eos_id)
    assert set(weights.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("restart", [False, True], ids=["over the window", "in each document"])
@sizes
def test_segments_count_documents_and_positions_count_tokens(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int, restart: bool
):
    """Segments count the documents of a window from 1. Positions count in the window, or from 0 in each segment."""
    windows = windows_of(packer(files, encoder(small_tokenizer), length, queue, restart))
    documents = [index for index, packed in enumerate(started_in(windows)) for _ in packed.tokens]
    for begin, window in zip(range(0, len(documents), length), windows, strict=True):
        indices = documents[begin : begin + length]
        assert window.arrays["segment_ids"][: len(indices)].tolist() == [index - indices[0] + 1 for index in indices]
        positions = window.arrays["positions"][: len(indices)].tolist()
        if restart:
            assert positions == [position - indices.index(index) for position, index in enumerate(indices)]
        else:
            assert positions == list(range(len(indices)))


@pytest.mark.parametrize("queue", [0, 4])
def test_restarting_positions_changes_only_positions(small_tokenizer: Tokenizer, files: Files, queue: int):
    """So masking can be enabled or disabled without changing the order of documents."""
    for one, other in zip(
        *(windows_of(packer(files, encoder(small_tokenizer), 64, queue, restart)) for restart in (False, True)),
        strict=True,
    ):
        one.arrays["positions"] = other.arrays["positions"]
        assert same_window(one, other)
