"""Infilling: which documents are transformed, where they are cut, the ids of both orders, and that no text is lost."""

from collections.abc import Callable

import numpy as np
import pytest

from codellama_jax.config.data import Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.fim import Cut, Order, draw, encode_cut, encode_plain
from tasks.packing import Encoder
from tasks.sources.base import Dialogue, Document

ORDERS: tuple[Order, Order] = ("psm", "spm")
DRAWS = 20_000
FIM = Fim()
Fuzz = Callable[[np.random.Generator, int], str]

# The published prompt of a PSM infilling and its ids (transformers, tests of CodeLlama; RECIPE section 3).
PREFIX, SUFFIX = 'def remove_non_ascii(s: str) -> str:\n    """ ', "\n    return result\n"
PREFIX_IDS = [822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901, 13, 1678]
PREFIX_IDS += [9995, 29871]
SUFFIX_IDS = [13, 1678, 736, 1121, 13]
HELLO_IDS = [10994]  # "Hello" without the implicit space; with it, it is 15043


@pytest.fixture(params=["small", "llama"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.getfixturevalue(f"{request.param}_tokenizer")


def cases(fuzzed: Fuzz, seed: int, number: int = 300) -> list[tuple[str, Cut]]:
    """Texts of any kind with a cut for each, the corners of the range of cuts among them."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(number):
        text = fuzzed(rng, int(rng.integers(0, 200)))
        start, end = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
        drawn.append((text, Cut(ORDERS[rng.integers(2)], start, end)))
    corners = [("", 0, 0), ("x", 0, 0), ("x", 1, 1), ("x", 0, 1), (" x ", 1, 2), (" \n ", 0, 3), ("\r\n", 1, 1)]
    return drawn + [(text, Cut(order, start, end)) for text, start, end in corners for order in ORDERS]


def split(ids: np.ndarray, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """A, B and C of  BOS PRE A SUF B MID C EOT EOS , each sentinel being there once."""
    listed = ids.tolist()
    assert [listed.count(i) for i in range(tokenizer.pieces, tokenizer.rows)] == [0] * 7 + [1] * 4 + [0] * 5
    suffix, middle = listed.index(tokenizer.pieces + 8), listed.index(tokenizer.pieces + 9)
    assert listed[:2] == [1, tokenizer.pieces + 7] and listed[-2:] == [tokenizer.pieces + 10, 2]
    return listed[2:suffix], listed[suffix + 1 : middle], listed[middle + 1 : -2]


# --- the ids ----------------------------------------------------------------------------------------------------------


def test_psm_document_has_the_published_ids(llama_tokenizer: Tokenizer):
    text = PREFIX + "Hello" + SUFFIX
    ids = encode_cut(llama_tokenizer, text, Cut("psm", len(PREFIX), len(PREFIX) + 5))
    assert ids.dtype == np.int32
    prompt = [1, 32007, *PREFIX_IDS, 32008, *SUFFIX_IDS, 32009]
    assert ids.tolist() == [*prompt, *HELLO_IDS, 32010, 2]
    assert llama_tokenizer.infilling_prompt(PREFIX, SUFFIX).tolist() == prompt


def test_spm_document_has_the_published_ids(llama_tokenizer: Tokenizer):
    """The suffix first; after MID prefix and middle are one text, whose seam shows in the ids: " " + "Hello"."""
    text = PREFIX + "Hello" + SUFFIX
    ids = encode_cut(llama_tokenizer, text, Cut("spm", len(PREFIX), len(PREFIX) + 5))
    assert ids.tolist() == [1, 32007, 32008, *SUFFIX_IDS, 32009, *PREFIX_IDS[:-1], 15043, 32010, 2]


def test_psm_is_pre_prefix_suf_suffix_mid_middle_eot(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, cut in cases(fuzzed, 1):
        prefix, middle, suffix = cut.parts(text)
        parts = split(encode_cut(tokenizer, text, Cut("psm", cut.start, cut.end)), tokenizer)
        expected = (
            tokenizer.encode(prefix),
            tokenizer.encode_continuation(suffix),
            tokenizer.encode_continuation(middle),
        )
        assert parts == tuple(ids.tolist() for ids in expected), (text, cut)


def test_spm_is_pre_suf_suffix_mid_prefix_with_middle_eot(tokenizer: Tokenizer, fuzzed: Fuzz):
    """No token is split at the seam: prefix and middle are encoded as the one text that they are."""
    seams = 0
    for text, cut in cases(fuzzed, 2):
        prefix, middle, suffix = cut.parts(text)
        parts = split(encode_cut(tokenizer, text, Cut("spm", cut.start, cut.end)), tokenizer)
        expected = [], tokenizer.encode_continuation(suffix), tokenizer.encode(prefix + middle)
        assert parts == tuple(list(ids) for ids in expected), (text, cut)
        seams += parts[2] != [*tokenizer.encode(prefix), *tokenizer.encode_continuation(middle)]
    assert seams > 50  # there were many seams where splitting would have shown


def test_plain_is_bos_text_eos(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, _ in cases(fuzzed, 3):
        ids = encode_plain(tokenizer, text)
        assert ids.dtype == np.int32
        assert ids.tolist() == [1, *tokenizer.encode(text), 2]
        assert tokenizer.decode(ids) == text


def test_infilling_begins_with_the_prompt_of_inference(tokenizer: Tokenizer, fuzzed: Fuzz):
    """A model sees in training up to the middle what it is asked with; for SPM where no token spans the seam."""
    for text, cut in cases(fuzzed, 4):
        prefix, middle, suffix = cut.parts(text)
        if cut.order == "spm":
            whole, before = tokenizer.encode(prefix + middle).tolist(), tokenizer.encode(prefix).tolist()
            if whole[: len(before)] != before:
                continue
        prompt = tokenizer.infilling_prompt(prefix, suffix, cut.order)
        assert np.array_equal(encode_cut(tokenizer, text, cut)[: len(prompt)], prompt), (text, cut)


def test_without_infilling_ids_there_is_no_infilling(small_tokenizer: Tokenizer):
    plain = Tokenizer(small_tokenizer.model, infilling=False)
    for order in ORDERS:
        with pytest.raises(UserError, match="no infilling ids"):
            encode_cut(plain, "some text", Cut(order, 1, 3))
    assert encode_plain(plain, "some text").tolist() == encode_plain(small_tokenizer, "some text").tolist()


# --- nothing is lost, nothing is made up ------------------------------------------------------------------------------


def test_prefix_middle_and_suffix_are_the_text(fuzzed: Fuzz):
    for text, cut in cases(fuzzed, 5):
        prefix, middle, suffix = cut.parts(text)
        assert prefix + middle + suffix == text
        assert (len(prefix), len(middle)) == (cut.start, cut.end - cut.start)


def test_decoding_the_parts_gives_the_document_back(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, cut in cases(fuzzed, 6):
        before, after, completion = split(encode_cut(tokenizer, text, cut), tokenizer)
        if cut.order == "psm":
            decoded = tokenizer.decode(before) + tokenizer.decode_continuation(completion)
        else:
            decoded = tokenizer.decode(completion)
        assert decoded + tokenizer.decode_continuation(after) == text, (text, cut)


@pytest.mark.parametrize("tag", ["<PRE>", " <EOT>", "▁<SUF>", "</s>", "[INST]", "<s>", " <MID>", "<unk>", "▁<EOT>"])
def test_text_never_becomes_a_control_token(tokenizer: Tokenizer, fuzzed: Fuzz, tag: str):
    rng = np.random.default_rng(7)
    for _ in range(40):
        text = tag.join(fuzzed(rng, int(rng.integers(0, 30))) for _ in range(4))
        plain = encode_plain(tokenizer, text)
        assert plain[0] == 1 and plain[-1] == 2
        forms = [plain[1:-1]]
        for order in ORDERS:
            start, end = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
            # split() sees to it that the sentinels and the ends are there once, and where they belong
            forms += [np.array(part) for part in split(encode_cut(tokenizer, text, Cut(order, start, end)), tokenizer)]
        for ids in forms:
            assert ids.size == 0 or (ids.min() > 2 and ids.max() < tokenizer.pieces), text


# --- the draw ---------------------------------------------------------------------------------------------------------


def encoder(tokenizer: Tokenizer, fim: Fim = FIM, seed: tuple[int, ...] = (0, 1)) -> Encoder:
    return Encoder(tokenizer, fim, Chat(), seed)


def draws(tokenizer: Tokenizer, length: int, fim: Fim = FIM) -> list[Cut | None]:
    """As the packer draws: by the keys of neighbouring documents."""
    document = Document("x" * length, "a")
    drawing = encoder(tokenizer, fim)
    return [drawing.cut(document, (number // 4, number % 4)) for number in range(DRAWS)]


def within_three_sigma(hits: int, of: int, share: float) -> bool:
    return abs(hits - of * share) <= 3 * np.sqrt(of * share * (1 - share))


def fits(counts: np.ndarray, shares: np.ndarray) -> bool:
    """Pearson's chi-square test, at about one in a million; the seeds are fixed."""
    expected = shares * counts.sum()
    freedom = counts.size - 1
    return bool(((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom) + 5)


def joint(length: int) -> np.ndarray:
    """Share of each (start, end) where both cuts are uniform over length + 1 gaps, independent, then sorted."""
    return (np.triu(np.full((length + 1, length + 1), 2.0), 1) + np.eye(length + 1)) / (length + 1) ** 2


def counted(cuts: list[Cut], length: int) -> np.ndarray:
    counts = np.zeros((length + 1, length + 1))
    np.add.at(counts, ([cut.start for cut in cuts], [cut.end for cut in cuts]), 1)
    return counts


def test_both_cuts_are_uniform_and_independent_in_either_order(small_tokenizer: Tokenizer):
    """Every pair of gaps, the text's ends and the empty middle included, has its share: in all and in each order."""
    length = 7
    upper = np.triu_indices(length + 1)
    cuts = [cut for cut in draws(small_tokenizer, length) if cut is not None]
    for chosen in (cuts, *([cut for cut in cuts if cut.order == order] for order in ORDERS)):
        counts = counted(chosen, length)
        assert counts[np.tril_indices(length + 1, -1)].sum() == 0
        assert fits(counts[upper], joint(length)[upper])


@pytest.mark.parametrize("length", [0, 1, 1000, 100_000])
def test_cuts_reach_evenly_over_a_document_of_any_length(small_tokenizer: Tokenizer, length: int):
    cuts = [cut for cut in draws(small_tokenizer, length) if cut is not None]
    assert all(0 <= cut.start <= cut.end <= length for cut in cuts)
    if length < 20:
        counts = counted(cuts, length)
        assert length == 0 or fits(counts[np.triu_indices(length + 1)], joint(length)[np.triu_indices(length + 1)])
        return
    # The smaller of two uniform numbers is below x with probability 1 - (1 - x)^2, the larger with x^2.
    starts = 1 - (1 - np.array([cut.start for cut in cuts]) / (length + 1)) ** 2
    ends = (np.array([cut.end for cut in cuts]) / (length + 1)) ** 2
    for values in (starts, ends):
        counts, _ = np.histogram(values, bins=20, range=(0, 1))
        assert fits(counts, np.full(20, 1 / 20))


@pytest.mark.parametrize("fim", [Fim(), Fim(rate=0.5, psm_share=0.1), Fim(rate=1.0), Fim(psm_share=0.0)], ids=str)
@pytest.mark.parametrize("length", [3, 5000])
def test_rate_and_order_have_their_shares(small_tokenizer: Tokenizer, length: int, fim: Fim):
    cuts = [cut for cut in draws(small_tokenizer, length, fim) if cut is not None]
    assert within_three_sigma(len(cuts), DRAWS, fim.rate)
    assert within_three_sigma(sum(cut.order == "psm" for cut in cuts), len(cuts), fim.psm_share)


def test_neighbouring_documents_are_drawn_independently(small_tokenizer: Tokenizer):
    """Keys that differ in the last bit give unrelated draws: of kind, order and place."""
    length = 10_000
    cuts = draws(small_tokenizer, length, Fim(rate=0.5))
    drawn = np.array([cut is not None for cut in cuts], float)
    psm = np.array([cut is not None and cut.order == "psm" for cut in cuts], float)
    start = np.array([cut.start if cut is not None else length / 3 for cut in cuts], float)
    for values in (drawn, psm, start):
        for apart in (1, 4):  # neighbours in a file, and the same document of neighbouring files
            correlation = np.corrcoef(values[:-apart], values[apart:])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(DRAWS)


def test_the_draw_is_a_function_of_seed_and_key(small_tokenizer: Tokenizer):
    """It is the same however often and in whatever order it is asked, and another for another seed or key."""
    document = Document("x" * 1_000_000, "a")
    keys = [(file, number) for file in range(20) for number in range(5)]
    first = {key: encoder(small_tokenizer).cut(document, key) for key in keys}
    again = encoder(small_tokenizer)
    assert {key: again.cut(document, key) for key in [*reversed(keys), *keys]} == first
    same_length = Document("y" * 1_000_000, "b")
    assert all(again.cut(same_length, key) == cut for key, cut in first.items())
    cuts = [cut for cut in first.values() if cut is not None]
    assert len(set(cuts)) == len(cuts)
    for other_seed in ((1, 1), (0, 2)):
        other = encoder(small_tokenizer, seed=other_seed)
        assert not set(cuts) & {other.cut(document, key) for key in keys}


def test_draw_uses_nothing_but_its_generator():
    for seed in range(50):
        cuts = [draw("x" * 1000, Fim(), np.random.default_rng(seed)) for _ in range(2)]
        assert cuts[0] == cuts[1]


def test_neither_rate_zero_nor_a_dialogue_is_ever_cut(small_tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for key in range(200):
        assert encoder(small_tokenizer, Fim(rate=0.0)).cut(Document("some text", "a"), (key,)) is None
        assert encoder(small_tokenizer, Fim(rate=1.0)).cut(Dialogue(messages, "a"), (key,)) is None


# --- cuts between lines -----------------------------------------------------------------------------------------------

LINES = Fim(rate=1.0, cut="line")
# Texts with the places before their lines and at their end, however lines end and whether the last one does.
LINED = {
    "one\ntwo\n\nfour\n": [0, 4, 8, 9, 14],
    "one\ntwo\nthree": [0, 4, 8, 13],
    "one\r\ntwo\r\n": [0, 5, 10],
    "one\r\n\r\nthree": [0, 5, 7, 12],
    "one": [0, 3],
    "\n": [0, 1],
    "": [0],
}


@pytest.mark.parametrize("text", LINED, ids=ascii)
def test_lines_are_cut_at_their_beginnings_or_at_the_end(text: str):
    """Every pair of those places has its share, the empty middle included; and nothing is lost."""
    places = LINED[text]
    cuts = [draw(text, LINES, np.random.default_rng([3, number])) for number in range(4000)]
    assert all(cut is not None and "".join(cut.parts(text)) == text for cut in cuts)
    pairs = [(places.index(cut.start), places.index(cut.end)) for cut in cuts if cut is not None]
    counts = np.zeros((len(places), len(places)))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    upper = np.triu_indices(len(places))
    assert counts[upper].sum() == len(cuts)
    assert len(places) == 1 or fits(counts[upper], joint(len(places) - 1)[upper])


def test_cuts_between_lines_reach_evenly_over_a_long_document():
    """By lines, not by characters: the first half of the lines is hardly any of the text."""
    text = "a\n" * 500 + f"{'b' * 100}\n" * 500
    begins = np.cumsum([0, *map(len, text.splitlines(keepends=True))])
    cuts = [draw(text, LINES, np.random.default_rng([4, number])) for number in range(5000)]
    places = np.searchsorted(begins, [(cut.start, cut.end) for cut in cuts if cut is not None])
    assert (begins[places] == [(cut.start, cut.end) for cut in cuts if cut is not None]).all()
    counts, _ = np.histogram(places, bins=7, range=(0, 1001))
    assert fits(counts, np.full(7, 1 / 7))


def test_lines_change_only_where_documents_are_cut(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    """Not whether they are, nor in which order."""
    rng = np.random.default_rng(8)
    for number in range(200):
        document = Document(fuzzed(rng, int(rng.integers(0, 300))), "a")
        one, other = (encoder(small_tokenizer, Fim(cut=cut)).cut(document, (number,)) for cut in ("character", "line"))
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert one.order == other.order and "".join(other.parts(document.text)) == document.text
        for place in {other.start, other.end} - {0, len(document.text)}:
            assert document.text[place - 1].splitlines() == [""] and document.text[place - 1 : place + 1] != "\r\n"


def test_a_cut_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"Fim\.cut='word' must be 'character' or 'line'"):
        Fim(cut="word")
