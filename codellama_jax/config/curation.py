"""Settings of the training-set build, `python -m tasks.build`."""

import dataclasses
from collections.abc import Sequence

# Kinds of personal data and secrets, and what replaces them (tasks/curation/clean/redaction.py).
PLACEHOLDERS = {"email": "<EMAIL>", "key": "<KEY>", "private_key": "<KEY>", "password": "<PASSWORD>"}


@dataclasses.dataclass(frozen=True)
class Build:
    """How a training set is built.

    Attributes:
        seed: seed of the shuffle and of the MinHash permutations.
        redact: kinds of secrets to replace by placeholders (tasks/curation/clean/redaction.py): email, key,
            private_key, password.
        near: whether to remove near-duplicates in addition to exact duplicates.
        threshold: estimated Jaccard similarity of the sets of n-grams at which two documents are near-duplicates.
        permutations: number of MinHash permutations; more estimate the similarity better and take longer.
        ngram: tokens in an n-gram for near-deduplication.
        validation_share: share of the repositories (or of the documents without one) that is used for validation.
        group_by_repository: whether to concatenate the files of a repository into one document, each file after those
            that it imports, otherwise by path.
        repository_bytes: maximum size of such a document; a larger one is split between files.
        shard_bytes: approximate bytes of text in a shard. The shuffled documents are divided evenly among the shards.
        memory: bytes that Beam's embedded runner may use to group data by key; more data is grouped in several passes.
            It does not affect the result. Other runners spill to disk themselves.
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
            fix = f"raise Build.memory to {4 * self.shard_bytes} or lower Build.shard_bytes"
            raise ValueError(f"Build.shard_bytes={self.shard_bytes} must be at most a quarter of Build.memory: {fix}")


@dataclasses.dataclass(frozen=True)
class Quality:
    """Quality filters. A document that fails one is excluded, and counted under the filter's name.

    The limits on the mean line and the longest line (Filters.longest_line) and on the share of alphanumeric characters
    follow Codex (arXiv 2107.03374, section 3.1); the value of the share is CodeParrot's. The other filters are ours.

    Attributes:
        shortest: minimum number of characters that are not white space; None disables the filter.
        licences: allowed licences, such as "MIT" or "Apache-2.0", case-insensitive; "" allows documents with an unknown
            licence. None allows all.
        content_language: whether to exclude code whose content contradicts its extension: markup, or a script whose
            shebang names another language.
        mean_line: maximum mean length of the non-blank lines of code, in characters; None disables the filter.
        alphanumeric: minimum share of letters and digits among the characters of code; None disables the filter.
        minified: whether to exclude code with almost no white space.
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
    """When a document counts as containing an evaluation problem (tasks/curation/decontaminate/index.py).

    Attributes:
        words: words in an n-gram. Ten, as in Llama 2's contamination analysis (arXiv 2307.09288, A.6), where they are
            tokens: half of the solutions of HumanEval and MBPP have at most 22 words, so longer n-grams would be few.
        shortest: minimum number of words of a text; one with fewer words than `words` is a single n-gram. A character
            of a script without spaces between words is a word of an n-gram, and half a word of a text.
        share: a document matches a problem if it contains at least this share of the n-grams of one of its texts.
        structure: tokens in a structural n-gram; 0 disables the structural search.
        structure_share: like `share`, for structural n-grams, which match by chance more often.
        common: n-grams that occur in more problems of one file than this are ignored, such as a common instruction.
            Problems that share a complete text, such as the infilling variants of one problem, count as one.
        distinct: minimum number of distinct words, without numbers, in an n-gram: "0, 1, 2, 3 ..." identifies nothing.
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
