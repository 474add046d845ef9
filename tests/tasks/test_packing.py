"""Packing: windows are full, nothing is lost, and every array says what it should about the documents' forms."""

import itertools
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codellama_jax.config.data import Chat, Fim
from codellama_jax.tokenizer import Tokenizer
from tasks import packing
from tasks.fim import encode_cut
from tasks.packing import FEATURES, Cursor, Encoder, Packed, Packer, PackerState, Window
from tasks.sources.base import Dialogue, Document

LENGTHS = [1, 2, 3, 7, 16, 64, 257]
QUEUES = [0, 1, 4, 16]
# Of a window and a queue: most documents fit 64 tokens, few fit 16, and nothing fits one.
SIZES = [(1, 0), (7, 0), (64, 0), (257, 0), (2, 4), (16, 1), (16, 16), (64, 1), (64, 4), (64, 16)]
USUAL, ALWAYS, NEVER = Fim(), Fim(rate=1.0), Fim(rate=0.0)
Fuzz = Callable[[np.random.Generator, int], str]
Files = Sequence[Sequence[Document | Dialogue]]

sizes = pytest.mark.parametrize("length, queue", SIZES)


class Listed:
    """Documents that a list of files holds, and the places that were asked for, in order."""

    def __init__(self, files: Files):
        self._files = files
        self.asked: list[Cursor] = []

    def find(self, place: Cursor) -> tuple[Cursor, Document | Dialogue] | None:
        self.asked.append(place)
        piece, _, document = place
        while piece < len(self._files):
            if document < len(self._files[piece]):
                return (piece, 0, document), self._files[piece][document]
            piece, document = piece + 1, 0
        return None

    def key(self, place: Cursor) -> tuple[int, ...]:
        return place


def encoder(tokenizer: Tokenizer, fim: Fim = USUAL) -> Encoder:
    return Encoder(tokenizer, fim, Chat(), seed=(0, 7))


def packer(
    files: Files,
    encoder: Encoder,
    length: int,
    queue: int = 0,
    restart: bool = False,
    position: PackerState | None = None,
) -> Packer:
    return Packer(Listed(files), encoder, length, restart, queue, position)


def all_windows(packer: Packer) -> list[Window]:
    windows = list(itertools.islice(iter(packer.next_window, None), 50_000))
    assert len(windows) < 50_000, "it does not end"
    return windows


def begun_in(windows: list[Window]) -> list[Packed]:
    return [packed for window in windows for packed in window.begun]


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
        and one.tokens == other.tokens
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
        for index in range(rng.integers(0, 4)):
            where = f"{number}/{index}"
            if dialogues and rng.random() < 0.5:
                question, answer = (
                    fuzzed(rng, int(rng.integers(5, 60))).replace("[", "").replace("<", "") for _ in "ab"
                )
                messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
                file.append(Dialogue(messages * int(rng.integers(1, 3)), where))
            else:
                characters = int(longest ** rng.random()) - 1 if rng.random() < 0.9 else 4 * longest
                file.append(Document(fuzzed(rng, characters), where))
        files.append(file)
    return files


def short_files(number: int, seed: int) -> list[list[Document | Dialogue]]:
    """Documents of 3 to 52 tokens whatever the tokenizer's merges are: a digit is a token."""
    digits = np.random.default_rng(seed).integers(0, 50, number)
    return [[Document("7" * int(count), str(index))] for index, count in enumerate(digits)]


def of_tokens(tokenizer: Tokenizer, tokens: int) -> Document:
    """A document of exactly so many tokens with BOS and EOS: a digit is a token, and the first brings a space."""
    document = Document("".join(str(i % 10) for i in range(tokens - 3)), f"{tokens} tokens")
    assert len(tokenizer.encode(document.text)) + 2 == tokens
    return document


