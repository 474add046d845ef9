"""What the seeds that are done show of each claim, and its pages as Markdown."""

import dataclasses
import datetime
import importlib.metadata
import math
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from result_file import paragraph, processor

from study.claim import Claim, Comparison, Estimate, Measure, Value, estimate, verdict
from study.engine import Task


@dataclasses.dataclass(frozen=True)
class Result:
    """A claim with its measured values.

    Attributes:
        claim: the claim.
        seeds: whose steps have all ended.
        table: (condition, measure) -> estimate.
        series: measure -> condition -> (x, estimate) of the points of its line.
        compared: the claim's comparisons, with the difference and the verdict; those whose values are there.
    """

    claim: Claim
    seeds: tuple[int, ...]
    table: dict[tuple[str, Measure], Estimate]
    series: dict[Measure, dict[str, list[tuple[float, Estimate]]]]
    compared: tuple[tuple[Comparison, Estimate, str], ...]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All claims.

    Attributes:
        results: of each claim.
        steps: number of steps, over all seeds.
        done: number of those that are done.
        minutes: of processor time that these took, of each seed.
        size: the size file.
    """

    results: tuple[Result, ...]
    steps: int
    done: int
    minutes: tuple[float, ...]
    size: str

    @property
    def progress(self) -> str:
        return f"{self.done} of {self.steps} steps"


def read(claims: Sequence[Claim], tasks: Sequence[Task]) -> Experiment:
    """Reads the values of every claim from the folders of the seeds that have all its steps."""
    done = [task for task in tasks if task.done]
    seconds = Counter[int]()
    for task in done:
        seconds[task.seed] += task.seconds
    minutes = tuple(seconds[seed] / 60 for seed in sorted(seconds))
    results = tuple(_result(claim, done) for claim in claims)
    return Experiment(results, len(tasks), len(done), minutes, tasks[0].setup.size)


def _result(claim: Claim, done: Sequence[Task]) -> Result:
    names = {step.name for step in claim.steps}
    own = [task for task in done if task.step.name in names]
    count = Counter(task.seed for task in own)
    folders = {task.seed: task.folder for task in own if count[task.seed] == len(names)}
    found = defaultdict[tuple[str, Measure, float | None], list[float]](list)
    for _, folder in sorted(folders.items()):
        values: dict[tuple[str, Measure, float | None], float] = {}
        for value in claim.measure(folder):
            values[_key(value)] = value.value
        for key, number in values.items():
            found[key].append(number)
    complete = {key: estimate(values) for key, values in found.items() if len(values) == len(folders)}
    series: dict[Measure, dict[str, list[tuple[float, Estimate]]]] = {}
    for (condition, measure, x), measured in complete.items():
        if x is not None:
            series.setdefault(measure, {}).setdefault(condition, []).append((x, measured))
    return Result(
        claim,
        tuple(sorted(folders)),
        {(condition, measure): each for (condition, measure, x), each in complete.items() if x is None},
        series,
        tuple(_compared(claim, complete)),
    )


def _key(value: Value) -> tuple[str, Measure, float | None]:
    return value.condition, value.measure, value.x


def _compared(
    claim: Claim, found: dict[tuple[str, Measure, float | None], Estimate]
) -> Iterator[tuple[Comparison, Estimate, str]]:
    for comparison in claim.comparisons:
        pair = [found.get((name, comparison.measure, comparison.x)) for name in (comparison.first, comparison.second)]
        if pair[0] is not None and pair[1] is not None:
            difference = estimate([b - a for a, b in zip(pair[0].values, pair[1].values, strict=True)])
            yield comparison, difference, verdict(comparison, difference)


def shown(value: float, measure: Measure, sign: bool = False) -> str:
    """A value with its unit."""
    plus = "+" if sign else ""
    if measure.unit == "%":
        return f"{100 * value:{plus}.1f}%"
    return f"{value:{plus}.3f}{' ' if measure.unit else ''}{measure.unit}"


def with_interval(measured: Estimate, measure: Measure, sign: bool = False) -> str:
    """A mean, its interval and the number of seeds."""
    if not math.isfinite(measured.half):
        return f"{shown(measured.mean, measure, sign)} (one seed)"
    low, high = shown(measured.low, measure, sign), shown(measured.high, measure, sign)
    return f"{shown(measured.mean, measure, sign)} ({low} to {high})"


def environment(experiment: Experiment) -> str:
    """Hardware, versions and the cost, in a sentence."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "optax"))
    minutes = ", ".join(f"{each:.0f}" for each in experiment.minutes) or "none"
    return (
        f"{datetime.date.today().isoformat()}; {processor()}, {os.cpu_count()} cores, one process on each; Python"
        f" {platform.python_version()}, {versions}; {experiment.size};"
        f" {experiment.progress}, minutes of one core by seed: {minutes}."
    )


