"""Evaluation problems in documents: what a model is measured with must not be in what it learns from.

Two ways to look. By words: lower-cased names, words and numbers in order, so that indentation, line ends, punctuation
and the marks of comments do not count; a stretch of `words` of them that a problem has too is evidence. By structure,
of solutions only: all tokens, with variables told apart by where they were used before and not by their names, so that
renaming them does not count.

A document is a hit if it has `share` of the evidence of one text of a problem: its prompt, its solution, its tests.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from codellama_jax.config.curation import Decontamination
from tasks.curation.decontaminate.problems import Problem as Problem
from tasks.curation.decontaminate.problems import is_solution
from tasks.curation.decontaminate.problems import problems as problems
from tasks.curation.dedup import ngram_hash

_EXCERPT = 120  # characters at most

_LETTERS = frozenset(b"_abcdefghijklmnopqrstuvwxyz") | frozenset(range(128, 256))
_DIGITS = frozenset(b"0123456789")
_KINDS = bytes(1 if byte in _LETTERS | _DIGITS else 2 if byte > ord(" ") else 0 for byte in range(256))
_IS_SIGN = np.array([kind == 2 for kind in _KINDS])
_IS_DIGIT = np.array([byte in _DIGITS for byte in range(256)])
_ESCAPES = (b"\\n", b"\\t", b"\\r")  # of a text within JSON or a string, where they would be parts of words

# Words that are no variable in one of the larger languages, and those that the name of a function follows.
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


_VARIABLE = np.uint64(0x3C6EF372FE94F82B)  # what stands for every variable
_STRUCTURE_DISTINCT = 5  # words of a stretch by structure, else a table of calls may be one
_NONE, _NO_PLACE = np.empty(0, np.uint64), np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """A problem that is in a document.

    Attributes:
        problem, part: name of the problem, and which of its texts; of problems with the same text, the first.
        overlap: share of the text's evidence that the document has.
        excerpt: of the document, where the evidence begins; white space as single spaces.
        renamed: it was found by structure and not by words.
    """

    problem: str
    part: str
    overlap: float
    excerpt: str
    renamed: bool = False


class Index:
    """The evidence of problems, to look for in documents. Pickles to about 20 bytes a stretch."""

    def __init__(self, problems: Iterable[Problem], evidence: Decontamination | None = None):
        evidence = evidence or Decontamination()
        self.settings = evidence
        texts = _texts_of(problems)
        self._names = [(text.problem, text.part) for text in texts]
        sizes = {len(text.tokens.words) for text in texts if len(text.tokens.words) >= evidence.shortest}
        self._widths = sorted({min(size, evidence.words) for size in sizes})
        first = self._widths[0] if self._widths else 0
        words = [_word_evidence(text, evidence, first) for text in texts]
        self._beginnings = _Sieve(_union(beginnings for beginnings, _ in words))
        self._words = _Stretches([whole for _, whole in words], texts, evidence.common)
        width = evidence.structure
        solutions = [_structure_evidence(text, width) if width and text.solution else None for text in texts]
        self._structure = _Stretches([s[1] if s else _NONE for s in solutions], texts, evidence.common)
        self._shapes = _Sieve(_union(s[0] for s in solutions if s))

    def __len__(self) -> int:
        """Number of stretches."""
        return len(self._words.hashes) + len(self._structure.hashes)

    def hits(self, text: str) -> list[Hit]:
        """The problems in a document: each of their texts that is there, in the order of the problems."""
        tokens = _read(text)
        found = self._by_words(tokens)
        if len(self._shapes.hashes):
            found = self._by_structure(tokens) | found
        return [found[part] for part in sorted(found)]

    def _by_words(self, tokens: "_Tokens") -> dict[int, Hit]:
        if not self._widths:
            return {}
        hashes = tokens.hashes[tokens.words]
        beginnings = ngram_hash.sums(hashes, self._widths[0])
        at, _ = self._beginnings.find(beginnings)
        sums = beginnings[at]
        places, rows = [], []
        width = self._widths[0]
        for wanted in self._widths:
            while width < wanted:
                whole = at + width < len(hashes)
                at, sums = at[whole], sums[whole]
                sums += ngram_hash.addend(hashes[at + width], width)
                width += 1
            place, row = self._words.find(sums)
            places.append(tokens.words[at[place]])
            rows.append(row)
        return self._enough(self._words, tokens, places, rows, self.settings.share, renamed=False)

    def _by_structure(self, tokens: "_Tokens") -> dict[int, Hit]:
        width = self.settings.structure
        variable = _variables(tokens)
        places, _ = self._shapes.find(ngram_hash.sums(np.where(variable, _VARIABLE, tokens.hashes), width))
        if not len(places):
            return {}
        place, row = self._structure.find(_told_apart(tokens, variable, places, width))
        return self._enough(
            self._structure, tokens, [places[place]], [row], self.settings.structure_share, renamed=True
        )

    def _enough(
        self,
        stretches: "_Stretches",
        tokens: "_Tokens",
        places: list[np.ndarray],
        rows: list[np.ndarray],
        least: float,
        renamed: bool,
    ) -> dict[int, Hit]:
        """The hits, by part, where these stretches are at these places."""
        place, row = np.concatenate([*places, _NO_PLACE]), np.concatenate([*rows, _NO_PLACE])
        if not len(row):
            return {}
        found, first = np.unique(row, return_index=True)
        which, parts = stretches.parts_of(found)
        counts = np.bincount(parts, minlength=len(self._names))
        share = counts / np.maximum(stretches.totals, 1)
        hits = {}
        for part in map(int, np.flatnonzero((share >= least) & (counts > 0))):
            begin = int(place[first[which[parts == part]]].min())
            hits[part] = Hit(*self._names[part], float(share[part]), tokens.excerpt(begin), renamed)
        return hits


def hits(text: str, index: Index) -> list[Hit]:
    """The problems in a document: each of their texts that is there, in the order of the problems."""
    return index.hits(text)


# --- what a text is read as -------------------------------------------------------------------------------------------


class _Tokens:
    """The tokens of a text: words, and single signs, in lower case.

    Attributes:
        begins, hashes: of each token: its first byte; of what it is.
        signs: of each token, whether it is one.
        words: indices of the others.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._bytes = np.frombuffer(data, np.uint8)
        self.begins, self._ends, self.hashes = ngram_hash.words(data, _KINDS)
        self._first = self._bytes[self.begins]
        self.signs = _IS_SIGN[self._first]
        self.words = np.flatnonzero(~self.signs)

    def is_sign(self, sign: str) -> np.ndarray:
        """Whether a token is this sign: bool [tokens]."""
        return self._first == ord(sign)

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """Whether a token begins with a digit: bool [tokens]."""
        return _IS_DIGIT[self._first]

    def excerpt(self, token: int) -> str:
        begin = int(self.begins[token])
        text = self._data[begin : begin + 4 * _EXCERPT].decode("utf-8", "replace")
        return " ".join(text.split())[:_EXCERPT]


