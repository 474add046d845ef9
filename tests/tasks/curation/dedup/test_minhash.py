"""MinHash: shingles are sets of token n-grams, signatures estimate similarity, and buckets give similar pairs."""

import hashlib
import itertools
import json
import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from tasks.curation.dedup.minhash import (
    MinHash,
    band_keys,
    bands_and_rows,
    jaccard,
    shingles,
    shingles_of,
    similar_pairs,
    similarity,
    tokens,
)

UNUSUAL = ["", " ", "\n", "a", "a b c d", "a b c d e", "生活 = é\u00a0x\n", "\ud800 half a pair"]
UNUSUAL += ["x" * 200_000, "\0\x7f", "🙂" * 9]
CODE = Path(json.decoder.__file__).read_text(encoding="utf-8")


def sets(similarity: float, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two sets with about this similarity, whose union has `size` hashes."""
    values = rng.integers(0, 2**64, size, dtype=np.uint64)
    shared = round(similarity * size)
    half = shared + (size - shared) // 2
    return np.sort(values[:half]), np.sort(np.concatenate([values[:shared], values[half:]]))


# --- tokens and shingles ----------------------------------------------------------------------------------------------


def test_tokens_are_words_and_single_punctuation_marks():
    assert tokens("x_1 += f(a.b, 'é生')\n\tnot  0x1F\0;;") == [
        *("x_1", "+", "=", "f", "(", "a", ".", "b", ",", "'", "é", "生", "'", ")", "not", "0x1F", ";", ";")
    ]


@pytest.mark.parametrize("width", [1, 2, 5, 9])
def test_two_texts_share_as_many_shingles_as_token_ngrams(fuzzed, width: int):
    def ngrams(text: str) -> set[tuple[str, ...]]:
        words = tokens(text)
        return {tuple(words[i : i + width]) for i in range(max(1, len(words) - width + 1))}

    rng = np.random.default_rng(0)
    texts = UNUSUAL + [fuzzed(rng, int(size)) for size in rng.integers(1, 2_000, 60)]
    texts += [text[: len(text) // 2] + "\n" + text[len(text) // 3 :] for text in texts[-20:]]
    results = list(shingles_of(texts, width))
    for text, values in zip(texts, results, strict=True):
        assert values.dtype == np.uint64 and len(values) == len(ngrams(text))
        assert (values[1:] > values[:-1]).all()
    for a, b in itertools.combinations(range(len(texts)), 2):
        shared = len(np.intersect1d(results[a], results[b]))
        assert shared == len(ngrams(texts[a]) & ngrams(texts[b]))


def test_shingles_do_not_depend_on_the_batch_the_section_or_white_space(fuzzed):
    rng = np.random.default_rng(1)
    texts = UNUSUAL + [fuzzed(rng, 3_000) for _ in range(5)] + [CODE * 30, CODE.replace("\n", " ") * 30, "", "b"]
    for text, values in zip(texts, shingles_of(texts), strict=True):
        assert np.array_equal(values, shingles(text))
    assert np.array_equal(shingles(CODE * 30), shingles(CODE.replace("\n", "\r\n\t") * 30))
    assert np.array_equal(shingles(CODE * 30), shingles(CODE.replace("\n", " ") * 30))


GOLDEN_SHINGLES = [15462245188589659418, 17385049592738815423]
GOLDEN_SIGNATURE = [120399746, 3181254742, 27856306, 2457916202, 1486248007, 834891952, 2510237300, 376712199]
GOLDEN_KEYS = ["00006564ecb2f1438497", "00014015da91ce518fac"]
GOLDEN_LARGE = "aa948a73ef154ddc"


def test_hashes_are_the_same_on_any_machine_and_in_any_version_of_python():
    """A resumed build compares keys and signatures with those of an earlier run."""
    assert shingles("").tolist() == [0]
    assert shingles("def f(x):").tolist() == GOLDEN_SHINGLES
    signature = MinHash(8).signature(shingles("def f(x):\n    return x + 1\n"))
    assert signature.tolist() == GOLDEN_SIGNATURE
    assert [key.hex() for key in band_keys(signature, 2, 4)] == GOLDEN_KEYS
    large = MinHash().signature(shingles("\n".join(f"x{i} = {i}" for i in range(5_000))))
    assert hashlib.sha256(large.astype("<u4").tobytes()).hexdigest()[:16] == GOLDEN_LARGE


# --- signatures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("permutations", [16, 100, 256])
@pytest.mark.parametrize("size", [3, 30, 300, 6_000])
def test_the_estimate_is_unbiased_and_has_the_variance_of_minhash(permutations: int, size: int):
    rng = np.random.default_rng(permutations + size)
    trials = 200
    for wanted in (0.0, 0.3, 0.7, 0.9, 1.0):
        errors, variances = [], []
        for seed in range(trials):
            a, b = sets(wanted, size, rng)
            true = jaccard(a, b)
            minhash = MinHash(permutations, seed)
            errors.append(similarity(minhash.signature(a), minhash.signature(b)) - true)
            variances.append(true * (1 - true) / permutations)
        sigma = math.sqrt(np.mean(variances) / trials)
        assert abs(np.mean(errors)) <= 4 * sigma
        # the variance of a variance over 200 trials: 10% of it
        assert np.mean(np.square(errors)) <= 1.4 * np.mean(variances)


def test_a_signature_depends_on_the_set_only():
    rng = np.random.default_rng(2)
    minhash = pickle.loads(pickle.dumps(MinHash()))
    for size in (1, 2, 40, 3_000, 50_000):
        values, _ = sets(1.0, size, rng)
        signature = minhash.signature(values)
        assert signature.shape == (256,) and signature.dtype == np.uint32
        assert np.array_equal(signature, minhash.signature(rng.permutation(np.concatenate([values, values[:7]]))))
        assert np.array_equal(signature, minhash.signatures([values[:1], values])[1])
        assert similarity(signature, MinHash(seed=1).signature(values)) < 0.05
    with pytest.raises(ValueError, match="has no signature"):
        minhash.signature(values[:0])
    with pytest.raises(ValueError, match=r"MinHash\.permutations=0 must be"):
        MinHash(0)


def test_each_entry_of_the_signature_of_a_union_is_an_entry_of_one_of_its_parts():
    """A property of minima."""
    rng = np.random.default_rng(3)
    for size in (2, 50, 5_000):
        a, b = sets(0.2, size, rng)
        union, part, other = MinHash().signatures([np.union1d(a, b), a, b])
        assert ((union == part) | (union == other)).all()


# --- bands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold, permutations", [(0.5, 32), (0.7, 64), (0.85, 64), (0.85, 256), (0.99, 16)])
def test_bands_and_rows_minimize_false_positives_and_negatives(threshold: float, permutations: int):
    def errors(bands: int, rows: int, steps: int = 2_000) -> float:
        s = np.linspace(0, 1, steps + 1)
        share_bucket = 1 - (1 - s**rows) ** bands
        return float(np.trapezoid(np.where(s < threshold, share_bucket, 1 - share_bucket), s))

    candidates = [(b, r) for r in range(1, permutations + 1) for b in range(1, permutations // r + 1)]
    best = bands_and_rows(threshold, permutations)
    assert best in candidates
    if permutations > 100:
        candidates = [(b, r) for b, r in candidates if (b + 1) * r > permutations - 32 or b < 3]
    assert errors(*best) <= min(itertools.starmap(errors, candidates)) + 2e-3


def test_a_threshold_must_be_between_0_and_1():
    for threshold in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            bands_and_rows(threshold, 16)


def test_documents_share_a_bucket_exactly_if_a_band_is_equal():
    rng = np.random.default_rng(4)
    signature = rng.integers(0, 2**32, 60, dtype=np.uint32)
    other = signature.copy()
    other[[3, 17, 59]] ^= 1  # bands 0, 1 and 5 of 6
    keys, others = band_keys(signature, 6, 10), band_keys(other, 6, 10)
    assert [a == b for a, b in zip(keys, others, strict=True)] == [False, False, True, True, True, False]
    assert len(set(keys) | set(others)) == 9 and {len(key) for key in keys} == {10}
    same = band_keys(np.zeros(60, np.uint32), 6, 10)
    assert len(set(same)) == 6
    forwards = np.arange(60, dtype=np.uint32)
    assert band_keys(forwards, 1, 60) != band_keys(forwards[::-1], 1, 60)


# --- buckets ----------------------------------------------------------------------------------------------------------


def bucket(count: int, clusters: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Members of clusters: similar by about 0.9 squared within a cluster, not similar across clusters."""
    centres = rng.integers(0, 2**32, (clusters, 256), dtype=np.uint32)
    members = []
    for index in range(count):
        signature = centres[index % clusters].copy()
        changed = rng.choice(256, 25, replace=False)
        signature[changed] = rng.integers(0, 2**32, 25, dtype=np.uint32)
        members.append((f"{index:05}", signature))
    return members


def components(edges: list[tuple[str, str]]) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for a, b in edges:
        merged = groups.get(a, {a}) | groups.get(b, {b})
        groups |= dict.fromkeys(merged, merged)
    return set(map(frozenset, groups.values()))


@pytest.mark.parametrize("count", [2, 30, 64])
def test_a_small_bucket_gives_all_pairs_that_reach_the_threshold(count: int):
    members = bucket(count, 3, np.random.default_rng(count))
    pairs = itertools.combinations(members, 2)
    expected = [(a[0], b[0]) for a, b in pairs if similarity(a[1], b[1]) >= 0.8]
    assert similar_pairs(members, 0.8, 64) == expected
    assert similar_pairs(members, 0.0, 64) == list(itertools.combinations([name for name, _ in members], 2))


def test_pairs_do_not_depend_on_the_order_of_the_members():
    members = bucket(200, 5, np.random.default_rng(5))
    for limit in (8, 500):
        edges = similar_pairs(members, 0.8, limit)
        for seed in range(3):
            shuffled = [*members, members[3]]
            random.Random(seed).shuffle(shuffled)
            assert similar_pairs(iter(shuffled), 0.8, limit) == edges
    assert similar_pairs([], 0.8) == similar_pairs(members[:1] * 2, 0.8) == []


def test_a_large_bucket_gives_few_pairs_that_connect_its_clusters():
    members = bucket(3_000, 6, np.random.default_rng(6))
    edges = similar_pairs(members, 0.75, 64)
    assert components(edges) == {frozenset(name for name, _ in members[part::6]) for part in range(6)}
    assert len(edges) < 6 * 3_000
    by_name = dict(members)
    assert all(a < b and similarity(by_name[a], by_name[b]) >= 0.75 for a, b in edges)


def test_a_large_bucket_misses_only_members_that_are_similar_to_no_representative():
    members = bucket(40, 20, np.random.default_rng(7))
    first = {f"{index:05}" for index in range(10)}
    edges = similar_pairs(members, 0.75, 10)
    assert {a for a, _ in edges} == first and len(edges) == 10
