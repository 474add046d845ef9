"""Near duplicates: documents as sets of shingles, signatures that estimate how alike two sets are, and candidates.

A shingle is the hash of five tokens that follow each other. How alike two documents are is Jaccard's similarity of the
sets: shared shingles over all shingles. A signature has `permutations` entries; the probability that an entry is equal
in two signatures is this similarity. Documents whose signatures agree in all rows of some band meet in a bucket
(locality-sensitive hashing), and within a bucket signatures are compared.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tasks.curation.dedup import ngram_hash

_PIECE = 1 << 14  # shingles at a time, which stay in the cache
_EMPTY = np.uint64(2**64 - 1)
_BATCH = 1 << 18  # bytes of texts that are hashed together: short ones would be mostly the calls

# Letters are those of ASCII, and what is beyond it: what is a letter there depends on Python's version.
_TOKEN = re.compile("[0-9A-Za-z_\x80-\U0010ffff]+|[^\0- ]")
_WORD = frozenset(b"0123456789_abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") | frozenset(range(128, 256))
_KINDS = bytes(1 if byte in _WORD else 2 if byte > ord(" ") else 0 for byte in range(256))


def tokens(text: str) -> list[str]:
    """The tokens of a document, in order.

    A token is a maximal run of ASCII letters, digits, underscores and characters beyond ASCII; or any other single
    character above U+0020. White space and control characters are between tokens.
    """
    return _TOKEN.findall(text)


def shingles(text: str, width: int = 5) -> np.ndarray:
    """The hashes of the stretches of `width` tokens, sorted, each once: uint64 [at least 1].

    A document with fewer tokens has one shingle, of all of them.
    """
    (found,) = shingles_of([text], width)
    return found


def shingles_of(texts: Iterable[str], width: int = 5) -> Iterator[np.ndarray]:
    """`shingles` of each text, in order: faster than one by one where texts are short."""
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text.encode("utf-8", "surrogatepass"))
        size += len(batch[-1]) + 1
        if size > _BATCH:
            yield from _shingles(batch, width)
            batch, size = [], 0
    yield from _shingles(batch, width)


def exact_key(text: str) -> str:
    """Hex hash of a document's content: the same for texts that differ in no more than line ends, white space before
    them or at the end, and a byte order mark."""
    return hashlib.blake2b(_normal(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class MinHash:
    """Signatures of sets.

    It is Fast Similarity Sketching (Dahlgaard, Knudsen and Thorup, arXiv 1704.04370): rounds in which every shingle is
    thrown into a random bin, and a bin keeps the smallest of the first round that reaches it. The entries
    of two sets are equal with the probability that is Jaccard's similarity, and the share of equal ones is as close to
    it as with that many permutations (their theorem 1); but a shingle is hashed about once, not once a permutation.

    Attributes:
        permutations: entries of a signature.
        seed: signatures of different seeds are not to be compared.
    """

    permutations: int = 256
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.permutations <= 1 << 16:
            raise ValueError(f"MinHash.permutations={self.permutations} must be between 1 and 65,536")

    def signature(self, shingles: np.ndarray) -> np.ndarray:
        """Of hashes, uint64 [at least 1], in any order: uint32 [permutations].

        Raises:
            ValueError: there are none.
        """
        if not len(shingles):
            raise ValueError("a set without elements has no signature")
        bins = np.full(self.permutations, _EMPTY, np.uint64)
        step = -(-6 * self.permutations // len(shingles))  # so many balls that one bin in 400 stays empty
        begin, rounds = 0, 2 * self.permutations
        while begin < rounds:
            end = min(rounds, begin + step)
            for piece in range(0, len(shingles), _PIECE):
                self._throw(shingles[piece : piece + _PIECE], begin, end, bins)
            if bins.max() != _EMPTY:
                break
            begin = end
        return bins.astype(np.uint32)

    def signatures(self, sets: Sequence[np.ndarray]) -> np.ndarray:
        """Those of several sets: uint32 [sets, permutations]."""
        found = np.empty((len(sets), self.permutations), np.uint32)
        for row, shingles in zip(found, sets, strict=True):
            row[:] = self.signature(shingles)
        return found

    def _throw(self, shingles: np.ndarray, begin: int, end: int, bins: np.ndarray) -> None:
        """The balls of rounds begin to end (not included), into the bins: round in the high half, value in the low."""
        values = ngram_hash.mixed((shingles ^ self._keys[begin:end, None]).ravel())
        if self.permutations & (self.permutations - 1):
            places = ((values >> 32) * np.uint64(self.permutations)) >> 32
        else:  # the same, by one operation
            places = values >> (65 - self.permutations.bit_length()) if self.permutations > 1 else values * 0
        if end > self.permutations:  # in the second half of the rounds all shingles go into the same bin, each in turn
            rounds = np.repeat(np.arange(begin, end), len(shingles))
            places = np.where(rounds < self.permutations, places, (rounds - self.permutations).astype(np.uint64))
        values &= np.uint64(0xFFFFFFFF)
        if end > 1:
            values |= np.repeat(np.arange(begin, end, dtype=np.uint64) << 32, len(shingles))
        np.minimum.at(bins, places.view(np.int64), values)

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        """What makes the rounds differ: uint64 [2 * permutations, 1]."""
        seed = ngram_hash.mixed(np.array([self.seed % (1 << 64)], np.uint64))
        return ngram_hash.mixed(seed + np.arange(1, 2 * self.permutations + 1, dtype=np.uint64))


@functools.lru_cache
def bands_and_rows(threshold: float, permutations: int) -> tuple[int, int]:
    """How to cut signatures into bands so that documents that are alike meet, and others do not.

    Two documents of similarity s meet with probability 1 - (1 - s^rows)^bands. The result has the smallest sum of the
    areas under it below the threshold (false positives) and above it up to 1 (false negatives), with
    bands * rows <= permutations. Where `edges_of_bucket` looks at who met, a threshold somewhat below its own finds
    more of the pairs near it and costs only comparisons.

    Raises:
        ValueError: a threshold that is not between 0 and 1.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"a threshold of similarity of {threshold} must be between 0 and 1")
    middles = (np.arange(1000) + 0.5) / 1000  # of the steps of the midpoint rule, on either side of the threshold
    below, above = threshold * middles, threshold + (1 - threshold) * middles
    best = (np.inf, 0, 0)
    for rows in range(1, permutations + 1):
        apart_below, apart_above = np.log1p(-(below**rows)), np.log1p(-(above**rows))
        for bands in range(1, permutations // rows + 1):
            false_positives = threshold * (1 - np.exp(bands * apart_below)).mean()
            false_negatives = (1 - threshold) * np.exp(bands * apart_above).mean()
            best = min(best, (false_positives + false_negatives, bands, rows))
    return best[1:]


def band_keys(signature: np.ndarray, bands: int, rows: int) -> list[bytes]:
    """The buckets of a signature: a key of 10 bytes for each band.

    Keys of different bands differ; those of the same band are equal where the rows are, and else by chance (2^-64).
    """
    factors, numbers = _band_tables(bands, rows)
    values = ngram_hash.mixed((signature[: bands * rows].reshape(bands, rows) * factors).sum(1, dtype=np.uint64))
    flat = values.astype(">u8").tobytes()
    return [number + flat[8 * band : 8 * band + 8] for band, number in enumerate(numbers)]


@functools.lru_cache
def _band_tables(bands: int, rows: int) -> tuple[np.ndarray, list[bytes]]:
    """Factors of the rows, uint64 [rows]; the bands' numbers."""
    factors = ngram_hash.mixed(np.arange(1, rows + 1, dtype=np.uint64)) | np.uint64(1)
    return factors, [band.to_bytes(2, "big") for band in range(bands)]


def similarity(signature_a: np.ndarray, signature_b: np.ndarray) -> float:
    """The estimate of Jaccard's similarity: the share of equal entries."""
    return float(np.mean(signature_a == signature_b))


def jaccard(shingles_a: np.ndarray, shingles_b: np.ndarray) -> float:
    """Jaccard's similarity itself, of two sorted sets of hashes."""
    shared = len(np.intersect1d(shingles_a, shingles_b, assume_unique=True))
    return shared / (len(shingles_a) + len(shingles_b) - shared)


def edges_of_bucket(
    members: Iterable[tuple[str, np.ndarray]], threshold: float, all_pairs_up_to: int = 64
) -> list[tuple[str, str]]:
    """The pairs of a bucket's members whose estimated similarity reaches the threshold, the smaller id first.

    Of a bucket of up to `all_pairs_up_to` members these are all such pairs. In a larger one only representatives are
    compared with the members, `all_pairs_up_to` of them at most, so that the work is linear in the members: the first
    by id is one, and so is the next that is not alike to any before it. What this may miss: two members neither of
    which is a representative are not compared, so that they are joined only by a representative that is alike to both;
    and once there are as many representatives as may be, members that none is alike to have no edge from this bucket.

    Args:
        members: (id, signature) in any order; of an id that is there more than once, one is taken.
        threshold: of the share of equal entries.

    Returns:
        Pairs in order, each once.
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
        for other in _alike(table[index], table[index + 1 :], threshold)
    }


def _pairs_with_representatives(table: np.ndarray, threshold: float, limit: int) -> set[tuple[int, int]]:
    edges = set()
    free = np.ones(len(table), bool)  # members that no representative is alike to
    for _ in range(limit):
        index = int(np.argmax(free))  # the first
        if not free[index]:
            break
        free[index] = False
        for other in map(int, _alike(table[index], table, threshold)):
            free[other] = False
            if other != index:
                edges.add((min(index, other), max(index, other)))
    return edges


def _alike(signature: np.ndarray, table: np.ndarray, threshold: float) -> np.ndarray:
    """The rows of a table of signatures whose similarity to one reaches the threshold."""
    equal = [np.count_nonzero(table[begin : begin + 1024] == signature, axis=1) for begin in range(0, len(table), 1024)]
    return np.flatnonzero(np.concatenate(equal) >= threshold * len(signature) - 1e-9)


def _normal(text: str) -> str:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(map(str.rstrip, lines)).rstrip()


def _shingles(batch: Sequence[bytes], width: int) -> Iterator[np.ndarray]:
    begins, _, hashes = ngram_hash.words(b"\n".join(batch), _KINDS)
    found = ngram_hash.grams(hashes, width)
    limits = np.cumsum([len(data) + 1 for data in batch])
    first = 0
    for end in map(int, np.searchsorted(begins, limits)):
        # of a short document all words, none included: it is no stretch of the words of the batch
        yield _unique(found[first : end - width + 1] if end - first >= width else ngram_hash.whole(hashes[first:end]))
        first = end


def _unique(values: np.ndarray) -> np.ndarray:
    """Sorted, each once; np.unique goes through a table of hashes, which takes ten times as long."""
    values = np.sort(values)
    return values[np.concatenate(([True], values[1:] != values[:-1]))]
