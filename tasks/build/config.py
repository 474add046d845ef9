"""What a build can be told beside its sources. gin binds it."""

import dataclasses
from collections.abc import Sequence

from tasks.build.redaction import PLACEHOLDERS


@dataclasses.dataclass(frozen=True)
class Build:
    """Attributes:
    seed: of the shuffle, the split and the permutations.
    redact: kinds of what is replaced by a placeholder (tasks/build/redaction.py): email, key, private_key, password.
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
