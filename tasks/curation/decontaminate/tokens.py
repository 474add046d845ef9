"""Tokens of a text for decontamination, and n-grams that ignore the names of variables.

Tokens are words and single punctuation marks in lower case; of scripts without spaces between words, single characters
(tasks/curation/scripts.py). In a structural n-gram a variable is represented by how many tokens ago it was used in the
n-gram, so that consistent renaming does not change it.
"""

import functools
import re

import numpy as np

from tasks.curation import ngram_hash, scripts
from tasks.curation.decontaminate.hash_sets import HashSet
from tasks.curation.splitmix64 import mix

_EXCERPT = 120  # characters at most

_LETTERS = frozenset(b"_abcdefghijklmnopqrstuvwxyz") | frozenset(range(128, 256))
_DIGITS = frozenset(b"0123456789")
_KINDS = bytes(1 if byte in _LETTERS | _DIGITS else 2 if byte > ord(" ") else 0 for byte in range(256))
_IS_DIGIT = np.array([byte in _DIGITS for byte in range(256)])
# In a text inside JSON or a string; they would otherwise become parts of words.
_ESCAPES = (b"\\n", b"\\t", b"\\r")
_ESCAPED_CHARACTERS = re.compile(r"(?:\\u[0-9a-f]{4})+")

# Reserved words of widely used languages, and those that precede the name of a function in its definition.
_RESERVED = b"""
abstract and as assert async await boolean break byte case catch char class const continue def default del
delete do double elif else end enum except export extends extern false final finally float fn for foreach from
func function global goto if impl implements import in instanceof int interface is lambda let long loop match
mod module mut namespace new nil none nonlocal not null or package pass private protected pub public raise
repeat return self short signed sizeof static std string struct super switch template then this throw throws
true try type typedef typename typeof union unsafe unsigned until use using var virtual void volatile where
while with xor yield
"""
_DEFINING = b"def func function fn"

_VARIABLE = np.uint64(0x3C6EF372FE94F82B)  # the code of every variable


class Tokens:
    """The tokens of a text.

    Attributes:
        begins: the first byte of each token, int64 [tokens].
        hashes: the hash of each token, uint64 [tokens].
        is_punctuation: bool [tokens].
        words: the indices of the tokens that are words, int64 [words].
    """

    def __init__(self, data: bytes):
        self._data = data
        self.begins, self._classes, self.hashes = ngram_hash.hash_words(data, _KINDS)
        self._first_bytes = np.frombuffer(data, np.uint8)[self.begins]
        self.is_punctuation = self._classes == scripts.PUNCTUATION
        self.words = np.flatnonzero(~self.is_punctuation)

    def equals(self, mark: str) -> np.ndarray:
        """Which tokens are this punctuation mark: bool [tokens]."""
        return self._first_bytes == ord(mark)

    @functools.cached_property
    def word_count(self) -> int:
        """The number of words, where two characters of a script without spaces between words count as one."""
        return len(self.words) - int(np.count_nonzero(self._classes == scripts.CHARACTER)) // 2

    @functools.cached_property
    def is_number(self) -> np.ndarray:
        """Which tokens start with a digit: bool [tokens]."""
        return _IS_DIGIT[self._first_bytes]

    def excerpt(self, token: int) -> str:
        """The text from a token on, with white space normalized, at most _EXCERPT characters."""
        begin = int(self.begins[token])
        text = self._data[begin : begin + 4 * _EXCERPT].decode("utf-8", "replace")
        return " ".join(text.split())[:_EXCERPT]


def tokenize(text: str) -> Tokens:
    """Splits a text into tokens."""
    text = text.lower()
    if "\\u" in text:
        text = _ESCAPED_CHARACTERS.sub(_unescaped, text)
    data = text.encode("utf-8", "surrogatepass")
    if b"\\" in data:
        for escape in _ESCAPES:
            data = data.replace(escape, b"  ")
    return Tokens(data)


def _unescaped(match: re.Match[str]) -> str:
    """The characters of consecutive escapes: halves of surrogate pairs are combined."""
    units = bytes.fromhex(match[0].replace("\\u", ""))
    return units.decode("utf-16-be", "surrogatepass").lower()


def distinct_tokens(hashes: np.ndarray, counted: np.ndarray, n: int) -> np.ndarray:
    """The number of distinct counted tokens in each n-gram: int64 [tokens - n + 1].

    Args:
        hashes: uint64 [tokens], at least n.
        counted: which tokens are counted, bool [tokens].
    """
    previous = _previous_occurrence(hashes)
    begins = np.arange(len(hashes) - n + 1)
    stop = len(begins)
    return sum(
        ((previous[offset : offset + stop] < begins) & counted[offset : offset + stop]).astype(np.int64)
        for offset in range(n)
    )


def _previous_occurrence(hashes: np.ndarray) -> np.ndarray:
    """The index of the previous occurrence of each token, or -1: int64 [tokens]."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    previous = np.full(len(order), -1)
    previous[order[1:][same]] = order[:-1][same]
    return previous


# --- structural n-grams -----------------------------------------------------------------------------------------------


def variables(tokens: Tokens) -> np.ndarray:
    """Which tokens are treated as variables: bool [tokens].

    Words that are not reserved, not numbers, not attributes and not called; and the names of functions being defined.
    """
    reserved, defining = _keywords()
    fixed = np.zeros(len(tokens.hashes), bool)
    fixed[:-1] = tokens.equals("(")[1:]
    fixed[1:][defining.find(tokens.hashes[:-1])[0]] = False
    fixed[1:] |= tokens.equals(".")[:-1]
    fixed[reserved.find(tokens.hashes)[0]] = True
    return ~tokens.is_punctuation & ~tokens.is_number & ~fixed


@functools.lru_cache
def _keywords() -> tuple[HashSet, HashSet]:
    """The reserved words, and those that precede the name of a function in its definition."""

    def hash_set(words: bytes) -> HashSet:
        return HashSet(np.unique(ngram_hash.hash_words(words, _KINDS)[2]))

    return hash_set(_RESERVED), hash_set(_DEFINING)


def shape_sums(tokens: Tokens, variable: np.ndarray, n: int) -> np.ndarray:
    """Sums of n-grams in which all variables are equal (their shapes): uint64 [max(tokens - n + 1, 0)]."""
    return ngram_hash.ngram_sums(np.where(variable, _VARIABLE, tokens.hashes), n)


def structure_hashes(tokens: Tokens, variable: np.ndarray, begins: np.ndarray, n: int) -> np.ndarray:
    """Hashes of the structural n-grams that begin at these tokens: uint64 [begins]."""
    index = begins[:, None] + np.arange(n)
    hashes = tokens.hashes[index]
    distance = np.zeros(index.shape, np.uint64)  # to the previous occurrence within the n-gram
    for step in range(n - 1, 0, -1):
        distance[:, step:][hashes[:, step:] == hashes[:, :-step]] = step
    codes = np.where(variable[index], _VARIABLE + distance, hashes)
    return mix((codes * mix(np.arange(1, n + 1, dtype=np.uint64))).sum(1, dtype=np.uint64))
