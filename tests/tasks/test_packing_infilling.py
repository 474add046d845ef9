"""Packing: the forms of documents and the tokens of each kind."""

import numpy as np
import pytest
from packing_cases import (
    ALWAYS,
    QUEUES,
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
    short_files,
    started_in,
    windows_of,
)

from codellama_jax.config.data import Fim
from codellama_jax.tokenizer import Tokenizer
from tasks import packing
from tasks.sources.base import Dialogue, Document


@pytest.mark.parametrize("queue", QUEUES)
def test_only_documents_that_are_not_cut_are_transformed(small_tokenizer: Tokenizer, fuzzed: Fuzz, queue: int):
    """An infilling form is completely in one window. A document that crosses the edge of a window is plain."""
    length = 64
    files = fuzzed_files(fuzzed, 4)
    windows = windows_of(packer(files, encoder(small_tokenizer, ALWAYS), length, queue))
    kinds = set()
    for window in windows:
        starts = np.flatnonzero(window.arrays["tokens"] == small_tokenizer.bos_id)
        for packed, start in zip(window.started, starts, strict=True):
            kinds.add(packed.kind)
            sentinels = int((packed.tokens >= small_tokenizer.pieces).sum())
            assert sentinels == (4 if packed.kind in ("psm", "spm") else 0)
            assert (packed.split is not None) == (packed.kind in ("psm", "spm"))
            assert (start + len(packed.tokens) > length) == (packed.kind == "cut")
    assert {"psm", "spm", "cut"} <= kinds <= {"psm", "spm", "cut", "plain"}


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("order", ["psm", "spm"])
def test_a_document_is_transformed_if_its_infilling_form_fits(small_tokenizer: Tokenizer, order: str, queue: int):
    """Otherwise it is plain if the plain form fits, and cut if not."""
    fim = Fim(rate=1.0, psm_share=float(order == "psm"))
    encode = encoder(small_tokenizer, fim)
    document = Document('def f(a):\n    """What it does."""\n    return a\n', "a")
    plain, _ = encode.plain(document)
    split = encode.draw_split(document, (0, 0, 0))
    assert split is not None
    infilled = encode.infilling(document, split)
    assert len(plain) < len(infilled)
    for length in range(len(plain) - 2, len(infilled) + 3):
        (started,) = started_in(windows_of(packer([[document]], encode, length, queue)))
        if length < len(plain):
            assert (started.kind, started.split) == ("cut", None)
        elif length < len(infilled):
            assert (started.kind, started.split) == ("plain", None)
        else:
            assert (started.kind, started.split) == (order, split)
        assert np.array_equal(started.tokens, infilled if length >= len(infilled) else plain)


def test_the_form_depends_on_the_rest_of_the_window(small_tokenizer: Tokenizer):
    """A document that fits an empty window is cut, and therefore plain, if the rest of the window is too short."""
    encode = encoder(small_tokenizer, ALWAYS)
    document = Document("0123456789", "a")
    plain, _ = encode.plain(document)
    _, (kind, ids) = expected_forms([[document_of(small_tokenizer, 20)], [document]], encode, 64)
    assert kind in ("psm", "spm")
    for before in range(20, 64):
        files = [[document_of(small_tokenizer, before)], [document]]
        first, second = started_in(windows_of(packer(files, encoder(small_tokenizer, ALWAYS), 64)))
        room = 64 - len(first.tokens) % 64
        assert second.kind == (kind if len(ids) <= room else "plain" if room >= len(plain) else "cut")


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("characters", [0.0, 1e9], ids=["plain first", "infilling first"])
def test_windows_do_not_depend_on_the_order_of_encoding(
    small_tokenizer: Tokenizer, files: Files, characters: float, queue: int, monkeypatch: pytest.MonkeyPatch
):
    usual = windows_of(packer(files, encoder(small_tokenizer), 64, queue))
    monkeypatch.setattr(packing, "CHARACTERS_PER_TOKEN", characters)
    windows = windows_of(packer(files, encoder(small_tokenizer), 64, queue))
    assert len(windows) == len(usual) and all(map(same_window, windows, usual))


@pytest.mark.parametrize("queue", QUEUES)
def test_tokens_are_counted_by_the_kind_of_their_document(small_tokenizer: Tokenizer, files: Files, queue: int):
    """Including the remaining tokens of a document that was cut."""
    rest = 0
    for window in windows_of(packer(files, encoder(small_tokenizer), 64, queue)):
        counts = {
            kind: sum(len(p.tokens) for p in window.started if p.kind == kind) for kind in ("plain", "psm", "spm")
        }
        filled = int((window.arrays["segment_ids"] > 0).sum())
        counts["cut"] = filled - sum(counts.values())
        assert +window.tokens == {kind: count for kind, count in counts.items() if count}
        rest += sum(len(packed.tokens) for packed in window.started if packed.kind == "cut") - counts["cut"]
    assert rest == 0


@pytest.mark.parametrize("queue", [0, 16])
def test_documents_that_are_not_cut_are_transformed_at_the_rate(small_tokenizer: Tokenizer, queue: int):
    """To within three standard deviations over 20,000 documents: a queue must not prefer a form."""
    number = 20_000
    windows = windows_of(packer(short_files(number, 6), encoder(small_tokenizer), 4096, queue))
    kinds = [packed.kind for packed in started_in(windows) if packed.kind != "cut"]
    infilled = sum(kind != "plain" for kind in kinds)
    assert len(kinds) > 0.99 * number
    assert abs(infilled - USUAL.rate * len(kinds)) < 3 * np.sqrt(len(kinds) * USUAL.rate * (1 - USUAL.rate))


def test_only_the_answers_of_a_dialogue_have_a_loss(small_tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    for length in (8, 64):  # in several windows, and in one
        windows = windows_of(packer([[Dialogue(messages, "a")]], encoder(small_tokenizer), length))
        learned = concatenated(windows, "targets")[concatenated(windows, "loss_weights") == 1]
        assert learned.tolist() == [*small_tokenizer.encode_continuation(" an answer "), small_tokenizer.eos_id]