def expected_forms(files: Files, encoder: Encoder, length: int) -> list[tuple[str, np.ndarray]]:
    """Kind and ids of each document without a queue, by the rule of RECIPE section 3: infilling if that form fits."""
    forms = []
    filled = 0
    for file, documents in enumerate(files):
        for number, document in enumerate(documents):
            ids, _ = encoder.plain(document)
            room = length - filled % length
            cut = encoder.cut(document, (file, 0, number))
            kind = "plain" if len(ids) <= room else "cut"
            if cut is not None:
                infilled = encode_cut(encoder.tokenizer, document.text, cut)
                if len(infilled) <= room:
                    kind, ids = cut.order, infilled
            forms.append((kind, ids))
            filled += len(ids)
    return forms


def weights_of(packed: Packed, encoder: Encoder) -> list[float]:
    """Of a document's tokens as targets."""
    _, weights = encoder.plain(packed.document)
    return [1.0] * len(packed.tokens) if weights is None else weights.tolist()


@pytest.fixture(params=[(1, False), (2, True)], ids=["documents", "dialogues"])
def files(request: pytest.FixtureRequest, fuzzed: Fuzz) -> Files:
    return fuzzed_files(fuzzed, request.param[0], dialogues=request.param[1])


# --- nothing is lost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fim", [USUAL, NEVER, ALWAYS], ids=lambda fim: f"rate {fim.rate}")
@pytest.mark.parametrize("length", LENGTHS)
def test_without_a_queue_windows_joined_are_the_documents_forms_in_order(
    small_tokenizer: Tokenizer, files: Files, length: int, fim: Fim
):
    encode = encoder(small_tokenizer, fim)
    windows = all_windows(packer(files, encode, length))
    forms = expected_forms(files, encode, length)
    assert joined(windows, "tokens").tolist() == [token for _, ids in forms for token in ids.tolist()]
    begun = begun_in(windows)
    assert [packed.kind for packed in begun] == [kind for kind, _ in forms]
    assert [packed.document for packed in begun] == [document for file in files for document in file]
    assert all(np.array_equal(packed.tokens, ids) for packed, (_, ids) in zip(begun, forms, strict=True))


@pytest.mark.parametrize("fim", [USUAL, NEVER, ALWAYS], ids=lambda fim: f"rate {fim.rate}")
@sizes
def test_every_document_is_there_once_and_whole(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int, fim: Fim
):
    """In its form; and contiguous, over the edges of windows too: what was cut goes on where the next window begins."""
    encode = encoder(small_tokenizer, fim)
    windows = all_windows(packer(files, encode, length, queue))
    keys = {document.path: (file, 0, i) for file, documents in enumerate(files) for i, document in enumerate(documents)}
    begun = begun_in(windows)
    assert sorted(packed.document.path for packed in begun) == sorted(keys)
    for packed in begun:
        if packed.kind in ("psm", "spm"):
            assert packed.cut == encode.cut(packed.document, keys[packed.document.path])
            assert packed.cut is not None and packed.cut.order == packed.kind
            assert np.array_equal(packed.tokens, encode_cut(small_tokenizer, packed.document.text, packed.cut))
        else:
            assert packed.cut is None and np.array_equal(packed.tokens, encode.plain(packed.document)[0])
    rest: list[int] = []
    for window in windows:
        ids, segments = window.arrays["tokens"], window.arrays["segment_ids"]
        forms = [rest] * bool(rest) + [packed.tokens.tolist() for packed in window.begun]
        assert segments.max() == len(forms)
        for number, form in enumerate(forms, 1):
            here = ids[segments == number].tolist()
            assert here == form[: len(here)]
            rest = form[len(here) :]
            assert not rest or number == len(forms)
    assert not rest


