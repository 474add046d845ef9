"""Sets of 64-bit hashes that are searched for many values at a time, and an inverted index from n-grams to texts."""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

NO_HASHES = np.empty(0, np.uint64)


def union(sets: Iterable[np.ndarray]) -> np.ndarray:
    """The hashes of several sets, sorted, without duplicates: uint64."""
    return np.unique(np.concatenate([NO_HASHES, *sets]))


class HashSet:
    """A set of hashes.

    Attributes:
        hashes: uint64, sorted, without duplicates.
    """

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}  # 30 times as large

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, int]:
        """Whether a hash with these leading bits exists, and the number of the other bits."""
        bits = min(24, max(8, 5 + len(self.hashes).bit_length()))
        table = np.zeros(1 << bits, bool)
        table[(self.hashes >> (64 - bits)).astype(np.intp)] = True
        return table, 64 - bits

    def _candidates(self, values: np.ndarray) -> np.ndarray:
        """The indices of the values that are in the set, and of about 2% of the others."""
        table, rest = self._table
        return table[(values >> rest).view(np.int64)].nonzero()[0]

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The indices of the values that are in the set, and the index of each in `hashes`."""
        index = self._candidates(values)
        rows = np.searchsorted(self.hashes, values[index])
        if len(self.hashes):
            present = self.hashes[np.minimum(rows, len(self.hashes) - 1)] == values[index]
        else:
            present = np.zeros(len(rows), bool)
        return index[present], rows[present]


class InvertedIndex(HashSet):
    """A set of n-grams with the texts that contain each.

    Attributes:
        totals: the number of n-grams of each text, int64 [texts].
    """

    def __init__(self, ngrams: list[np.ndarray], excluded: np.ndarray):
        """Builds the index.

        Args:
            ngrams: the hashes of the n-grams of each text, without duplicates.
            excluded: n-grams that are not indexed.
        """
        hashes = np.concatenate([NO_HASHES, *ngrams])
        texts = owners(ngrams)
        kept = ~np.isin(hashes, excluded)
        hashes, texts = hashes[kept], texts[kept]
        order = np.argsort(hashes, kind="stable")
        unique, begins = np.unique(hashes[order], return_index=True)
        super().__init__(unique)
        self.totals = np.bincount(texts, minlength=len(ngrams))
        self._texts, self._begins = texts[order], np.append(begins, len(texts)).astype(np.int32)

    def texts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts that contain these n-grams: for each pair, the index into `rows` and the text."""
        counts = self._begins[rows + 1] - self._begins[rows]
        which = np.repeat(np.arange(len(rows)), counts)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._texts[self._begins[rows][which] + offset]


def owners(ngrams: list[np.ndarray]) -> np.ndarray:
    """The text of each n-gram where the n-grams of all texts are concatenated: int32 [n-grams]."""
    return np.repeat(np.arange(len(ngrams), dtype=np.int32), list(map(len, ngrams)))
