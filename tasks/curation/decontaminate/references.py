"""The texts of evaluation problems, and which of their n-grams identify them."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from codellama_jax.config.curation import Decontamination
from tasks.curation import ngram_hash
from tasks.curation.decontaminate import hash_sets
from tasks.curation.decontaminate.hash_sets import NO_HASHES
from tasks.curation.decontaminate.problems import Problem, is_solution
from tasks.curation.decontaminate.tokens import (
    Tokens,
    distinct_tokens,
    shape_sums,
    structure_hashes,
    tokenize,
    variables,
)

_MIN_STRUCTURE_WORDS = (
    5  # minimum of distinct words in a structural n-gram: with fewer, it could match any table of calls
)


@dataclasses.dataclass(frozen=True)
class ReferenceText:
    """A text of a problem: a prompt, a solution, tests.

    Attributes:
        problem, part: the names of the problem and of the text.
        file: the file of the problem.
        group: number of a group of problems that count as one because they share a text.
        solution: whether it is a solution.
    """

    problem: str
    part: str
    file: str
    group: int
    solution: bool
    tokens: Tokens


def reference_texts(problems: Iterable[Problem]) -> list[ReferenceText]:
    """The texts of problems, without duplicates."""
    first: dict[int, int] = {}  # hash of a text -> its index
    owner: dict[tuple[str, int], int] = {}  # (file, hash of a text) -> problem
    parents: list[int] = []  # union-find forest of the problems
    rows: list[tuple[Problem, int, str, Tokens]] = []
    for number, problem in enumerate(problems):
        parents.append(number)
        for part, text in problem.texts.items():
            tokens = tokenize(text)
            (key,) = ngram_hash.sequence_hash(tokens.hashes[tokens.words]).tolist()
            other = owner.setdefault((problem.file, key), number)
            parents[_root(parents, number)] = _root(parents, other)
            if first.setdefault(key, len(rows)) == len(rows):
                rows.append((problem, number, part, tokens))
    return [
        ReferenceText(problem.name, part, problem.file, _root(parents, number), is_solution(part), tokens)
        for problem, number, part, tokens in rows
    ]


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        number = parents[number]
    return number


def word_ngrams(text: ReferenceText, settings: Decontamination, prefix: int) -> tuple[np.ndarray, np.ndarray]:
    """The n-grams of words to index: sums of their first `prefix` words, and sums of the n-grams without duplicates.

    An n-gram has Decontamination.words words, or all words of a shorter text. Both uint64.
    """
    words = text.tokens.words
    n = min(len(words), settings.words)
    if text.tokens.word_count < settings.shortest:
        return NO_HASHES, NO_HASHES
    hashes = text.tokens.hashes[words]
    distinct = distinct_tokens(hashes, ~text.tokens.is_number[words], n)
    counts = np.flatnonzero(distinct >= settings.distinct)
    return ngram_hash.ngram_sums(hashes, prefix)[counts], np.unique(ngram_hash.ngram_sums(hashes, n)[counts])


def structural_ngrams(text: ReferenceText, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The structural n-grams to index: their shapes, and their hashes without duplicates. Both uint64."""
    tokens = text.tokens
    if len(tokens.hashes) < n:
        return NO_HASHES, NO_HASHES
    variable = variables(tokens)
    distinct = distinct_tokens(tokens.hashes, ~tokens.is_punctuation, n)
    begins = np.flatnonzero(distinct >= _MIN_STRUCTURE_WORDS)
    hashes = structure_hashes(tokens, variable, begins, n)
    return shape_sums(tokens, variable, n)[begins], np.unique(hashes)


def common_ngrams(ngrams: list[np.ndarray], texts: list[ReferenceText], limit: int) -> np.ndarray:
    """The n-grams that more than `limit` groups of problems of one file contain: uint64, sorted.

    Args:
        ngrams: the hashes of the n-grams of each text, without duplicates.
    """
    hashes, owners = np.concatenate([NO_HASHES, *ngrams]), hash_sets.owners(ngrams)
    numbers = {file: number for number, file in enumerate(dict.fromkeys(text.file for text in texts))}
    files = np.array([numbers[text.file] for text in texts], np.int64)[owners]
    groups = np.array([text.group for text in texts], np.int64)[owners]
    order = np.lexsort((groups, files, hashes))
    hashes, files, groups = hashes[order], files[order], groups[order]
    same_file = (hashes[1:] == hashes[:-1]) & (files[1:] == files[:-1])
    repeated = same_file & (groups[1:] == groups[:-1])
    kept = np.concatenate(([True], ~repeated))[: len(hashes)]
    hashes, files = hashes[kept], files[kept]
    changed = (hashes[1:] != hashes[:-1]) | (files[1:] != files[:-1])
    starts = np.flatnonzero(np.concatenate(([True], changed))[: len(hashes)])
    return np.unique(hashes[starts[np.diff(np.append(starts, len(hashes))) > limit]])
