"""Questions that are not used: duplicates of earlier ones, and those that contain evaluation problems.

The methods are those of the training-set build (tasks/curation), applied to one question after another: a question is
compared with the earlier ones that are kept.
"""

from collections import defaultdict

import numpy as np

from codellama_jax.config.curation import Build
from tasks.curation.clean.content_hash import content_hash
from tasks.curation.decontaminate.index import Index
from tasks.curation.dedup import minhash


class Questions:
    """The questions that are kept so far.

    Args:
        build: Build.near, threshold, permutations, ngram and seed.
        index: of the evaluation problems; None: there are none.
    """

    def __init__(self, build: Build, index: Index | None):
        self._build, self._index = build, index
        self._exact = set[str]()
        self._minhash = minhash.MinHash(build.permutations, build.seed)
        self._bands = minhash.bands_and_rows(build.threshold, build.permutations)
        self._buckets = defaultdict[bytes, list[int]](list)
        self._signatures = list[np.ndarray]()

    def add(self, text: str) -> str:
        """Adds the next question. Returns why it is not kept, or ""."""
        key = content_hash(text)
        if key in self._exact:
            return "exact_duplicate"
        self._exact.add(key)
        if self._build.near and self._is_near(text):
            return "near_duplicate"
        return "contaminated" if self.contaminated(text) else ""

    def contaminated(self, text: str) -> str:
        """The first evaluation problem that a text contains; "" if there is none."""
        hits = self._index.hits(text) if self._index is not None else []
        return hits[0].problem if hits else ""

    def _is_near(self, text: str) -> bool:
        signature = self._minhash.signature(minhash.shingles(text, self._build.ngram))
        keys = minhash.band_keys(signature, *self._bands)
        for other in dict.fromkeys(other for key in keys for other in self._buckets[key]):
            if minhash.similarity(signature, self._signatures[other]) >= self._build.threshold - 1e-9:
                return True
        for key in keys:
            self._buckets[key].append(len(self._signatures))
        self._signatures.append(signature)
        return False
