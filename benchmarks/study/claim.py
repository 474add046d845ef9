"""Claims: what the paper says, the steps that show it in small, and the statistics over seeds."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from study.step import Step

# 97.5% quantiles of Student's distribution with 1 to 9 degrees of freedom: a mean over few seeds
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is measured.

    Attributes:
        name: such as "pass@1".
        unit: such as "%"; empty for none. Values in % are between 0 and 1.
        higher_is_better: otherwise lower.
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True


PASS = Measure("pass@1 of exercises", "%")
BITS = Measure("bits per byte of their canonical bodies", "", higher_is_better=False)


@dataclasses.dataclass(frozen=True)
class Value:
    """A measured value of one seed.

    Attributes:
        condition: what was varied, such as "FIM rate 0.9".
        measure: what was measured.
        value: its value.
        x: position on the x axis of the measure's chart; None: the value belongs to the table.
    """

    condition: str
    measure: Measure
    value: float
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A difference that the claim is about: `second` minus `first`, of one measure.

    Attributes:
        text: what it asks, in words.
        measure: compared.
        first, second: conditions.
        expected: what the paper found, of the second against the first: "better", "worse" or "equal".
        margin: for "equal": a difference below it is none.
        x: which values of a chart are compared; None: those of the table.
    """

    text: str
    measure: Measure
    first: str
    second: str
    expected: str
    margin: float = 0.0
    x: float | None = None


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of a measure: a line for each condition.

    Attributes:
        measure: on the y axis.
        x_label: of the x axis.
        log_x: whether it is logarithmic.
    """

    measure: Measure
    x_label: str
    log_x: bool = False


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        key: short name.
        title: the claim in a sentence.
        source: the table or figure, or the section.
        how: how it is shown here.
        steps: that show it.
        measure: from the folder of a seed's steps to its values.
        comparisons, charts: see there.
        remark: what a reader must know of the result; empty for nothing.
    """

    key: str
    title: str
    source: str
    how: str
    steps: tuple[Step, ...]
    measure: Callable[[Path], Iterator[Value]]
    comparisons: tuple[Comparison, ...] = ()
    charts: tuple[Chart, ...] = ()
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% confidence interval (Student's); infinite with a single seed.

    Attributes:
        mean: of the values.
        half: half of the interval.
        values: of each seed.
    """

    mean: float
    half: float
    values: tuple[float, ...]

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half


def estimate(values: Sequence[float]) -> Estimate:
    """The estimate of one value for each seed; at least one, at most ten."""
    if len(values) == 1:
        return Estimate(values[0], math.inf, tuple(values))
    half = _T[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half, tuple(values))


def verdict(comparison: Comparison, difference: Estimate) -> str:
    """Whether the difference agrees with what the paper found: "shown", "not shown" or "the opposite".

    A better or worse result is shown if the interval of the difference excludes 0. An equal one is shown if the
    interval is within the margin.
    """
    sign = 1 if comparison.measure.higher_is_better else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    if comparison.expected == "equal":
        if -comparison.margin <= low and high <= comparison.margin:
            return "shown"
        return "the opposite" if low > comparison.margin or high < -comparison.margin else "not shown"
    if comparison.expected == "worse":
        low, high = -high, -low
    return "shown" if low > 0 else "the opposite" if high < 0 else "not shown"