def _read(text: str) -> _Tokens:
    data = text.encode("utf-8", "surrogatepass").lower()
    if b"\\" in data:
        for escape in _ESCAPES:
            data = data.replace(escape, b"  ")
    return _Tokens(data)


def _variables(tokens: _Tokens) -> np.ndarray:
    """Which tokens are taken for variables: bool [tokens].

    Words that are not reserved, no numbers, no attributes, and not called; and names of functions that are defined.
    """
    reserved, defining = _reserved()
    variable = ~tokens.signs & ~tokens.numbers
    kept = np.zeros(len(variable), bool)
    kept[:-1] = tokens.is_sign("(")[1:]
    kept[1:][defining.find(tokens.hashes[:-1])[0]] = False
    kept[1:] |= tokens.is_sign(".")[:-1]
    kept[reserved.find(tokens.hashes)[0]] = True
    return variable & ~kept


@functools.lru_cache
def _reserved() -> tuple["_Sieve", "_Sieve"]:
    """The reserved words, and those that the name of a function follows."""

    def sieve(words: bytes) -> _Sieve:
        return _Sieve(np.unique(ngram_hash.words(words, _KINDS)[2]))

    return sieve(_RESERVED), sieve(_DEFINING)


def _before(hashes: np.ndarray) -> np.ndarray:
    """The index of the same token before each; -1 for none: int64 [tokens]."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    before = np.full(len(order), -1)
    before[order[1:][same]] = order[:-1][same]
    return before


def _told_apart(tokens: _Tokens, variable: np.ndarray, places: np.ndarray, width: int) -> np.ndarray:
    """Hashes of the stretches that begin at these tokens: uint64 [places].

    In place of a variable is how many tokens ago it was used within the stretch.
    """
    at = places[:, None] + np.arange(width)
    hashes = tokens.hashes[at]
    ago = np.zeros(at.shape, np.uint64)
    for step in range(width - 1, 0, -1):
        ago[:, step:][hashes[:, step:] == hashes[:, :-step]] = step
    codes = np.where(variable[at], _VARIABLE + ago, hashes)
    return ngram_hash.mixed(
        (codes * ngram_hash.mixed(np.arange(1, width + 1, dtype=np.uint64))).sum(1, dtype=np.uint64)
    )


# --- what problems have -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Text:
    """A text of a problem. `group` is of problems that count as one."""

    problem: str
    part: str
    file: str
    group: int
    solution: bool
    tokens: _Tokens


def _texts_of(problems: Iterable[Problem]) -> list[_Text]:
    """The texts, each once."""
    first: dict[int, int] = {}  # whole text -> its index
    owner: dict[tuple[str, int], int] = {}  # the same in a file -> problem
    leader: list[int] = []  # of problems that count as one, an earlier one or itself
    rows: list[tuple[Problem, int, str, _Tokens]] = []
    for number, problem in enumerate(problems):
        leader.append(number)
        for part, text in problem.texts.items():
            tokens = _read(text)
            (key,) = ngram_hash.whole(tokens.hashes[tokens.words]).tolist()
            other = owner.setdefault((problem.file, key), number)
            leader[_led(leader, number)] = _led(leader, other)
            if first.setdefault(key, len(rows)) == len(rows):
                rows.append((problem, number, part, tokens))
    return [
        _Text(problem.name, part, problem.file, _led(leader, number), is_solution(part), tokens)
        for problem, number, part, tokens in rows
    ]


def _led(leader: list[int], number: int) -> int:
    while leader[number] != number:
        number = leader[number]
    return number


def _union(sets: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([_NONE, *sets]))


def _word_evidence(text: _Text, evidence: Decontamination, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the stretches of words that count: of their first words, and whole: uint64, the latter each once."""
    words = text.tokens.words
    width = min(len(words), evidence.words)
    if width < evidence.shortest:
        return _NONE, _NONE
    hashes = text.tokens.hashes[words]
    counts = np.flatnonzero(_distinct(hashes, ~text.tokens.numbers[words], width) >= evidence.distinct)
    return ngram_hash.sums(hashes, first)[counts], np.unique(ngram_hash.sums(hashes, width)[counts])


