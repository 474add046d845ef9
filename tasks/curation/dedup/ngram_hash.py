"""64-bit hashes of words and of n-grams of words, whole texts at a time in NumPy.

A word's hash is the polynomial of its bytes in an odd base, modulo 2^64: sums over a text give those of all its words
by subtraction. An n-gram's is the polynomial of its words' hashes in another base, mixed. They are the same on any
machine and in any version of Python. They are not meant against somebody who looks for collisions.
"""

import functools
from collections.abc import Iterator

import numpy as np

# Odd, without structure: digits of the golden ratio, of the square roots of 2 and 3, as in SplitMix64 and SHA-2.
_BYTE_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0x6A09E667F3BCC909
_SECTION = 1 << 16  # bytes at a time: eight times as many for the sums stay in a cache of 1 MiB

# Steele, Lea and Flood's SplitMix64, with Stafford's constants (variant 13)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit integers that makes every bit depend on all: of uint64 [...], uint64 [...]."""
    values = values ^ (values >> 30)
    values *= _MIX[0]
    values ^= values >> 27
    values *= _MIX[1]
    values ^= values >> 31
    return values


def words(data: bytes, kinds: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The words of a text and their hashes.

    Args:
        kinds: of each of the 256 bytes: 0 between words (a line end has to be), 1 part of a word, 2 a word by itself.

    Returns:
        The places of the first bytes and those behind the last bytes, int64 [words]; the hashes, uint64 [words].
    """
    parts = [_section(data[begin:end], kinds, begin) for begin, end in _sections(data)]
    if len(parts) == 1:
        return parts[0]
    begins, ends, hashes = zip(*parts, strict=True)
    return np.concatenate(begins), np.concatenate(ends), np.concatenate(hashes)


def grams(hashes: np.ndarray, width: int) -> np.ndarray:
    """Hashes of all stretches of `width` words, by the words' hashes: uint64 [words - width + 1], [0] if fewer."""
    return mixed(sums(hashes, width))


def sums(hashes: np.ndarray, width: int) -> np.ndarray:
    """`grams` before they are mixed: those of wider stretches are these and `addend`s. uint64 [words - width + 1]."""
    if len(hashes) < width:
        return np.empty(0, np.uint64)
    bases = _powers(_WORD_BASE, width + 1, 0)[0]
    doubled, found, done = (
        hashes,
        None,
        0,
    )  # of 1, 2, 4 words and so on, and what the bits of `width` so far make of them
    for bit in range(width.bit_length()):
        size = 1 << bit
        if width & size:
            found = doubled if found is None else found[: len(doubled) - done] + doubled[done:] * bases[done]
            done += size
        if 2 * size <= width:
            doubled = doubled[:-size] + doubled[size:] * bases[size]
    assert found is not None
    return found


def addend(hashes: np.ndarray, place: int) -> np.ndarray:
    """What these words add to the sums of stretches that they end, `place` words behind the first: uint64 [words]."""
    return hashes * _powers(_WORD_BASE, place + 1, 0)[0][place]


def whole(hashes: np.ndarray) -> np.ndarray:
    """The hash of all of the words, none included: uint64 [1]. That of `grams` where they are one stretch."""
    bases = _powers(_WORD_BASE, len(hashes), 0)[0]
    return mixed(np.array([(hashes * bases).sum()], np.uint64))


def _sections(data: bytes) -> Iterator[tuple[int, int]]:
    """Where to cut a text, at line ends, so that a section is mostly short."""
    begin = 0
    while len(data) - begin > _SECTION:
        end = data.rfind(b"\n", begin + _SECTION // 2, begin + _SECTION) + 1 or data.find(b"\n", begin + _SECTION) + 1
        if not end:
            break
        yield begin, end
        begin = end
    yield begin, len(data)


def _section(data: bytes, kinds: bytes, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kind = np.frombuffer(data.translate(kinds), np.uint8)
    not_inside = ~(kind & 1)  # its lowest bit is off within a word
    first, last = kind.copy(), kind.copy()
    first[1:] &= not_inside[:-1]
    last[:-1] &= not_inside[1:]
    begins, ends = np.flatnonzero(first != 0), np.flatnonzero(last != 0) + 1
    size = 1 << max(len(data), _SECTION).bit_length() - 1
    powers, inverses = _powers(_BYTE_BASE, size if size >= len(data) else 2 * size, 1)
    sums = np.empty(len(data) + 1, np.uint64)
    sums[0] = 0
    np.multiply(np.frombuffer(data, np.uint8), powers[: len(data)], out=sums[1:])
    np.cumsum(sums[1:], out=sums[1:])
    hashes = sums[ends]
    hashes -= sums[begins]
    hashes *= inverses[begins]
    return begins + place, ends + place, hashes


@functools.lru_cache(maxsize=64)
def _powers(base: int, count: int, inverse: int) -> tuple[np.ndarray, ...]:
    """The powers of a base from the 0th on, uint64 [count]; with `inverse` those of its inverse modulo 2^64 as well."""
    tables = []
    for factor in (base, pow(base, -1, 1 << 64))[: 1 + inverse]:
        table = np.full(count, factor, np.uint64)
        table[:1] = 1
        tables.append(np.cumprod(table))
    return tuple(tables)
