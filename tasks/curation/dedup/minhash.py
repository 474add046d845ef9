"""MinHash with locality-sensitive hashing: shingles, signatures, bands, and the similar pairs of a bucket.

A shingle is the hash of five consecutive tokens. The similarity of two documents is the Jaccard similarity of their
sets of shingles: shared shingles over all shingles. A signature has `permutations` entries; the probability that an
entry is equal in two signatures is that similarity. Documents whose signatures agree in all rows of a band share a
bucket, and within a bucket signatures are compared.
"""

import dataclasses
import functools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tasks.curation import ngram_hash, scripts
from tasks.curation.splitmix64 import mix

_CHUNK = 1 << 14  # shingles processed at a time, so that they stay in the cache
_EMPTY = np.uint64(2**64 - 1)
_BATCH = 1 << 18  # bytes of texts hashed together, so that short texts share the cost of a call

_WORD = frozenset(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") | frozenset(range(128, 256))
_KINDS = bytes(1 if byte in _WORD else 2 if byte > ord(" ") else 0 for byte in range(256))


def tokens(text: str) -> list[str]:
    """The tokens of a document, in order.

    A token is a maximal run of letters, digits, underscores and marks; or a single character of a script without spaces
    between words, with its marks (tasks/curation/scripts.py); or a punctuation mark. White space and control characters
    separate tokens.
    """
    token, long_hangul = _token_patterns()
    spaced = long_hangul.sub(lambda match: f" {' '.join(match['run'])}{match['after']} ", text)
    return token.findall(spaced)


def shingles(text: str, width: int = 5) -> np.ndarray:
    """The hashes of all n-grams of `width` tokens, sorted, without duplicates: uint64 [at least 1].

    A document with fewer tokens has one shingle, which consists of all its tokens.
    """
    (result,) = shingles_of([text], width)
    return result


def shingles_of(texts: Iterable[str], width: int = 5) -> Iterator[np.ndarray]:
    """`shingles` of each text, in order. Faster than one call per text if texts are short."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text.encode("utf-8", "surrogatepass"))
        size += len(batch[-1]) + 1
        if size > _BATCH:
            yield from _shingles(batch, width)
            batch, size = [], 0
    yield from _shingles(batch, width)


@functools.cache
def _token_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A token, and a run of Hangul in which each syllable is one."""
    separators, punctuation, characters, marks, joiners = (
        "".join(f"{chr(first)}-{chr(last)}" for first, last in scripts.ranges(kind))
        for kind in (scripts.SEPARATOR, scripts.PUNCTUATION, scripts.CHARACTER, scripts.MARK, scripts.JOINER)
    )
    no_word = rf"\0-/:-@\[-^`{{-\x7f{separators}{punctuation}{characters}{marks}{joiners}"
    after = rf"(?:[{marks}{joiners}]|(?<=[{joiners}])[{characters}])*"
    return (
        re.compile(rf"(?:[^{no_word}]+|[^\0- {separators}]){after}"),
        re.compile(rf"(?P<run>[가-힣]{{{scripts.LONGEST_HANGUL + 1},}})(?P<after>{after})"),
    )


@dataclasses.dataclass(frozen=True)
class MinHash:
    """Computes signatures of sets.

    This is Fast Similarity Sketching (Dahlgaard, Knudsen and Thorup, arXiv 1704.04370). In each round every shingle is
    hashed to a random bin, and a bin keeps the smallest value of the first round in which it is hit. An entry is equal
    in the signatures of two sets with a probability that is their Jaccard similarity, and the share of equal entries
    estimates it as closely as with that many permutations (their theorem 1), but a shingle is hashed about once instead
    of once for each permutation.

    Attributes:
        permutations: entries of a signature.
        seed: signatures with different seeds must not be compared.
    """

    permutations: int = 256
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.permutations <= 1 << 16:
            raise ValueError(f"MinHash.permutations={self.permutations} must be between 1 and 65,536")

    def signature(self, shingles: np.ndarray) -> np.ndarray:
        """The signature of a set of hashes: uint64 [at least 1], in any order, to uint32 [permutations].

        Raises:
            ValueError: the set is empty.
        """
        if not len(shingles):
            raise ValueError("an empty set has no signature")
        bins = np.full(self.permutations, _EMPTY, np.uint64)
        step = -(-6 * self.permutations // len(shingles))  # rounds, after which about one bin in 400 is empty
        begin, rounds = 0, 2 * self.permutations
        while begin < rounds:
            end = min(rounds, begin + step)
            for first in range(0, len(shingles), _CHUNK):
                self._fill_bins(shingles[first : first + _CHUNK], begin, end, bins)
            if bins.max() != _EMPTY:
                break
            begin = end
        return bins.astype(np.uint32)

    def signatures(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """The signatures of several sets: uint32 [sets, permutations]."""
        result = np.empty((len(sets), self.permutations), np.uint32)
        for row, shingles in zip(result, sets, strict=True):
            row[:] = self.signature(shingles)
        return result

    def _fill_bins(self, shingles: np.ndarray, begin: int, end: int, bins: np.ndarray) -> None:
        """Runs rounds `begin` to `end` (exclusive). A bin holds the round in its high half and the value in its low."""
        values = mix((shingles ^ self._keys[begin:end, None]).ravel())
        if self.permutations & (self.permutations - 1):
            index = ((values >> 32) * np.uint64(self.permutations)) >> 32
        else:  # equivalent for a power of two, in one operation
            index = values >> (65 - self.permutations.bit_length()) if self.permutations > 1 else values * 0
        if end > self.permutations:  # each round of the second half puts all shingles into one bin, the bins in turn
            rounds = np.repeat(np.arange(begin, end), len(shingles))
            index = np.where(rounds < self.permutations, index, (rounds - self.permutations).astype(np.uint64))
        values &= np.uint64(0xFFFFFFFF)
        if end > 1:
            values |= np.repeat(np.arange(begin, end, dtype=np.uint64) << 32, len(shingles))
        np.minimum.at(bins, index.view(np.int64), values)

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        """A key for each round: uint64 [2 * permutations]."""
        seed = mix(np.array([self.seed % (1 << 64)], np.uint64))
        return mix(seed + np.arange(1, 2 * self.permutations + 1, dtype=np.uint64))


@functools.lru_cache
def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """The number of bands and of rows in a band that best separate pairs above the threshold from those below it.

    Two documents of similarity s share a bucket with probability P(s) = 1 - (1 - s^rows)^bands. The result minimizes
    the integral of P below the threshold (false positives) plus that of 1 - P above it (false negatives), subject to
    bands * rows <= permutations. Since `similar_pairs` verifies the pairs, a threshold somewhat below its own finds
    more of the pairs near it at the cost of more comparisons.

    Raises:
        ValueError: the threshold is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"the similarity threshold {threshold} must be between 0 and 1")
    middles = (np.arange(1000) + 0.5) / 1000  # of the steps of the midpoint rule, on either side of the threshold
    below, above = threshold * middles, threshold + (1 - threshold) * middles
    best = (np.inf, 0, 0)
    for rows in range(1, permutations + 1):
        log_below, log_above = np.log1p(-(below**rows)), np.log1p(-(above**rows))  # log P(a band differs)
        for bands in range(1, permutations // rows + 1):
            false_positives = threshold * (1 - np.exp(bands * log_below)).mean()
            false_negatives = (1 - threshold) * np.exp(bands * log_above).mean()
            best = min(best, (false_positives + false_negatives, bands, rows))
    return best[1:]


def band_keys(signature: np.ndarray, bands: int, rows: int) -> list[bytes]:
    """The buckets of a signature: a key of 10 bytes for each band.

    Keys of different bands differ. Keys of the same band are equal if the rows are, and otherwise with probability
    2^-64.
    """
    factors, numbers = _band_tables(bands, rows)
    values = mix((signature[: bands * rows].reshape(bands, rows) * factors).sum(1, dtype=np.uint64))
    flat = values.astype(">u8").tobytes()
    return [number + flat[8 * band : 8 * band + 8] for band, number in enumerate(numbers)]


@functools.lru_cache
def _band_tables(bands: int, rows: int) -> tuple[np.ndarray, list[bytes]]:
    """Factors of the rows, uint64 [rows]; the numbers of the bands, big-endian."""
    factors = mix(np.arange(1, rows + 1, dtype=np.uint64)) | np.uint64(1)
    return factors, [band.to_bytes(2, "big") for band in range(bands)]


def similarity(signature_a: np.ndarray, signature_b: np.ndarray) -> float:
    """The estimated Jaccard similarity: the share of equal entries."""
    return float(np.mean(signature_a == signature_b))


def jaccard(shingles_a: np.ndarray, shingles_b: np.ndarray) -> float:
    """The exact Jaccard similarity of two sorted sets of hashes."""
    shared = len(np.intersect1d(shingles_a, shingles_b, assume_unique=True))
    return shared / (len(shingles_a) + len(shingles_b) - shared)


def similar_pairs(
    members: Iterable[tuple[str, np.ndarray]], threshold: float, all_pairs_up_to: int = 64
) -> list[tuple[str, str]]:
    """The pairs of a bucket's members whose estimated similarity reaches the threshold, the smaller id first.

    In a bucket of up to `all_pairs_up_to` members, all pairs are compared. In a larger one, the members are compared
    only with representatives, of which there are at most `all_pairs_up_to`, so that the work is linear in the number of
    members: the first member by id is a representative, and so is the next that is not similar to an earlier one. This
    may miss pairs: two members that are not representatives are connected only through a representative that is similar
    to both, and members beyond the last representative that are similar to none have no pair in this bucket.

    Args:
        members: (id, signature) in any order; a repeated id counts once.
        threshold: share of equal entries.

    Returns:
        Sorted pairs, without duplicates.
    """
    by_id = dict(members)
    names = sorted(by_id)
    if len(names) < 2:
        return []
    table = np.stack([by_id[name] for name in names])
    pairs = _pairs_with_representatives if len(names) > all_pairs_up_to else _all_pairs
    return [(names[a], names[b]) for a, b in sorted(pairs(table, threshold, all_pairs_up_to))]


def _all_pairs(table: np.ndarray, threshold: float, _: int) -> set[tuple[int, int]]:
    return {
        (index, index + 1 + int(other))
        for index in range(len(table) - 1)
        for other in _similar(table[index], table[index + 1 :], threshold)
    }


def _pairs_with_representatives(table: np.ndarray, threshold: float, limit: int) -> set[tuple[int, int]]:
    pairs = set()
    remaining = np.ones(len(table), bool)  # members that are not similar to any representative
    for _ in range(limit):
        index = int(np.argmax(remaining))  # the first
        if not remaining[index]:
            break
        remaining[index] = False
        for other in map(int, _similar(table[index], table, threshold)):
            remaining[other] = False
            if other != index:
                pairs.add((min(index, other), max(index, other)))
    return pairs


def _similar(signature: np.ndarray, table: np.ndarray, threshold: float) -> np.ndarray:
    """The rows of a table of signatures whose similarity to the signature reaches the threshold."""
    equal = [np.count_nonzero(table[begin : begin + 1024] == signature, axis=1) for begin in range(0, len(table), 1024)]
    return np.flatnonzero(np.concatenate(equal) >= threshold * len(signature) - 1e-9)


def _shingles(batch: Sequence[bytes], width: int) -> Iterator[np.ndarray]:
    begins, _, hashes = ngram_hash.hash_words(b"\n".join(batch), _KINDS)
    ngrams = ngram_hash.ngram_hashes(hashes, width)
    limits = np.cumsum([len(data) + 1 for data in batch])
    first = 0
    for end in map(int, np.searchsorted(begins, limits)):
        # a document with fewer words than an n-gram has one shingle, of all its words
        if end - first >= width:
            yield _unique(ngrams[first : end - width + 1])
        else:
            yield ngram_hash.sequence_hash(hashes[first:end])
        first = end


def _unique(values: np.ndarray) -> np.ndarray:
    """Sorted, without duplicates. np.unique uses a hash table here, which takes ten times as long."""
    values = np.sort(values)
    return values[np.concatenate(([True], values[1:] != values[:-1]))]
