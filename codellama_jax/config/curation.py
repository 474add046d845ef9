"""What a build can be told beside its sources. gin binds it."""

import dataclasses
from collections.abc import Sequence

# Kinds of personal data and secrets, and what stands in their place (tasks/curation/clean/redaction.py).
PLACEHOLDERS = {"email": "<EMAIL>", "key": "<KEY>", "private_key": "<KEY>", "password": "<PASSWORD>"}


@dataclasses.dataclass(frozen=True)
class Build:
    """Attributes:
    seed: of the shuffle, the split and the permutations.
    redact: kinds of what is replaced by a placeholder (tasks/curation/clean/redaction.py): email, key,
        private_key, password.
    near: whether near-duplicates are left out, not only exact ones.
    threshold: estimated Jaccard similarity of the sets of n-grams from which on two documents are near-duplicates.
    permutations: of MinHash; the more, the better the estimate and the dearer.
    ngram: tokens of an n-gram of near-deduplication.
    validation_share: share of the repositories (of documents where none is known) that is kept for validation.
    group_by_repository: a repository's files become one document, each after those it imports, else by path.
    repository_bytes: a repository's document that would be longer is cut between files.
    shard_bytes: of text in a shard, about: shards are equal shares of the documents, in a random order.
    memory: bytes that Beam's embedded runner may hold of what documents exchange; more is done in several passes. It
        does not shape the result. Other runners spill to disk themselves.
    """

    seed: int = 0
    redact: Sequence[str] = tuple(PLACEHOLDERS)
    near: bool = True
    threshold: float = 0.85
    permutations: int = 256
    ngram: int = 5
    validation_share: float = 0.005
    group_by_repository: bool = False
    repository_bytes: int = 4 << 20
    shard_bytes: int = 64 << 20
    memory: int = 1 << 30

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"Build.seed={self.seed} must be at least 0")
        if not 0 < self.threshold < 1:
            raise ValueError(f"Build.threshold={self.threshold} must be above 0 and below 1")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"Build.validation_share={self.validation_share} must be at least 0 and below 1")
        if unknown := [kind for kind in self.redact if kind not in PLACEHOLDERS]:
            raise ValueError(f"Build.redact names {unknown[0]!r}: the kinds are {', '.join(PLACEHOLDERS)}")
        for field in ("permutations", "ngram", "repository_bytes", "shard_bytes", "memory"):
            if getattr(self, field) < 1:
                raise ValueError(f"Build.{field}={getattr(self, field)} must be at least 1")
        if self.shard_bytes > self.memory / 4:
            cure = f"raise Build.memory to {4 * self.shard_bytes} or lower Build.shard_bytes"
            raise ValueError(f"Build.shard_bytes={self.shard_bytes} must be at most a quarter of Build.memory: {cure}")


@dataclasses.dataclass(frozen=True)
class Quality:
    """Which documents are left out of a training set, and counted under the name of the filter.

    The mean and the longest line (that one is Filters.longest_line) and the share of alphanumeric characters are as in
    Codex (arXiv 2107.03374, section 3.1), the share's value from CodeParrot; the rest is ours.

    Attributes:
        shortest: characters that are not white space that a document has at least; None takes any.
        licences: names of licences that are taken (such as "MIT" or "Apache-2.0", in any case of letters), of which a
            document must have one; "" is that of documents whose licence is not known. None takes all.
        content_language: whether code is left out that is not what its extension says: markup, or a script of another
            language by its first line.
        mean_line: of code, the longest mean of the lines' lengths, in characters, blank lines not counted; None takes
            any.
        alphanumeric: of code, the least share of letters and digits among the characters; None takes any.
        minified: whether code is left out that has almost no white space.
    """

    shortest: int | None = 20
    licences: Sequence[str] | None = None
    content_language: bool = True
    mean_line: float | None = 100
    alphanumeric: float | None = 0.25
    minified: bool = True

    def __post_init__(self):
        for field in ("shortest", "mean_line"):
            limit = getattr(self, field)
            if limit is not None and limit < 1:
                raise ValueError(f"Quality.{field}={limit} must be at least 1, or None")
        if self.alphanumeric is not None and not 0 <= self.alphanumeric <= 1:
            raise ValueError(f"Quality.alphanumeric={self.alphanumeric} must be between 0 and 1, or None")
        if isinstance(self.licences, str):
            raise ValueError(f"Quality.licences={self.licences!r} must be a sequence of names, or None")


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """What counts as evidence.

    Attributes:
        words: of a stretch. Ten, as in Llama 2's study of contamination (arXiv 2307.09288, A.6), there of its tokens:
            half of the solutions of HumanEval and MBPP have no more than 22, so that a wider one would leave them few.
        shortest: a text of fewer words than `words` is one stretch if it has so many.
        share: of a text's stretches that a document has to have.
        structure: tokens of a stretch by structure; 0 does not look at structure.
        structure_share: the same as `share`, of stretches by structure, which are more often met by chance.
        common: stretches in more problems of one file than this are no evidence: what all its problems begin with.
            Problems that have a whole text in common, as the infilling forms of one problem do, count as one.
        distinct: words, not numbers, that a stretch must have for evidence: "0, 1, 2, 3 ..." is anybody's.
    """

    words: int = 10
    shortest: int = 5
    share: float = 0.3
    structure: int = 16
    structure_share: float = 0.5
    common: int = 3
    distinct: int = 3

    def __post_init__(self):
        if not 1 <= self.distinct <= self.shortest <= self.words:
            raise ValueError("Decontamination: 1 <= distinct <= shortest <= words must hold")
        for field in ("share", "structure_share"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(f"Decontamination.{field}={getattr(self, field)} must be above 0 and at most 1")
