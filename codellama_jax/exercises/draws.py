"""Random numbers that are the same in every process, on every machine and with every version of Python."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

_MASK_64 = 2**64 - 1


def hash_of(*parts: object) -> int:
    """64 bits that depend on the texts of the parts."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def fraction(*parts: object) -> float:
    """A hash as a number in [0, 1)."""
    return hash_of(*parts) / 2**64


class Draws:
    """Draws from a seed. Of random.Random only random() is used: the others may differ between versions of Python."""

    def __init__(self, *seed: object):
        self._random = random.Random(hash_of(*seed)).random

    def fraction(self) -> float:
        """In [0, 1)."""
        return self._random()

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """Between low and high, both included."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._random() * len(options))]


def permuted(index: int, size: int, *seed: object) -> int:
    """Where a pseudo-random permutation of range(size) takes an index: a Feistel network, repeated until in range."""
    bits = ((size - 1).bit_length() + 1) // 2
    mask, key = (1 << bits) - 1, hash_of(*seed)
    value = index
    while True:
        left, right = value >> bits, value & mask
        for turn in range(1, 5):
            mixed = ((right + turn) * 0x9E3779B97F4A7C15 ^ key) * 0xD6E8FEB86659FD93 & _MASK_64
            left, right = right, left ^ (mixed >> 32 & mask)
        value = left << bits | right
        if value < size:
            return value
