"""Packing: windows are full, nothing is lost, and every array says what it should about the documents' forms."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codellama_jax.tokenizer import Tokenizer
from tasks.config import Chat, Fim
from tasks.fim import encode_cut
from tasks.packing import FEATURES, Encoder, Packer, Position, Window
from tasks.sources import Dialogue, Document

LENGTHS = [1, 2, 3, 7, 16, 64, 257]
USUAL, ALWAYS, NEVER = Fim(), Fim(rate=1.0), Fim(rate=0.0)
Fuzz = Callable[[np.random.Generator, int], str]
Files = Sequence[Sequence[Document | Dialogue]]


def encoder(tokenizer: Tokenizer, fim: Fim = USUAL) -> Encoder:
    return Encoder(tokenizer, fim, Chat(), seed=(0, 7))


def packer(
    files: Files, encoder: Encoder, length: int, restart: bool = False, position: Position | None = None
) -> Packer:
    return Packer(
        lambda file: files[file] if file < len(files) else None,
        lambda file, document: (file, document),
        encoder,
        length,
        restart,
        position,
    )


def all_windows(packer: Packer) -> list[Window]:
    windows = list(itertools.islice(iter(packer.next_window, None), 50_000))
    assert len(windows) < 50_000, "it does not end"
    return windows


def joined(windows: list[Window], name: str) -> np.ndarray:
    """A feature of all windows, one after another, without padding."""
    values = np.concatenate([window.arrays[name] for window in windows])
    return values[np.concatenate([window.arrays["segment_ids"] for window in windows]) > 0]


def same(one: Window | None, other: Window | None) -> bool:
    if one is None or other is None:
        return one is other
    begun = [
        (packed.document, packed.kind, packed.cut, packed.tokens.tolist()) for w in (one, other) for packed in w.begun
    ]
    return (
        all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)
        and one.infilling_tokens == other.infilling_tokens
        and begun[: len(one.begun)] == begun[len(one.begun) :]
    )


def fuzzed_files(
    fuzzed: Fuzz, seed: int, longest: int = 300, dialogues: bool = False
) -> list[list[Document | Dialogue]]:
    """Files of no, one or more documents; many are shorter than a window of 64 tokens, some longer than several."""
    rng = np.random.default_rng(seed)
    files: list[list[Document | Dialogue]] = []
    for number in range(60):
        file: list[Document | Dialogue] = []
        for _ in range(rng.integers(0, 4)):
            if dialogues and rng.random() < 0.5:
                question, answer = (
                    fuzzed(rng, int(rng.integers(5, 60))).replace("[", "").replace("<", "") for _ in "ab"
                )
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.append(Dialogue(messages * int(rng.integers(1, 3)), f"{number}"))
            else:
                characters = int(longest ** rng.random()) - 1 if rng.random() < 0.9 else 4 * longest
                file.append(Document(fuzzed(rng, characters), f"{number}"))
        files.append(file)
    return files


def of_tokens(tokenizer: Tokenizer, tokens: int) -> Document:
    """A document of exactly so many tokens with BOS and EOS: a digit is a token, and the first brings a space."""
    document = Document("".join(str(i % 10) for i in range(tokens - 3)), f"{tokens} tokens")
    assert len(tokenizer.encode(document.text)) + 2 == tokens
    return document


def expected_forms(files: Files, encoder: Encoder, length: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, ids and weights of each document, by the rule of RECIPE section 3: infilling for those that are not cut."""
    forms = []
    filled = 0
    for file, documents in enumerate(files):
        for number, document in enumerate(documents):
            ids, weights = encoder.plain(document)
            room = length - filled % length
            cut = encoder.cut(document, (file, number))
            kind = "plain" if len(ids) <= room else "cut"
            if cut is not None and kind == "plain":
                infilled = encode_cut(encoder.tokenizer, document.text, cut)
                if len(infilled) <= room:
                    kind, ids = cut.order, infilled
            forms.append((kind, ids, np.ones(len(ids), np.float32) if weights is None else weights))
            filled += len(ids)
    return forms


