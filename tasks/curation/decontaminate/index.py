"""Finds evaluation problems in documents: a model must not be trained on the data that evaluates it.

There are two searches. The search by words compares lower-cased names, words and numbers in order, so that indentation,
line ends, punctuation and comment markers do not matter. The search by structure, for solutions only, compares all
tokens and identifies variables by where they were used before and not by name, so that renaming does not matter.

A document is a hit if it contains at least a given share of the n-grams of one text of a problem: its prompt, its
solution or its tests (Decontamination has the settings).
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from codellama_jax.config.curation import Decontamination
from tasks.curation import ngram_hash
from tasks.curation.decontaminate.hash_sets import NO_HASHES, HashSet, InvertedIndex, union
from tasks.curation.decontaminate.problems import Problem
from tasks.curation.decontaminate.references import (
    common_ngrams,
    reference_texts,
    structural_ngrams,
    word_ngrams,
)
from tasks.curation.decontaminate.tokens import Tokens, shape_sums, structure_hashes, tokenize, variables

_NO_INDICES = np.empty(0, np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """A problem that a document contains.

    Attributes:
        problem, part: the names of the problem and of its text; of the first problem, if several have the text.
        overlap: share of the text's n-grams that the document contains.
        excerpt: excerpt of the document from the first of these n-grams on, with single spaces as white space.
        renamed: whether it was found by structure and not by words.
    """

    problem: str
    part: str
    overlap: float
    excerpt: str
    renamed: bool = False


class Index:
    """An index of the n-grams of problems, to search for in documents. Its pickle has about 20 bytes per n-gram."""

    def __init__(self, problems: Iterable[Problem], settings: Decontamination | None = None):
        self.settings = settings = settings or Decontamination()
        texts = reference_texts(problems)
        self._names = [(text.problem, text.part) for text in texts]
        sizes = {len(text.tokens.words) for text in texts if text.tokens.word_count >= settings.shortest}
        self._lengths = sorted({min(size, settings.words) for size in sizes})  # of n-grams of words
        prefix = self._lengths[0] if self._lengths else 0
        words = [word_ngrams(text, settings, prefix) for text in texts]
        self._prefixes = HashSet(union(prefixes for prefixes, _ in words))
        ngrams = [ngrams for _, ngrams in words]
        self._words = InvertedIndex(ngrams, common_ngrams(ngrams, texts, settings.common))
        n = settings.structure
        solutions = [structural_ngrams(text, n) if n and text.solution else (NO_HASHES, NO_HASHES) for text in texts]
        self._shapes = HashSet(union(shapes for shapes, _ in solutions))
        ngrams = [ngrams for _, ngrams in solutions]
        self._structure = InvertedIndex(ngrams, common_ngrams(ngrams, texts, settings.common))

    def __len__(self) -> int:
        """The number of n-grams."""
        return len(self._words.hashes) + len(self._structure.hashes)

    def hits(self, text: str) -> list[Hit]:
        """The problems that a document contains: one hit for each of their texts, in the order of the problems."""
        tokens = tokenize(text)
        hits = self._by_words(tokens)
        if len(self._shapes.hashes):
            hits = self._by_structure(tokens) | hits
        return [hits[part] for part in sorted(hits)]

    def _by_words(self, tokens: Tokens) -> dict[int, Hit]:
        if not self._lengths:
            return {}
        hashes = tokens.hashes[tokens.words]
        length = self._lengths[0]
        prefix_sums = ngram_hash.ngram_sums(hashes, length)
        begins, _ = self._prefixes.find(prefix_sums)
        sums = prefix_sums[begins]
        positions, rows = [], []
        for n in self._lengths:  # extends the n-grams that may match word by word
            while length < n:
                complete = begins + length < len(hashes)
                begins, sums = begins[complete], sums[complete]
                sums += ngram_hash.ngram_term(hashes[begins + length], length)
                length += 1
            index, row = self._words.find(sums)
            positions.append(tokens.words[begins[index]])
            rows.append(row)
        return self._hits(self._words, tokens, positions, rows, self.settings.share, renamed=False)

    def _by_structure(self, tokens: Tokens) -> dict[int, Hit]:
        n = self.settings.structure
        variable = variables(tokens)
        begins, _ = self._shapes.find(shape_sums(tokens, variable, n))
        if not len(begins):
            return {}
        index, row = self._structure.find(structure_hashes(tokens, variable, begins, n))
        share = self.settings.structure_share
        return self._hits(self._structure, tokens, [begins[index]], [row], share, renamed=True)

    def _hits(
        self,
        ngrams: InvertedIndex,
        tokens: Tokens,
        positions: list[np.ndarray],
        rows: list[np.ndarray],
        min_share: float,
        renamed: bool,
    ) -> dict[int, Hit]:
        """The texts whose n-grams occur in a large enough share, with a hit for each.

        Args:
            positions, rows: the first token of each n-gram that occurs in the document, and its row in `ngrams`.
        """
        position, row = np.concatenate([*positions, _NO_INDICES]), np.concatenate([*rows, _NO_INDICES])
        if not len(row):
            return {}
        distinct, first = np.unique(row, return_index=True)
        which, texts = ngrams.texts_of(distinct)
        counts = np.bincount(texts, minlength=len(self._names))
        share = counts / np.maximum(ngrams.totals, 1)
        hits = {}
        for text in map(int, np.flatnonzero((share >= min_share) & (counts > 0))):
            begin = int(position[first[which[texts == text]]].min())
            hits[text] = Hit(*self._names[text], float(share[text]), tokens.excerpt(begin), renamed)
        return hits