@pytest.mark.parametrize("queue", [0, 1, 3])
@pytest.mark.parametrize("fim", [NEVER, ALWAYS], ids=["plain", "infilling"])
def test_nothing_is_lost_at_the_edges_of_windows(small_tokenizer: Tokenizer, fim: Fim, queue: int):
    """Every sequence of three documents that end just before, at or just after a window's edge, or span windows."""
    length = 16
    encode = encoder(small_tokenizer, fim)
    edges = [4, length - 1, length, length + 1, 2 * length - 1, 2 * length, 3 * length, 3 * length + 1, 5 * length]
    documents = {tokens: of_tokens(small_tokenizer, tokens) for tokens in edges}
    for lengths in itertools.product(edges, repeat=3):
        files = [[documents[lengths[0]], documents[lengths[1]]], [documents[lengths[2]]]]
        windows = all_windows(packer(files, encode, length, queue))
        begun = begun_in(windows)
        assert sorted(packed.document.path for packed in begun) == sorted(f"{tokens} tokens" for tokens in lengths)
        forms = [packed.tokens for packed in begun]
        assert joined(windows, "tokens").tolist() == np.concatenate(forms).tolist(), lengths
        assert len(windows) == -(-sum(map(len, forms)) // length)
        if not queue:
            assert [packed.kind for packed in begun] == [kind for kind, _ in expected_forms(files, encode, length)]


@sizes
def test_every_window_but_the_last_is_full(small_tokenizer: Tokenizer, files: Files, length: int, queue: int):
    windows = all_windows(packer(files, encoder(small_tokenizer), length, queue))
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
def test_the_end_pads_a_window_and_then_is_none(small_tokenizer: Tokenizer, queue: int):
    for tokens, full, rest in ((40, 2, 8), (32, 2, 0), (16, 1, 0), (4, 0, 4)):
        windows = packer([[of_tokens(small_tokenizer, tokens)]], encoder(small_tokenizer, NEVER), 16, queue)
        given = [windows.next_window() for _ in range(full + (rest > 0))]
        assert [int((window.arrays["segment_ids"] > 0).sum()) for window in given] == [16] * full + [rest] * (rest > 0)
        assert windows.next_window() is None and windows.next_window() is None


@pytest.mark.parametrize("queue", [0, 4])
def test_files_without_documents_are_passed_over(small_tokenizer: Tokenizer, queue: int):
    encode = encoder(small_tokenizer, NEVER)
    assert packer([], encode, 16, queue).next_window() is None
    assert packer([[], []], encode, 16, queue).next_window() is None
    one, two = of_tokens(small_tokenizer, 20), of_tokens(small_tokenizer, 9)
    sparse = all_windows(packer([[], [one], [], [], [two], []], encode, 16, queue))
    dense = all_windows(packer([[one], [two]], encode, 16, queue))
    assert len(sparse) == len(dense) and all(map(same, sparse, dense))


# --- what the arrays say ----------------------------------------------------------------------------------------------


@sizes
def test_targets_are_the_next_tokens_of_the_same_document(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int
):
    """Across the edges of windows too. Weights are those of the target; a document's last token has none."""
    encode = encoder(small_tokenizer)
    windows = all_windows(packer(files, encode, length, queue))
    begun = begun_in(windows)
    targets = [token for packed in begun for token in [*packed.tokens[1:].tolist(), 0]]
    weights = [weight for packed in begun for weight in [*weights_of(packed, encode)[1:], 0.0]]
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
@sizes
def test_segments_and_positions(small_tokenizer: Tokenizer, files: Files, length: int, queue: int, restart: bool):
    """Segments count the documents of a window from 1; positions count over the window, or from 0 in each segment."""
    windows = all_windows(packer(files, encoder(small_tokenizer), length, queue, restart))
    documents = [index for index, packed in enumerate(begun_in(windows)) for _ in packed.tokens]
    for begin, window in zip(range(0, len(documents), length), windows, strict=True):
        here = documents[begin : begin + length]
        assert window.arrays["segment_ids"][: len(here)].tolist() == [index - here[0] + 1 for index in here]
        positions = window.arrays["positions"][: len(here)].tolist()
        if restart:
            assert positions == [place - here.index(index) for place, index in enumerate(here)]
        else:
            assert positions == list(range(len(here)))


@pytest.mark.parametrize("queue", [0, 4])
def test_the_policy_of_positions_changes_nothing_else(small_tokenizer: Tokenizer, files: Files, queue: int):
    """So masking can be switched without another stream."""
    for one, other in zip(
        *(all_windows(packer(files, encoder(small_tokenizer), 64, queue, restart)) for restart in (False, True)),
        strict=True,
    ):
        one.arrays["positions"] = other.arrays["positions"]
        assert same(one, other)


# --- infilling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES)
def test_only_documents_that_are_not_cut_are_transformed(small_tokenizer: Tokenizer, fuzzed: Fuzz, queue: int):
    """Each infilling form lies whole in the window where it begins; what crosses an edge is plain."""
    length = 64
    files = fuzzed_files(fuzzed, 4)
    windows = all_windows(packer(files, encoder(small_tokenizer, ALWAYS), length, queue))
    kinds = set()
    for window in windows:
        places = np.flatnonzero(window.arrays["tokens"] == small_tokenizer.bos_id)
        for packed, place in zip(window.begun, places, strict=True):
            kinds.add(packed.kind)
            sentinels = int((packed.tokens >= small_tokenizer.pieces).sum())
            assert sentinels == (4 if packed.kind in ("psm", "spm") else 0)
            assert (packed.cut is not None) == (packed.kind in ("psm", "spm"))
            assert (place + len(packed.tokens) > length) == (packed.kind == "cut")
    assert {"psm", "spm", "cut"} <= kinds <= {"psm", "spm", "cut", "plain"}


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("order", ["psm", "spm"])
def test_a_document_is_transformed_if_that_form_fits(small_tokenizer: Tokenizer, order: str, queue: int):
    """Else it is plain if that fits, and else it is cut."""
    fim = Fim(rate=1.0, psm_share=float(order == "psm"))
    encode = encoder(small_tokenizer, fim)
    document = Document('def f(a):\n    """What it does."""\n    return a\n', "a")
    plain, _ = encode.plain(document)
    cut = encode.cut(document, (0, 0, 0))
    assert cut is not None
    infilled = encode.infilled(document, cut)
    assert len(plain) < len(infilled)
    for length in range(len(plain) - 2, len(infilled) + 3):
        (begun,) = begun_in(all_windows(packer([[document]], encode, length, queue)))
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
    _, (kind, ids) = expected_forms([[of_tokens(small_tokenizer, 20)], [document]], encode, 64)
    assert kind in ("psm", "spm")
    for before in range(20, 64):
        files = [[of_tokens(small_tokenizer, before)], [document]]
        first, second = begun_in(all_windows(packer(files, encoder(small_tokenizer, ALWAYS), 64)))
        room = 64 - len(first.tokens) % 64
        assert second.kind == (kind if len(ids) <= room else "plain" if room >= len(plain) else "cut")


@pytest.mark.parametrize("queue", [0, 4])
@pytest.mark.parametrize("likely", [0.0, 1e9], ids=["plain first", "infilling first"])
def test_which_form_is_encoded_first_changes_nothing(
    small_tokenizer: Tokenizer, files: Files, likely: float, queue: int, monkeypatch: pytest.MonkeyPatch
):
    usual = all_windows(packer(files, encoder(small_tokenizer), 64, queue))
    monkeypatch.setattr(packing, "LIKELY", likely)
    windows = all_windows(packer(files, encoder(small_tokenizer), 64, queue))
    assert len(windows) == len(usual) and all(map(same, windows, usual))


@pytest.mark.parametrize("queue", QUEUES)
def test_tokens_are_counted_by_the_kind_of_their_document(small_tokenizer: Tokenizer, files: Files, queue: int):
    """Those of the rest of a document that was cut as well."""
    rest = 0
    for window in all_windows(packer(files, encoder(small_tokenizer), 64, queue)):
        counts = {kind: sum(len(p.tokens) for p in window.begun if p.kind == kind) for kind in ("plain", "psm", "spm")}
        filled = int((window.arrays["segment_ids"] > 0).sum())
        counts["cut"] = filled - sum(counts.values())
        assert +window.tokens == {kind: count for kind, count in counts.items() if count}
        rest += sum(len(packed.tokens) for packed in window.begun if packed.kind == "cut") - counts["cut"]
    assert rest == 0


@pytest.mark.parametrize("queue", [0, 16])
def test_whole_documents_are_transformed_at_the_rate(small_tokenizer: Tokenizer, queue: int):
    """Within three standard deviations over 20,000 documents: a queue must not choose by form."""
    number = 20_000
    windows = all_windows(packer(short_files(number, 6), encoder(small_tokenizer), 4096, queue))
    kinds = [packed.kind for packed in begun_in(windows) if packed.kind != "cut"]
    infilled = sum(kind != "plain" for kind in kinds)
    assert len(kinds) > 0.99 * number
    assert abs(infilled - USUAL.rate * len(kinds)) < 3 * np.sqrt(len(kinds) * USUAL.rate * (1 - USUAL.rate))


def test_a_dialogues_weights_are_those_of_its_answers(small_tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    for length in (8, 64):  # in parts and whole
        windows = all_windows(packer([[Dialogue(messages, "a")]], encoder(small_tokenizer), length))
        learnt = joined(windows, "targets")[joined(windows, "loss_weights") == 1]
        assert learnt.tolist() == [*small_tokenizer.encode_continuation(" an answer "), small_tokenizer.eos_id]


# --- the queue --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES)
def test_no_more_than_the_queue_is_held(small_tokenizer: Tokenizer, files: Files, queue: int):
    """And what is being cut, which comes first; the rest stands in the order of the source, before what comes next."""
    windows, held_most = packer(files, encoder(small_tokenizer), 64, queue), 0
    while windows.next_window() is not None:
        position = windows.position
        waiting = [place for place, used in position.held if not used]
        assert not any(used for _, used in position.held[1:])
        assert len(waiting) <= queue and len(position.held) <= len(waiting) + 1
        assert waiting == sorted(waiting) and all(place < position.next for place, _ in position.held)
        held_most = max(held_most, len(waiting))
    assert windows.position.held == () and held_most >= min(queue, 4) - 1


@pytest.mark.parametrize("queue", QUEUES)
def test_a_document_is_cut_only_where_none_fits(small_tokenizer: Tokenizer, fuzzed: Fuzz, queue: int):
    """None of those that wait, and no more may wait; and one that fits a window only where none is longer than one."""
    length = 64
    files = fuzzed_files(fuzzed, 8)
    encode, listed = encoder(small_tokenizer), Listed(files)
    windows = Packer(listed, encode, length, False, queue)
    end = 0

    def whole(place: Cursor) -> int:
        """Tokens of the form that a document would have in a window of its own."""
        piece, _, number = place
        document = files[piece][number]
        cut, (ids, _) = encode.cut(document, place), encode.plain(document)
        infilled = len(encode.infilled(document, cut)) if cut is not None else length + 1  # type: ignore[arg-type]
        return infilled if infilled <= length else len(ids)

    cuts = 0
    while (window := windows.next_window()) is not None:
        end = end or int(listed.find(windows.position.next) is None)
        if not window.begun or window.begun[-1].kind != "cut":
            continue
        cuts += 1
        room = int((window.arrays["segment_ids"] == window.arrays["segment_ids"].max()).sum())
        (place, _), *waiting = windows.position.held
        assert all(whole(other) > room for other, _ in waiting)
        if whole(place) <= length:
            assert all(whole(other) <= length for other, _ in waiting)
        assert end or len(waiting) >= queue - 1
    assert cuts > 5


def test_a_queue_cuts_fewer_of_the_documents_that_fit_a_window(small_tokenizer: Tokenizer):
    """Half as many where, as in code, some are longer than a window and can be cut instead."""
    length, number = 256, 2000
    digits = np.exp(np.random.default_rng(9).normal(np.log(length / 4), 1.4, number)).astype(int)
    files = [[Document("7" * int(count), str(index))] for index, count in enumerate(digits)]
    fitting = int((digits + 3 <= length).sum())
    cut, infilled = [], []
    for queue in QUEUES:
        begun = begun_in(all_windows(packer(files, encoder(small_tokenizer), length, queue)))
        kinds = [packed.kind for packed in begun if len(packed.document.text) + 3 <= length]  # type: ignore[union-attr]
        assert len(kinds) == fitting
        cut.append(kinds.count("cut") / fitting)
        infilled.append((kinds.count("psm") + kinds.count("spm")) / fitting)
    assert cut[0] > 0.25 and cut[2] < 0.75 * cut[0] and cut[3] < 0.62 * cut[0]
    assert cut == sorted(cut, reverse=True) and infilled == sorted(infilled)


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", QUEUES)
def test_a_position_is_a_row_of_integers(queue: int):
    rng = np.random.default_rng(queue)

    def place() -> Cursor:
        first, second, third = (int(10 ** rng.uniform(0, 15)) for _ in range(3))
        return first, second, third

    for _ in range(200):
        held = tuple((place(), 0) for _ in range(rng.integers(0, queue + 1)))
        cut = ((place(), int(rng.integers(1, 10**9))),) if rng.random() < 0.5 else ()
        position = PackerState(place(), cut + held)
        row = position.row(queue)
        assert (row.shape, row.dtype) == ((queue + 2, 4), np.int64)
        assert PackerState.of_row(row) == position
        assert PackerState.of_row(np.array(json.loads(json.dumps(row.tolist())), np.int64)) == position
    assert PackerState.of_row(PackerState().row(queue)) == PackerState()


@pytest.mark.parametrize(
    "length, queue", [(2, 0), (7, 0), (64, 0), (257, 0), (16, 1), (64, 1), (16, 4), (64, 4), (64, 16), (257, 16)]
)
def test_resumed_after_any_window_it_goes_on_as_if_nothing_had_been(
    small_tokenizer: Tokenizer, files: Files, length: int, queue: int
):
    encode = encoder(small_tokenizer)
    original = packer(files, encode, length, queue, restart=True)
    windows, positions = [], [original.position]
    while (window := original.next_window()) is not None:
        windows.append(window)
        positions.append(original.position)
    assert len(windows) > 5
    for begin, position in list(enumerate(positions))[:: max(1, len(positions) // 40)]:
        saved = PackerState.of_row(np.array(json.loads(json.dumps(position.row(queue).tolist())), np.int64))
        resumed = packer(files, encoder(small_tokenizer), length, queue, restart=True, position=saved)
        assert resumed.position == position
        for index in range(begin, min(begin + 4, len(windows))):
            assert same(resumed.next_window(), windows[index]), (begin, index)
            assert resumed.position == positions[index + 1]
        if begin + 4 > len(windows):
            assert resumed.next_window() is None


@pytest.mark.parametrize("queue", QUEUES)
def test_resuming_asks_for_what_is_held_and_for_what_comes_next(small_tokenizer: Tokenizer, files: Files, queue: int):
    """Not for what was used up, nor for anything twice; and for nothing before a window is."""
    original = packer(files, encoder(small_tokenizer), 64, queue)
    for _ in range(25):
        original.next_window()
    position = original.position
    assert position.next[0] > 1 and len(position.held) >= min(queue, 4) - 1  # it has got somewhere
    listed = Listed(files)
    resumed = Packer(listed, encoder(small_tokenizer), 64, False, queue, position)
    assert listed.asked == []
    assert len(all_windows(resumed)) > 1
    held, rest = listed.asked[: len(position.held)], listed.asked[len(position.held) :]
    assert held == [place for place, _ in position.held]
    assert rest[0] == position.next and rest == sorted(rest)
    found = [place for place in rest if listed.find(place) is not None]
    assert len(found) == len(set(found))
