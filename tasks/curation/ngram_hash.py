"""64-bit hashes of words and of word n-grams, computed for a complete text at a time with NumPy.

ASCII is split by a table of its bytes, and other characters by their script (scripts.py).

The hash of a word is the polynomial of its bytes in an odd base, modulo 2^64: prefix sums over a text give the hashes
of all its words by subtraction. The hash of an n-gram is the polynomial of the hashes of its words in another base,
mixed by SplitMix64. They do not depend on the machine or on the version of Python. They are not collision-resistant
against an adversary.
"""

import functools
from collections.abc import Iterator

import numpy as np

from tasks.curation import scripts
from tasks.curation.splitmix64 import mix

# Odd numbers without structure: digits of the golden ratio and of the square root of 2.
_BYTE_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0x6A09E667F3BCC909
_SECTION = 1 << 16  # bytes hashed at a time, so that the prefix sums (8 times as large) fit in a cache of 1 MiB


def hash_words(data: bytes, kinds: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits a text into words and hashes them.

    Args:
        data: text in UTF-8; half surrogates are accepted.
        kinds: for each of the 256 bytes: 0 a delimiter (a line end must be one), 1 part of a word, 2 a word by itself;
            1 for those that are not ASCII.

    Returns:
        Where each word begins, int64 [words]; its class, `kinds` of its first byte or that of scripts.py, uint8
        [words]; the hashes, uint64 [words].
    """
    parts = [_hash_section(data[begin:end], kinds, begin) for begin, end in _sections(data)]
    if len(parts) == 1:
        return parts[0]
    begins, classes, hashes = zip(*parts, strict=True)
    return np.concatenate(begins), np.concatenate(classes), np.concatenate(hashes)


def ngram_hashes(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hashes of all n-grams, from the hashes of the words: uint64 [max(words - n + 1, 0)]."""
    return mix(ngram_sums(hashes, n))


def ngram_sums(hashes: np.ndarray, n: int) -> np.ndarray:
    """`ngram_hashes` before mixing; adding `ngram_term` extends n-grams. uint64 [max(words - n + 1, 0)]."""
    if len(hashes) < n:
        return np.empty(0, np.uint64)
    bases = _powers(_WORD_BASE, n + 1, 0)[0]
    doubled = hashes  # the sums of 1, 2, 4, ... words
    sums, done = None, 0  # the sums of the `done` words that the lower bits of n stand for
    for bit in range(n.bit_length()):
        size = 1 << bit
        if n & size:
            sums = doubled if sums is None else sums[: len(doubled) - done] + doubled[done:] * bases[done]
            done += size
        if 2 * size <= n:
            doubled = doubled[:-size] + doubled[size:] * bases[size]
    assert sums is not None
    return sums


def ngram_term(hashes: np.ndarray, index: int) -> np.ndarray:
    """The terms of words in the sums of n-grams in which they are the word at `index`: uint64 [words]."""
    return hashes * _powers(_WORD_BASE, index + 1, 0)[0][index]


def sequence_hash(hashes: np.ndarray) -> np.ndarray:
    """The hash of all words as one n-gram; there may be none. uint64 [1]."""
    bases = _powers(_WORD_BASE, len(hashes), 0)[0]
    return mix(np.array([(hashes * bases).sum()], np.uint64))


def _sections(data: bytes) -> Iterator[tuple[int, int]]:
    """Splits a text at line ends into sections that are short unless a line is long."""
    begin = 0
    while len(data) - begin > _SECTION:
        end = data.rfind(b"\n", begin + _SECTION // 2, begin + _SECTION) + 1 or data.find(b"\n", begin + _SECTION) + 1
        if not end:
            break
        yield begin, end
        begin = end
    yield begin, len(data)


def _hash_section(data: bytes, kinds: bytes, offset: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kind = np.frombuffer(data.translate(kinds), np.uint8)
    if data.isascii():
        not_inside = ~(kind & 1)  # its lowest bit is 0 within a word
        first, last = kind.copy(), kind.copy()
        first[1:] &= not_inside[:-1]
        last[:-1] &= not_inside[1:]
        begins, ends = np.flatnonzero(first != 0), np.flatnonzero(last != 0) + 1
    else:
        kind = kind.copy()
        first = scripts.classify(np.frombuffer(data, np.uint8), kind)
        begins = np.flatnonzero(first)
        delimiter = kind == 0
        ends = np.flatnonzero(~delimiter & np.append(first[1:] | delimiter[1:], True)) + 1
    size = 1 << max(len(data), _SECTION).bit_length() - 1
    powers, inverses = _powers(_BYTE_BASE, size if size >= len(data) else 2 * size, 1)
    sums = np.empty(len(data) + 1, np.uint64)
    sums[0] = 0
    np.multiply(np.frombuffer(data, np.uint8), powers[: len(data)], out=sums[1:])
    np.cumsum(sums[1:], out=sums[1:])
    hashes = sums[ends]
    hashes -= sums[begins]
    hashes *= inverses[begins]
    return begins + offset, kind[begins], hashes


@functools.lru_cache(maxsize=64)
def _powers(base: int, count: int, inverse: int) -> tuple[np.ndarray, ...]:
    """The powers of a base from the 0th on, uint64 [count]; with `inverse` also those of its inverse modulo 2^64."""
    tables = []
    for factor in (base, pow(base, -1, 1 << 64))[: 1 + inverse]:
        table = np.full(count, factor, np.uint64)
        table[:1] = 1
        tables.append(np.cumprod(table))
    return tuple(tables)