def _structure_evidence(text: _Text, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the stretches by structure that count: all variables alike, and told apart."""
    tokens = text.tokens
    if len(tokens.hashes) < width:
        return _NONE, _NONE
    variable = _variables(tokens)
    shapes = ngram_hash.sums(np.where(variable, _VARIABLE, tokens.hashes), width)
    counts = _distinct(tokens.hashes, ~tokens.signs, width) >= _STRUCTURE_DISTINCT
    places = np.flatnonzero(counts)
    return shapes[places], np.unique(_told_apart(tokens, variable, places, width))


def _distinct(hashes: np.ndarray, counted: np.ndarray, width: int) -> np.ndarray:
    """How many different tokens of those that are counted each stretch has: int64 [tokens - width + 1]."""
    before = _before(hashes)
    starts = np.arange(len(hashes) - width + 1)
    stop = len(starts)
    return sum(
        ((before[step : step + stop] < starts) & counted[step : step + stop]).astype(np.int64) for step in range(width)
    )


class _Sieve:
    """A set of hashes, asked which of many are in it.

    Attributes:
        hashes: uint64, sorted, each once.
    """

    def __init__(self, hashes: np.ndarray):
        self.hashes = hashes

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_table"}  # 30 times as large

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, int]:
        """Whether there is a hash that begins with these bits, and how many bits do not count."""
        bits = min(24, max(8, 5 + len(self.hashes).bit_length()))
        table = np.zeros(1 << bits, bool)
        table[(self.hashes >> (64 - bits)).astype(np.intp)] = True
        return table, 64 - bits

    def maybe(self, values: np.ndarray) -> np.ndarray:
        """Indices of the values that are in the set, and of some 2% of the others."""
        table, rest = self._table
        return table[(values >> rest).view(np.int64)].nonzero()[0]

    def find(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values in the set: their indices, and where in `hashes` they are."""
        places = self.maybe(values)
        rows = np.searchsorted(self.hashes, values[places])
        found = self.hashes[np.minimum(rows, len(self.hashes) - 1)] == values[places] if len(self.hashes) else rows > 0
        return places[found], rows[found]


class _Stretches(_Sieve):
    """The stretches of texts, and which texts have them.

    Attributes:
        totals: number of stretches of each text.
    """

    def __init__(self, stretches: list[np.ndarray], texts: list[_Text], common: int):
        hashes = np.concatenate([_NONE, *stretches])
        parts = np.repeat(np.arange(len(stretches), dtype=np.int32), list(map(len, stretches)))
        kept = ~np.isin(hashes, _in_many(hashes, parts, texts, common))
        hashes, parts = hashes[kept], parts[kept]
        order = np.argsort(hashes, kind="stable")
        unique, begins = np.unique(hashes[order], return_index=True)
        super().__init__(unique)
        self.totals = np.bincount(parts, minlength=len(stretches))
        self._parts, self._begins = parts[order], np.append(begins, len(parts)).astype(np.int32)

    def parts_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts that have these stretches: for each pair, the index into `rows`, and the text."""
        counts = self._begins[rows + 1] - self._begins[rows]
        which = np.repeat(np.arange(len(rows)), counts)
        steps = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self._parts[self._begins[rows][which] + steps]


def _in_many(hashes: np.ndarray, parts: np.ndarray, texts: list[_Text], common: int) -> np.ndarray:
    """The hashes that more than so many problems of one file have."""
    numbers = {file: number for number, file in enumerate(dict.fromkeys(text.file for text in texts))}
    files = np.array([numbers[text.file] for text in texts], np.int64)[parts]
    groups = np.array([text.group for text in texts], np.int64)[parts]
    order = np.lexsort((groups, files, hashes))
    hashes, files, groups = hashes[order], files[order], groups[order]
    same = (hashes[1:] == hashes[:-1]) & (files[1:] == files[:-1])
    again = same & (groups[1:] == groups[:-1])
    kept = np.concatenate(([True], ~again))[: len(hashes)]
    hashes, files = hashes[kept], files[kept]
    starts = np.flatnonzero(
        np.concatenate(([True], (hashes[1:] != hashes[:-1]) | (files[1:] != files[:-1])))[: len(hashes)]
    )
    return np.unique(hashes[starts[np.diff(np.append(starts, len(hashes))) > common]])
