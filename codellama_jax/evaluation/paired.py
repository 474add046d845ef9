"""Statistics of paired results: two runs of the same tasks.

Both runs meet the same easy and hard tasks, so the differences of the tasks vary less than the results themselves: a
paired difference is known more exactly than the intervals of both runs suggest.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from codellama_jax.evaluation.pass_at_k import Z_95

RESAMPLES = 10_000
_CELLS = 2**22  # indices that are drawn at a time; more would only fill the memory


@dataclasses.dataclass(frozen=True)
class Difference:
    """What a second run has more than a first one, of the mean over the tasks.

    Attributes:
        value: the difference.
        low, high: its 95% confidence interval.
        p: probability of a difference at least as large if the runs were equally good, two-sided.
        method: "mcnemar" or "bootstrap".
    """

    value: float
    low: float
    high: float
    p: float
    method: str


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact test: the two-sided p of a fair coin that falls on its sides this often.

    Args:
        first_only, second_only: number of tasks that only one run solved. Tasks that both or none solved do not count.
    """
    changed, fewer = int(first_only) + int(second_only), int(min(first_only, second_only))
    # Python's integers until the last division: a power of two of thousands of tasks fits neither a float nor NumPy's
    tail, ways = 0, 1  # ways in which the coin falls on one side so often
    for count in range(fewer + 1):
        tail += ways
        ways = ways * (changed - count) // (count + 1)
    return min(1.0, 2 * tail / 2**changed)


def of_single_samples(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """The difference of two shares of solved tasks, with one sample of each task.

    The interval is Agresti and Min's (2005, "Simple improved confidence intervals for comparing matched
    proportions"): Wald's, after half a task is added to each of the four combinations of results.

    Args:
        first, second: whether each task is solved, in the same order; at least one task.
    """
    first_only = sum(a and not b for a, b in zip(first, second, strict=True))
    second_only = sum(b and not a for a, b in zip(first, second, strict=True))
    tasks = len(first)
    more, fewer, total = second_only + 0.5, first_only + 0.5, tasks + 2
    middle = (more - fewer) / total
    half = Z_95 * math.sqrt(more + fewer - (more - fewer) ** 2 / total) / total
    value = (second_only - first_only) / tasks
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference(value, min(low, value), max(high, value), mcnemar(first_only, second_only), "mcnemar")


def bootstrap(
    first: np.ndarray, second: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray] = lambda sums: sums[:, 0]
) -> Difference:
    """The difference of a statistic of the tasks, by a paired bootstrap: tasks are drawn with replacement.

    The interval has the 2.5% and 97.5% percentiles of the resamples. p is twice the share of resamples on the other
    side of 0. The seed is fixed: the same results give the same interval.

    Args:
        first, second: the values of each task, [tasks, values], in the same order; at least one task.
        statistic: from means over tasks [resamples, values] to the statistic [resamples]; by default the mean of the
            first value.
    """
    tasks = len(first)
    rng = np.random.default_rng(0)
    both = np.stack([first, second]).astype(np.float64)  # [2, tasks, values]
    differences = []
    rows = max(1, _CELLS // tasks)
    for start in range(0, RESAMPLES, rows):
        drawn_tasks = rng.integers(tasks, size=(min(rows, RESAMPLES - start), tasks))
        means = both[:, drawn_tasks].mean(axis=2)  # [2, resamples, values]
        differences.append(statistic(means[1]) - statistic(means[0]))
    drawn = np.concatenate(differences)
    means = both.mean(axis=1, keepdims=True)
    value = float((statistic(means[1]) - statistic(means[0]))[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    below, above = np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (RESAMPLES + 1))
    return Difference(value, float(low), float(high), p, "bootstrap")
