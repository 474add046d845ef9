"""Compares a model before and after a stage, on the same holes in files: what it has learned, and has forgotten."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from codellama_jax.evaluation.edit_similarity import edit_similarity
from codellama_jax.evaluation.paired import Difference, bootstrap, of_single_samples

# With fewer files, intervals resample the holes, because so few files say little about how files differ.
LEAST_FILES = 10

EXACT, SIMILARITY, BITS = "exact_match", "edit_similarity", "bits_per_byte"


@dataclasses.dataclass(frozen=True)
class Filled:
    """A hole that both models have filled.

    Attributes:
        corpus, kind: where the file is from, and the kind of hole.
        path: of the file.
        middle: the removed text.
        generated: the texts that the models generated, before and after.
        bits: of the middle, by the models before and after.
    """

    corpus: str
    kind: str
    path: str
    middle: str
    generated: tuple[str, str]
    bits: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Change:
    """A metric before and after.

    Attributes:
        corpus, kind, metric: what is measured. Exact matches ignore white space at the end.
        before, after: the means over the holes; of bits per byte, all bits over all bytes.
        difference: after minus before, with its interval.
        holes, files: number of them.
        unit: "file" or "hole": what the interval treats as independent.
    """

    corpus: str
    kind: str
    metric: str
    before: float
    after: float
    difference: Difference
    holes: int
    files: int
    unit: str

    def json(self) -> dict[str, Any]:
        """The change as JSON values."""
        return dataclasses.asdict(self)


def changes(filled: Sequence[Filled]) -> list[Change]:
    """The changes of each corpus and kind of hole, in the order in which they occur."""
    groups: dict[tuple[str, str], list[Filled]] = {}
    for hole in filled:
        groups.setdefault((hole.corpus, hole.kind), []).append(hole)
    return [
        _change(corpus, kind, metric, holes)
        for (corpus, kind), holes in groups.items()
        for metric in (EXACT, SIMILARITY, BITS)
    ]


def _change(corpus: str, kind: str, metric: str, holes: Sequence[Filled]) -> Change:
    first, second = (np.array([_values(metric, hole, when) for hole in holes]) for when in (0, 1))  # [holes, 2] each
    files = list(dict.fromkeys(hole.path for hole in holes))
    unit = "file" if len(files) >= LEAST_FILES else "hole"
    before, after = (float(_ratio(array.sum(0, keepdims=True))[0]) for array in (first, second))
    if metric == EXACT and (unit == "hole" or np.array_equal(first, second)):
        # without any difference, a bootstrap would claim to know that there is none
        difference = of_single_samples(list(first[:, 0] > 0), list(second[:, 0] > 0))
    else:
        if unit == "file":
            rows = np.array([files.index(hole.path) for hole in holes])
            first, second = _sums(first, rows), _sums(second, rows)
        difference = bootstrap(first, second, _ratio)
    return Change(corpus, kind, metric, before, after, difference, len(holes), len(files), unit)


def _sums(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The sums of the values of each file, [files, 2]."""
    return np.stack([np.bincount(rows, column) for column in values.T], axis=1)


def _values(metric: str, hole: Filled, when: int) -> tuple[float, float]:
    """Numerator and denominator of a metric of one hole."""
    generated, middle = hole.generated[when].rstrip(), hole.middle.rstrip()
    if metric == EXACT:
        return float(generated == middle), 1.0
    if metric == SIMILARITY:
        return edit_similarity(generated, middle), 1.0
    return hole.bits[when], float(len(hole.middle.encode()))


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


def summary(found: Sequence[Change]) -> list[str]:
    """One line for each corpus: the lines that are filled exactly, and the bits per byte, with their intervals."""
    names = {"held_out": "held-out files", "general": "general code"}
    lines = []
    for corpus in dict.fromkeys(change.corpus for change in found):
        parts = []
        for kind in dict.fromkeys(change.kind for change in found if change.corpus == corpus):
            of_kind = {change.metric: change for change in found if (change.corpus, change.kind) == (corpus, kind)}
            exact, bits = of_kind[EXACT], of_kind[BITS]
            parts.append(
                f"{kind}s filled exactly {exact.before:.1%} -> {exact.after:.1%}"
                f" ({_interval(exact.difference, 100)} points), bits per byte {bits.before:.3f} -> {bits.after:.3f}"
                f" ({_interval(bits.difference)})"
            )
        lines.append(f"{names.get(corpus, corpus)}: {'; '.join(parts)}")
    return lines


def _interval(difference: Difference, factor: int = 1) -> str:
    digits = 1 if factor > 1 else 3
    return f"95% {factor * difference.low:+.{digits}f} to {factor * difference.high:+.{digits}f}"