@pytest.fixture(params=[(1, False), (2, True)], ids=["documents", "dialogues"])
def files(request: pytest.FixtureRequest, fuzzed: Fuzz) -> Files:
    return fuzzed_files(fuzzed, request.param[0], dialogues=request.param[1])


# --- nothing is lost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fim", [USUAL, NEVER, ALWAYS], ids=lambda fim: f"rate {fim.rate}")
@pytest.mark.parametrize("length", LENGTHS)
def test_windows_joined_are_the_documents_forms_in_order(
    small_tokenizer: Tokenizer, files: Files, length: int, fim: Fim
):
    encode = encoder(small_tokenizer, fim)
    windows = all_windows(packer(files, encode, length))
    forms = expected_forms(files, encode, length)
    assert joined(windows, "tokens").tolist() == [token for _, ids, _ in forms for token in ids.tolist()]
    begun = [packed for window in windows for packed in window.begun]
    assert [packed.kind for packed in begun] == [kind for kind, _, _ in forms]
    assert [packed.document for packed in begun] == [document for file in files for document in file]
    assert all(np.array_equal(packed.tokens, ids) for packed, (_, ids, _) in zip(begun, forms, strict=True))


@pytest.mark.parametrize("fim", [NEVER, ALWAYS], ids=["plain", "infilling"])
def test_nothing_is_lost_at_the_edges_of_windows(small_tokenizer: Tokenizer, fim: Fim):
    """Every sequence of three documents that end just before, at or just after a window's edge, or span windows."""
    length = 16
    encode = encoder(small_tokenizer, fim)
    edges = [4, length - 1, length, length + 1, 2 * length - 1, 2 * length, 3 * length, 3 * length + 1, 5 * length]
    documents = {tokens: of_tokens(small_tokenizer, tokens) for tokens in edges}
    for lengths in itertools.product(edges, repeat=3):
        files = [[documents[lengths[0]], documents[lengths[1]]], [documents[lengths[2]]]]
        windows = all_windows(packer(files, encode, length))
        forms = [ids for _, ids, _ in expected_forms(files, encode, length)]
        assert joined(windows, "tokens").tolist() == np.concatenate(forms).tolist(), lengths
        assert len(windows) == -(-sum(map(len, forms)) // length)


@pytest.mark.parametrize("length", LENGTHS)
def test_every_window_but_the_last_is_full(small_tokenizer: Tokenizer, files: Files, length: int):
    windows = all_windows(packer(files, encoder(small_tokenizer), length))
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


def test_the_end_pads_a_window_and_then_is_none(small_tokenizer: Tokenizer):
    for tokens, full, rest in ((40, 2, 8), (32, 2, 0), (16, 1, 0), (4, 0, 4)):
        windows = packer([[of_tokens(small_tokenizer, tokens)]], encoder(small_tokenizer, NEVER), 16)
        given = [windows.next_window() for _ in range(full + (rest > 0))]
        assert [int((window.arrays["segment_ids"] > 0).sum()) for window in given] == [16] * full + [rest] * (rest > 0)
        assert windows.next_window() is None and windows.next_window() is None


def test_files_without_documents_are_passed_over(small_tokenizer: Tokenizer):
    encode = encoder(small_tokenizer, NEVER)
    assert packer([], encode, 16).next_window() is None
    assert packer([[], []], encode, 16).next_window() is None
    one, two = of_tokens(small_tokenizer, 20), of_tokens(small_tokenizer, 9)
    sparse = all_windows(packer([[], [one], [], [], [two], []], encode, 16))
    dense = all_windows(packer([[one], [two]], encode, 16))
    assert len(sparse) == len(dense) and all(map(same, sparse, dense))


# --- what the arrays say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
def test_targets_are_the_next_tokens_of_the_same_document(small_tokenizer: Tokenizer, files: Files, length: int):
    """Across the edges of windows too. Weights are those of the target; a document's last token has none."""
    encode = encoder(small_tokenizer)
    windows = all_windows(packer(files, encode, length))
    forms = expected_forms(files, encode, length)
    targets = [token for _, ids, _ in forms for token in [*ids[1:].tolist(), 0]]
    weights = [weight for _, _, form in forms for weight in [*form[1:].tolist(), 0.0]]
    assert joined(windows, "targets").tolist() == targets
    assert joined(windows, "loss_weights").tolist() == weights


@pytest.mark.parametrize("length", LENGTHS)
def test_loss_is_missing_at_the_last_token_of_each_document_only(small_tokenizer: Tokenizer, fuzzed: Fuzz, length: int):
    """Infilling sentinels, EOT and EOS are learnt like text (RECIPE section 3)."""
    files = fuzzed_files(fuzzed, 3)
    windows = all_windows(packer(files, encoder(small_tokenizer), length))
    tokens, weights = joined(windows, "tokens"), joined(windows, "loss_weights")
    assert np.array_equal(weights == 0, tokens == small_tokenizer.eos_id)
    assert set(weights.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("restart", [False, True], ids=["over the window", "in each document"])
@pytest.mark.parametrize("length", LENGTHS)
def test_segments_and_positions(small_tokenizer: Tokenizer, files: Files, length: int, restart: bool):
    """Segments count the documents of a window from 1; positions count over the window, or from 0 in each segment."""
    encode = encoder(small_tokenizer)
    windows = all_windows(packer(files, encode, length, restart))
    documents = [index for index, (_, ids, _) in enumerate(expected_forms(files, encode, length)) for _ in ids]
    for begin, window in zip(range(0, len(documents), length), windows, strict=True):
        here = documents[begin : begin + length]
        assert window.arrays["segment_ids"][: len(here)].tolist() == [index - here[0] + 1 for index in here]
        positions = window.arrays["positions"][: len(here)].tolist()
        if restart:
            assert positions == [place - here.index(index) for place, index in enumerate(here)]
        else:
            assert positions == list(range(len(here)))


def test_the_policy_of_positions_changes_nothing_else(small_tokenizer: Tokenizer, files: Files):
    """So masking can be switched without another stream."""
    for one, other in zip(
        *(all_windows(packer(files, encoder(small_tokenizer), 64, restart)) for restart in (False, True)), strict=True
    ):
        one.arrays["positions"] = other.arrays["positions"]
        assert same(one, other)


# --- infilling --------------------------------------------------------------------------------------------------------


def test_only_documents_that_are_not_cut_are_transformed(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    """Each infilling form lies whole in the window where it begins; what crosses an edge is plain."""
    length = 64
    files = fuzzed_files(fuzzed, 4)
    windows = all_windows(packer(files, encoder(small_tokenizer, ALWAYS), length))
    kinds = set()
    for window in windows:
        places = np.flatnonzero(window.arrays["tokens"] == small_tokenizer.bos_id)
        for packed, place in zip(window.begun, places, strict=True):
            kinds.add(packed.kind)
            sentinels = int((packed.tokens >= small_tokenizer.pieces).sum())
            assert sentinels == (4 if packed.kind in ("psm", "spm") else 0)
            assert (packed.cut is not None) == (packed.kind in ("psm", "spm"))
            assert (place + len(packed.tokens) > length) == (packed.kind == "cut")
    assert kinds == {"psm", "spm", "cut", "plain"}


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_a_document_is_transformed_only_if_both_its_forms_fit(small_tokenizer: Tokenizer, order: str):
    fim = Fim(rate=1.0, psm_share=float(order == "psm"))
    encode = encoder(small_tokenizer, fim)
    document = Document('def f(a):\n    """What it does."""\n    return a\n', "a")
    plain, _ = encode.plain(document)
    cut = encode.cut(document, (0, 0))
    assert cut is not None
    infilled = encode.infilled(document, cut)
    assert len(plain) < len(infilled)
    for length in range(len(plain) - 2, len(infilled) + 3):
        (begun, *others) = [p for window in all_windows(packer([[document]], encode, length)) for p in window.begun]
        assert not others
        if length < len(plain):
            assert (begun.kind, begun.cut) == ("cut", None)
        elif length < len(infilled):
            assert (begun.kind, begun.cut) == ("plain", None)
        else:
            assert (begun.kind, begun.cut) == (order, cut)
        assert np.array_equal(begun.tokens, infilled if length >= len(infilled) else plain)


def test_room_counts_from_where_the_document_begins(small_tokenizer: Tokenizer):
    """A document that would fit an empty window is cut, and so plain, where the window is partly full."""
    encode = encoder(small_tokenizer, ALWAYS)
    document = Document("0123456789", "a")
    plain, _ = encode.plain(document)
    (_, _, _), (kind, ids, _) = expected_forms([[of_tokens(small_tokenizer, 20)], [document]], encode, 64)
    assert kind in ("psm", "spm")
    for before in range(20, 64):
        files = [[of_tokens(small_tokenizer, before)], [document]]
        windows = all_windows(packer(files, encoder(small_tokenizer, ALWAYS), 64))
        begun = [packed for window in windows for packed in window.begun]
        room = 64 - len(begun[0].tokens) % 64
        assert begun[1].kind == (kind if len(ids) <= room else "plain" if room >= len(plain) else "cut")


def test_tokens_in_infilling_forms_are_counted(small_tokenizer: Tokenizer, files: Files):
    for window in all_windows(packer(files, encoder(small_tokenizer), 64)):
        infilled = sum(len(packed.tokens) for packed in window.begun if packed.kind in ("psm", "spm"))
        assert window.infilling_tokens == infilled


def test_a_dialogues_weights_are_those_of_its_answers(small_tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    for length in (8, 64):  # in parts and whole
        windows = all_windows(packer([[Dialogue(messages, "a")]], encoder(small_tokenizer), length))
        learnt = joined(windows, "targets")[joined(windows, "loss_weights") == 1]
        assert learnt.tolist() == [*small_tokenizer.encode_continuation(" an answer "), small_tokenizer.eos_id]


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [2, 7, 64, 257])
def test_resumed_after_any_window_it_goes_on_as_if_nothing_had_been(
    small_tokenizer: Tokenizer, files: Files, length: int
):
    encode = encoder(small_tokenizer)
    original = packer(files, encode, length, restart=True)
    windows, positions = [], [original.position]
    while (window := original.next_window()) is not None:
        windows.append(window)
        positions.append(original.position)
    assert len(windows) > 5
    for begin, position in list(enumerate(positions))[:: max(1, len(positions) // 40)]:
        saved = Position(*json.loads(json.dumps(dataclasses.astuple(position))))
        resumed = packer(files, encoder(small_tokenizer), length, restart=True, position=saved)
        for index in range(begin, min(begin + 4, len(windows))):
            assert same(resumed.next_window(), windows[index]), (begin, index)
            assert resumed.position == positions[index + 1]
        if begin + 4 > len(windows):
            assert resumed.next_window() is None


def test_resuming_reads_no_file_that_was_used_up(small_tokenizer: Tokenizer, files: Files):
    original = packer(files, encoder(small_tokenizer), 64)
    for _ in range(40):
        original.next_window()
    reads: list[int] = []

    def read(file: int) -> Sequence[Document | Dialogue] | None:
        reads.append(file)
        return files[file] if file < len(files) else None

    resumed = Packer(read, lambda *key: key, encoder(small_tokenizer), 64, False, original.position)
    assert len(all_windows(resumed)) > 1
    assert original.position.file > 3
    assert reads == [*range(original.position.file, len(files) + 1)]  # each once, and the end