_METHOD = (
    "Means over seeds, with 95% confidence intervals of Student's distribution, which are wide for three seeds. A seed"
    " determines the initial parameters, the order of the data and the samples. A difference is that of the same seed"
    " under both conditions. It is *shown* if its interval excludes 0, or, for an equality, if the interval is within"
    " the margin; otherwise it is *not shown*, which says nothing of larger models."
)


def markdown(experiment: Experiment) -> Iterator[str]:
    """The tables of all claims: lines of Markdown."""
    yield from paragraph(_METHOD)
    yield "| claim | paper | here | result |"
    yield "|---|---|---|---|"
    for result in experiment.results:
        yield f"| {result.claim.title} | {result.claim.source} | {_verdicts(result)} | {_seeds(result)} |"
    yield ""
    for result in experiment.results:
        yield from _section(result)


def _seeds(result: Result) -> str:
    return "1 seed" if len(result.seeds) == 1 else f"{len(result.seeds)} seeds"


def _verdicts(result: Result) -> str:
    if not result.compared:
        return "not measured"
    if len(result.seeds) == 1:
        return "one seed has no interval"
    count = Counter(found for _, _, found in result.compared)
    return ", ".join(f"{found} ({number} of {len(result.compared)})" for found, number in count.items())


def _section(result: Result) -> Iterator[str]:
    claim = result.claim
    yield f"## {claim.title}"
    yield ""
    yield from paragraph(f"{claim.source[0].upper()}{claim.source[1:]}. {claim.how} {claim.remark}")
    if not result.seeds:
        yield from paragraph("Not measured.")
        return
    measures = list(dict.fromkeys(measure for _, measure in result.table))
    if measures:
        yield f"| | {' | '.join(measure.name for measure in measures)} |"
        yield "|---|" + "---|" * len(measures)
        for condition in dict.fromkeys(condition for condition, _ in result.table):
            cells = (result.table.get((condition, measure)) for measure in measures)
            texts = (with_interval(cell, of) if cell else "" for cell, of in zip(cells, measures, strict=True))
            yield f"| {condition} | {' | '.join(texts)} |"
        yield ""
    for chart in claim.charts:
        yield from _points(result, chart.measure, chart.x_label)
    if result.compared:
        yield "| difference | of | mean and interval | the paper | |"
        yield "|---|---|---|---|---|"
        for comparison, difference, found in result.compared:
            at = "" if comparison.x is None else f" at {comparison.x:g}"
            interval = with_interval(difference, comparison.measure, sign=True)
            cells = (comparison.text, f"{comparison.measure.name}{at}", interval, comparison.expected, found)
            yield f"| {' | '.join(cells)} |"
        yield ""


def _points(result: Result, measure: Measure, x_label: str) -> Iterator[str]:
    lines = result.series.get(measure, {})
    xs = sorted({x for points in lines.values() for x, _ in points})
    if not xs or len(xs) > 12:
        return
    yield f"| {measure.name}, by {x_label} | {' | '.join(f'{x:.4g}' for x in xs)} |"
    yield "|---|" + "---|" * len(xs)
    for condition, points in lines.items():
        at = dict(points)
        yield f"| {condition} | {' | '.join(shown(at[x].mean, measure) if x in at else '' for x in xs)} |"
    yield ""


def result_file(experiment: Experiment) -> str:
    """The dated result file of benchmarks/."""
    lines = [
        "# The paper's claims in small",
        "",
        *paragraph(f"`python benchmarks/paper.py`, {environment(experiment)}"),
    ]
    return "\n".join([*lines, *markdown(experiment)]).rstrip() + "\n"


_INTRODUCTION = """Written by `make paper` (`benchmarks/paper.py`); do not edit. Every claim of the paper
(arXiv 2308.12950) that a model of a million parameters can show, by programs that run: it learns [exercises](data.md),
small functions that are composed as no function of its training data is, and tests run its programs in
[the sandbox](sandbox.md). The experiment uses the stage files of the published sizes, with the files of `gin/paper/`;
with another size file it is the same experiment for a larger model. It resumes where it was interrupted; a claim is
shown here once all of its steps have run."""


def docs_page(experiment: Experiment) -> str:
    """The page of docs/."""
    lines = ["# The paper's claims in small", "", *paragraph(_INTRODUCTION), *paragraph(environment(experiment))]
    return "\n".join([*lines, *markdown(experiment)]).rstrip() + "\n"
