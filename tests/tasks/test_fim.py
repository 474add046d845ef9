"""Infilling: which documents are transformed, the split points, and the ids of both orders."""

import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
import tokenizer_families

from codellama_jax.config.data import Chat, Fim
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer, from_files
from tasks.encoder import Encoder
from tasks.fim import FimSplit, Order, draw_split, encode_infilling, encode_plain
from tasks.sources.base import Dialogue, Document

ORDERS: tuple[Order, Order] = ("psm", "spm")
DRAWS = 20_000
FIM = Fim()
TAGS = ("<PRE>", " <EOT>", "▁<SUF>", "</s>", "[INST]", "<s>", " <MID>", "<unk>", "▁<EOT>", "<|fim_prefix|>")
TAGS += ("<fim_suffix>", "<｜fim▁hole｜>", "<|endoftext|>", "<|eot_id|>", "<|file_separator|>")
Fuzz = Callable[[np.random.Generator, int], str]

# The published prompt of a PSM infilling and its ids (transformers, tests of CodeLlama; RECIPE section 3).
PREFIX, SUFFIX = 'def remove_non_ascii(s: str) -> str:\n    """ ', "\n    return result\n"
PREFIX_IDS = [822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901, 13, 1678]
PREFIX_IDS += [9995, 29871]
SUFFIX_IDS = [13, 1678, 736, 1121, 13]
HELLO_IDS = [10994]  # "Hello" without the implicit space; with it, it is 15043


@pytest.fixture(params=["small", "llama", *tokenizer_families.FAMILIES])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param in tokenizer_families.FAMILIES:
        pytest.importorskip("tokenizers")
        return from_files(tokenizer_families.files(request.param), infilling=True)
    return request.getfixturevalue(f"{request.param}_tokenizer")


def normal(tokenizer: Tokenizer, text: str) -> str:
    """The text as the tokenizer keeps it: in the normal form NFC with Qwen2.5's."""
    return unicodedata.normalize(tokenizer.normalization, text) if tokenizer.normalization else text


def cases(fuzzed: Fuzz, seed: int, number: int = 300) -> list[tuple[str, FimSplit]]:
    """Texts of any kind with a split for each, including the extreme splits."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(number):
        text = fuzzed(rng, int(rng.integers(0, 200)))
        start, end = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
        drawn.append((text, FimSplit(ORDERS[rng.integers(2)], start, end)))
    corners = [("", 0, 0), ("x", 0, 0), ("x", 1, 1), ("x", 0, 1), (" x ", 1, 2), (" \n ", 0, 3), ("\r\n", 1, 1)]
    return drawn + [(text, FimSplit(order, start, end)) for text, start, end in corners for order in ORDERS]


def ends_of(tokenizer: Tokenizer) -> list[int]:
    """EOT and EOS, which are one id in most families."""
    return list(dict.fromkeys([tokenizer.eot_id, tokenizer.eos_id]))


def parts_of(ids: np.ndarray, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """A, B and C of  BOS PRE A SUF B MID C EOT EOS , with each control id once, and no other."""
    listed, start, ends = ids.tolist(), [*tokenizer.start_ids, tokenizer.prefix_id], ends_of(tokenizer)
    control = {*tokenizer.control_ids.values(), *range(tokenizer.pieces, tokenizer.rows)}
    found = [id for id in listed if id in control]
    assert sorted(found) == sorted([*start, tokenizer.suffix_id, tokenizer.middle_id, *ends])
    suffix, middle = listed.index(tokenizer.suffix_id), listed.index(tokenizer.middle_id)
    assert listed[: len(start)] == start and listed[-len(ends) :] == ends
    return listed[len(start) : suffix], listed[suffix + 1 : middle], listed[middle + 1 : -len(ends)]


# --- the ids ----------------------------------------------------------------------------------------------------------


def test_psm_document_has_the_published_ids(llama_tokenizer: Tokenizer):
    text = PREFIX + "Hello" + SUFFIX
    ids = encode_infilling(llama_tokenizer, text, FimSplit("psm", len(PREFIX), len(PREFIX) + 5))
    assert ids.dtype == np.int32
    prompt = [1, 32007, *PREFIX_IDS, 32008, *SUFFIX_IDS, 32009]
    assert ids.tolist() == [*prompt, *HELLO_IDS, 32010, 2]
    assert llama_tokenizer.infilling_prompt(PREFIX, SUFFIX).tolist() == prompt


def test_spm_document_has_the_published_ids(llama_tokenizer: Tokenizer):
    """The suffix comes first. After MID, prefix and middle are encoded as one text, with one token for " Hello"."""
    text = PREFIX + "Hello" + SUFFIX
    ids = encode_infilling(llama_tokenizer, text, FimSplit("spm", len(PREFIX), len(PREFIX) + 5))
    assert ids.tolist() == [1, 32007, 32008, *SUFFIX_IDS, 32009, *PREFIX_IDS[:-1], 15043, 32010, 2]


def test_psm_is_pre_prefix_suf_suffix_mid_middle_eot(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, split in cases(fuzzed, 1):
        prefix, middle, suffix = split.parts(text)
        parts = parts_of(encode_infilling(tokenizer, text, FimSplit("psm", split.start, split.end)), tokenizer)
        expected = (
            tokenizer.encode(prefix),
            tokenizer.encode_continuation(suffix),
            tokenizer.encode_continuation(middle),
        )
        assert parts == tuple(ids.tolist() for ids in expected), (text, split)


def test_spm_is_pre_suf_suffix_mid_prefix_with_middle_eot(tokenizer: Tokenizer, fuzzed: Fuzz):
    """Prefix and middle are encoded as one text, so no token is split between them."""
    merged = 0
    for text, split in cases(fuzzed, 2):
        prefix, middle, suffix = split.parts(text)
        parts = parts_of(encode_infilling(tokenizer, text, FimSplit("spm", split.start, split.end)), tokenizer)
        expected = [], tokenizer.encode_continuation(suffix), tokenizer.encode(prefix + middle)
        assert parts == tuple(list(ids) for ids in expected), (text, split)
        merged += parts[2] != [*tokenizer.encode(prefix), *tokenizer.encode_continuation(middle)]
    assert merged > 50  # in many cases, separate encoding would give different ids


def test_plain_is_bos_text_eos(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, _ in cases(fuzzed, 3):
        ids = encode_plain(tokenizer, text)
        assert ids.dtype == np.int32
        assert ids.tolist() == [*tokenizer.start_ids, *tokenizer.encode(text), tokenizer.eos_id]
        assert tokenizer.decode(ids) == normal(tokenizer, text)


def test_infilling_starts_with_the_prompt_of_inference(tokenizer: Tokenizer, fuzzed: Fuzz):
    """Up to the middle, training has the ids of the prompt. In SPM, only if no token spans prefix and middle."""
    for text, split in cases(fuzzed, 4):
        prefix, middle, suffix = split.parts(text)
        if split.order == "spm":
            joined, before = tokenizer.encode(prefix + middle).tolist(), tokenizer.encode(prefix).tolist()
            if joined[: len(before)] != before:
                continue
        prompt = tokenizer.infilling_prompt(prefix, suffix, split.order)
        assert np.array_equal(encode_infilling(tokenizer, text, split)[: len(prompt)], prompt), (text, split)


def test_infilling_without_infilling_ids_is_an_error(small_tokenizer: Tokenizer):
    plain = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    for order in ORDERS:
        with pytest.raises(UserError, match="no infilling ids"):
            encode_infilling(plain, "some text", FimSplit(order, 1, 3))
    assert encode_plain(plain, "some text").tolist() == encode_plain(small_tokenizer, "some text").tolist()


# --- text -------------------------------------------------------------------------------------------------------------


def test_prefix_middle_and_suffix_are_the_text(fuzzed: Fuzz):
    for text, split in cases(fuzzed, 5):
        prefix, middle, suffix = split.parts(text)
        assert prefix + middle + suffix == text
        assert (len(prefix), len(middle)) == (split.start, split.end - split.start)


def test_decoding_the_parts_gives_the_document(tokenizer: Tokenizer, fuzzed: Fuzz):
    for text, split in cases(fuzzed, 6):
        before, after, completion = parts_of(encode_infilling(tokenizer, text, split), tokenizer)
        if split.order == "psm":
            decoded = tokenizer.decode(before) + tokenizer.decode_continuation(completion)
        else:
            decoded = tokenizer.decode(completion)
        kept = [normal(tokenizer, part) for part in split.parts(text)]
        kept = kept if split.order == "psm" else [normal(tokenizer, kept[0] + kept[1]), kept[2]]
        assert decoded + tokenizer.decode_continuation(after) == "".join(kept), (text, split)


@pytest.mark.parametrize("tag", TAGS)
def test_text_never_becomes_a_control_token(tokenizer: Tokenizer, fuzzed: Fuzz, tag: str):
    rng = np.random.default_rng(7)
    control = set(tokenizer.control_ids.values())
    for _ in range(40):
        text = tag.join(fuzzed(rng, int(rng.integers(0, 30))) for _ in range(4))
        plain = encode_plain(tokenizer, text)
        start = tokenizer.start_ids
        assert plain[: len(start)].tolist() == start and plain[-1] == tokenizer.eos_id
        forms = [plain[len(start) : -1]]
        for order in ORDERS:
            first, last = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
            # parts_of() checks that the infilling ids, BOS and EOS occur once, in the right positions
            forms += [
                np.array(part)
                for part in parts_of(encode_infilling(tokenizer, text, FimSplit(order, first, last)), tokenizer)
            ]
        for ids in forms:
            assert not control & set(ids.tolist()) and (ids.size == 0 or ids.max() < tokenizer.pieces), text


# --- the random split -------------------------------------------------------------------------------------------------


def encoder(tokenizer: Tokenizer, fim: Fim = FIM, seed: tuple[int, ...] = (0, 1)) -> Encoder:
    return Encoder(tokenizer, fim, Chat(), seed)


def draws(tokenizer: Tokenizer, length: int, fim: Fim = FIM) -> list[FimSplit | None]:
    """Draws with the keys of neighbouring documents, as the packer does."""
    document = Document("x" * length, "a")
    encode = encoder(tokenizer, fim)
    return [encode.draw_split(document, (number // 4, number % 4)) for number in range(DRAWS)]


def within_three_sigma(hits: int, of: int, share: float) -> bool:
    return abs(hits - of * share) <= 3 * np.sqrt(of * share * (1 - share))


def fits(counts: np.ndarray, shares: np.ndarray) -> bool:
    """Pearson's chi-square test, at about one in a million; the seeds are fixed."""
    expected = shares * counts.sum()
    freedom = counts.size - 1
    return bool(((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom) + 5)


def joint(length: int) -> np.ndarray:
    """Share of each (start, end) if both points are uniform over length + 1 gaps, independent, and sorted."""
    return (np.triu(np.full((length + 1, length + 1), 2.0), 1) + np.eye(length + 1)) / (length + 1) ** 2


def counted(splits: list[FimSplit], length: int) -> np.ndarray:
    counts = np.zeros((length + 1, length + 1))
    np.add.at(counts, ([split.start for split in splits], [split.end for split in splits]), 1)
    return counts


def test_both_split_points_are_uniform_and_independent_in_either_order(small_tokenizer: Tokenizer):
    """Every pair of gaps, including the ends of the text and the empty middle, has its share in each order."""
    length = 7
    upper = np.triu_indices(length + 1)
    splits = [split for split in draws(small_tokenizer, length) if split is not None]
    for chosen in (splits, *([split for split in splits if split.order == order] for order in ORDERS)):
        counts = counted(chosen, length)
        assert counts[np.tril_indices(length + 1, -1)].sum() == 0
        assert fits(counts[upper], joint(length)[upper])


@pytest.mark.parametrize("length", [0, 1, 1000, 100_000])
def test_split_points_are_uniform_for_documents_of_any_length(small_tokenizer: Tokenizer, length: int):
    splits = [split for split in draws(small_tokenizer, length) if split is not None]
    assert all(0 <= split.start <= split.end <= length for split in splits)
    if length < 20:
        counts = counted(splits, length)
        assert length == 0 or fits(counts[np.triu_indices(length + 1)], joint(length)[np.triu_indices(length + 1)])
        return
    # The smaller of two uniform numbers is below x with probability 1 - (1 - x)^2, the larger with x^2.
    starts = 1 - (1 - np.array([split.start for split in splits]) / (length + 1)) ** 2
    ends = (np.array([split.end for split in splits]) / (length + 1)) ** 2
    for values in (starts, ends):
        counts, _ = np.histogram(values, bins=20, range=(0, 1))
        assert fits(counts, np.full(20, 1 / 20))


@pytest.mark.parametrize("fim", [Fim(), Fim(rate=0.5, psm_share=0.1), Fim(rate=1.0), Fim(psm_share=0.0)], ids=str)
@pytest.mark.parametrize("length", [3, 5000])
def test_rate_and_order_have_their_shares(small_tokenizer: Tokenizer, length: int, fim: Fim):
    splits = [split for split in draws(small_tokenizer, length, fim) if split is not None]
    assert within_three_sigma(len(splits), DRAWS, fim.rate)
    assert within_three_sigma(sum(split.order == "psm" for split in splits), len(splits), fim.psm_share)


def test_splits_of_neighbouring_documents_are_independent(small_tokenizer: Tokenizer):
    """Keys that differ in the last bit give independent kinds, orders and split points."""
    length = 10_000
    splits = draws(small_tokenizer, length, Fim(rate=0.5))
    drawn = np.array([split is not None for split in splits], float)
    psm = np.array([split is not None and split.order == "psm" for split in splits], float)
    start = np.array([split.start if split is not None else length / 3 for split in splits], float)
    for values in (drawn, psm, start):
        for apart in (1, 4):  # neighbours in a file, and the same document of neighbouring files
            correlation = np.corrcoef(values[:-apart], values[apart:])[0, 1]
            assert abs(correlation) < 4 / np.sqrt(DRAWS)


def test_the_split_is_a_function_of_seed_and_key(small_tokenizer: Tokenizer):
    """It is the same for any number and order of calls, and different for another seed or key."""
    document = Document("x" * 1_000_000, "a")
    keys = [(file, number) for file in range(20) for number in range(5)]
    first = {key: encoder(small_tokenizer).draw_split(document, key) for key in keys}
    again = encoder(small_tokenizer)
    assert {key: again.draw_split(document, key) for key in [*reversed(keys), *keys]} == first
    same_length = Document("y" * 1_000_000, "b")
    assert all(again.draw_split(same_length, key) == split for key, split in first.items())
    splits = [split for split in first.values() if split is not None]
    assert len(set(splits)) == len(splits)
    for other_seed in ((1, 1), (0, 2)):
        other = encoder(small_tokenizer, seed=other_seed)
        assert not set(splits) & {other.draw_split(document, key) for key in keys}


def test_draw_split_uses_only_its_generator():
    for seed in range(50):
        splits = [draw_split("x" * 1000, Fim(), np.random.default_rng(seed)) for _ in range(2)]
        assert splits[0] == splits[1]


def test_rate_zero_and_dialogues_are_never_transformed(small_tokenizer: Tokenizer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for key in range(200):
        assert encoder(small_tokenizer, Fim(rate=0.0)).draw_split(Document("some text", "a"), (key,)) is None
        assert encoder(small_tokenizer, Fim(rate=1.0)).draw_split(Dialogue(messages, "a"), (key,)) is None


# --- splits between lines ---------------------------------------------------------------------------------------------

LINES = Fim(rate=1.0, cut="line")
# Texts with the positions before their lines and at the end of the text, for all line endings.
LINED = {
    "one\ntwo\n\nfour\n": [0, 4, 8, 9, 14],
    "one\ntwo\nthree": [0, 4, 8, 13],
    "one\r\ntwo\r\n": [0, 5, 10],
    "one\r\n\r\nthree": [0, 5, 7, 12],
    "one\rtwo\r\rfour": [0, 4, 8, 9, 13],
    "one\rtwo\r\n\rx\n": [0, 4, 9, 10, 12],
    "one": [0, 3],
    "\n": [0, 1],
    "": [0],
}


@pytest.mark.parametrize("text", LINED, ids=ascii)
def test_line_splits_are_at_the_starts_of_lines_or_the_end(text: str):
    """Every pair of these positions has its share, including the empty middle. The parts are the complete text."""
    positions = LINED[text]
    splits = [draw_split(text, LINES, np.random.default_rng([3, number])) for number in range(4000)]
    assert all(split is not None and "".join(split.parts(text)) == text for split in splits)
    pairs = [(positions.index(split.start), positions.index(split.end)) for split in splits if split is not None]
    counts = np.zeros((len(positions), len(positions)))
    np.add.at(counts, tuple(np.array(pairs).T), 1)
    upper = np.triu_indices(len(positions))
    assert counts[upper].sum() == len(splits)
    assert len(positions) == 1 or fits(counts[upper], joint(len(positions) - 1)[upper])


def test_line_splits_are_uniform_over_a_long_document():
    """In lines, not in characters: the first half of the lines is a small part of the text."""
    text = "a\n" * 500 + f"{'b' * 100}\n" * 500
    starts = np.cumsum([0, *map(len, text.splitlines(keepends=True))])
    splits = [draw_split(text, LINES, np.random.default_rng([4, number])) for number in range(5000)]
    positions = np.searchsorted(starts, [(split.start, split.end) for split in splits if split is not None])
    assert (starts[positions] == [(split.start, split.end) for split in splits if split is not None]).all()
    counts, _ = np.histogram(positions, bins=7, range=(0, 1001))
    assert fits(counts, np.full(7, 1 / 7))


def test_line_splits_change_only_the_positions(small_tokenizer: Tokenizer, fuzzed: Fuzz):
    """Whether a document is transformed, and the order, do not change."""
    rng = np.random.default_rng(8)
    for number in range(200):
        document = Document(fuzzed(rng, int(rng.integers(0, 300))), "a")
        one, other = (
            encoder(small_tokenizer, Fim(cut=cut)).draw_split(document, (number,)) for cut in ("character", "line")
        )
        assert (one is None) == (other is None)
        if one is None or other is None:
            continue
        assert one.order == other.order and "".join(other.parts(document.text)) == document.text
        for position in {other.start, other.end} - {0, len(document.text)}:
            assert (
                document.text[position - 1].splitlines() == [""]
                and document.text[position - 1 : position + 1] != "\r\n"
            )


def test_an_unknown_cut_is_rejected():
    with pytest.raises(ValueError, match=r"Fim\.cut='word' must be 'character', 'line' or 'both'"):
        Fim(cut="word")


def test_both_cuts_have_their_shares_and_the_draws_of_either():
    text, count = "ab\ncd e\n" * 40, 2000
    starts = {0, *np.cumsum([len(line) for line in text.splitlines(keepends=True)]).tolist()}
    fim = Fim(rate=1.0, cut="both", line_share=0.25)
    splits = [draw_split(text, fim, np.random.default_rng([5, number])) for number in range(count)]
    at_lines = sum(split is not None and {split.start, split.end} <= starts for split in splits)
    by_chance = (len(starts) / (len(text) + 1)) ** 2
    assert at_lines / count == pytest.approx(0.25 + 0.75 * by_chance, abs=0.03)
    for share, cut in ((1.0, "line"), (0.0, "character")):
        always = Fim(rate=1.0, cut="both", line_share=share)
        found = [draw_split(text, always, np.random.default_rng(number)) for number in range(99)]
        line_starts = [split is not None and {split.start, split.end} <= starts for split in found]
        assert all(line_starts) if cut == "line" else not all(line_starts)


@pytest.mark.parametrize("cut", ["character", "line"])
def test_the_share_of_lines_changes_nothing_with_one_cut(cut: str):
    for number in range(50):
        one, other = (
            draw_split("a\nbc\n" * 9, Fim(cut=cut, line_share=share), np.random.default_rng(number))
            for share in (0.5, 0.9)
        )
        assert one == other
