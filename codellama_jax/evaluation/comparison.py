"""Compares two runs of the same benchmarks, task by task."""

import dataclasses
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation import fingerprint
from codellama_jax.evaluation.benchmark import KS
from codellama_jax.evaluation.paired import Difference, bootstrap, of_single_samples
from codellama_jax.evaluation.pass_at_k import pass_at_k
from codellama_jax.evaluation.sample_index import Entry, SampleIndex
from codellama_jax.runtime import filesystem

Tasks = Mapping[str, Sequence[Entry]]
COMPARED = ("problems", "settings")  # what two runs must share; they may differ in everything else


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder of an evaluation.

    Attributes:
        path: the folder.
        results: name of a benchmark -> its results.
        label: names the run in reports.
    """

    path: Path
    results: Mapping[str, Mapping[str, Any]]
    label: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of both runs, over the tasks that both have."""

    name: str
    first: float
    second: float
    difference: Difference


@dataclasses.dataclass(frozen=True)
class Changed:
    """A task that one run solves more often.

    Attributes:
        task_id: the task.
        first, second: share of the samples that passed.
        samples: a sample of each run to show: one that passed of the better run, one that failed of the other.
    """

    task_id: str
    first: float
    second: float
    samples: tuple[Entry, Entry]


@dataclasses.dataclass(frozen=True)
class Compared:
    """The comparison of a variant of a benchmark.

    Attributes:
        name, variant: what is compared.
        tasks: number of tasks that both runs have; of the others there are `first_only` and `second_only`.
        metrics: the metrics.
        changed: the tasks whose share of passed samples differs, the largest differences first.
        solved: number of tasks by (solved by the first, solved by the second): whether any sample passed.
        indices: the samples of both runs.
    """

    name: str
    variant: str
    tasks: int
    first_only: int
    second_only: int
    metrics: Sequence[Metric]
    changed: Sequence[Changed]
    solved: Mapping[tuple[bool, bool], int]
    indices: tuple[SampleIndex, SampleIndex]


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Reads the results in folders, which are labelled by their names, or by their paths if names are equal.

    Raises:
        UserError: a folder has no results, or two are the same.
    """
    if len({filesystem.absolute(path) for path in paths}) < len(paths):
        raise UserError("--compare names a folder twice", EXIT_USAGE)
    distinct = len({path.name for path in paths}) == len(paths)
    return [_read_run(path, path.name if distinct and path.name else str(path)) for path in paths]


def _read_run(path: Path, label: str) -> Run:
    file = path / "results.json"
    if not filesystem.exists(file):
        raise UserError(f"{file} does not exist: --compare names --out folders of evaluations", EXIT_USAGE)
    try:
        results = json.loads(filesystem.read_text(file))
        if not isinstance(results, dict) or not all(isinstance(found, dict) for found in results.values()):
            raise ValueError("it is not an object of objects")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): evaluate again with the same command") from None
    return Run(path, results, label)


def compare(first: Run, second: Run, names: Sequence[str] = ()) -> list[Compared]:
    """Compares two runs.

    Args:
        names: of benchmarks; none: all that both runs have.

    Raises:
        UserError: a run lacks a benchmark, none is common, or they differ in data or settings.
    """
    common = [name for name in first.results if name in second.results]
    for run in (first, second):
        for name in names:
            if name not in run.results:
                raise UserError(f"{run.path} has no results of {name}: it has {', '.join(run.results)}", EXIT_USAGE)
    if not common:
        raise UserError(
            f"{first.path} has results of {', '.join(first.results) or 'nothing'} and {second.path} of"
            f" {', '.join(second.results) or 'nothing'}: there is no benchmark to compare",
            EXIT_USAGE,
        )
    chosen = list(names) or common
    for name in chosen:
        check_comparable(first, second, name)
    return [found for name in chosen for found in _compare(first, second, name)]


def check_comparable(first: Run, second: Run, name: str) -> None:
    """Raises UserError unless two runs of a benchmark have the same tasks and settings, with the differences."""
    old, new = ({key: run.results[name].get(key) for key in COMPARED} for run in (first, second))
    if differences := fingerprint.differences(old, new, "is {} and {}"):
        raise UserError(
            f"{name} of {first.path} and {second.path} cannot be compared, because they differ in more than the model:"
            f" {differences}. Evaluate one again with the same data and settings, or choose other --benchmarks",
            EXIT_USAGE,
        )


def _compare(first: Run, second: Run, name: str) -> list[Compared]:
    indices = tuple(SampleIndex(run.path / "samples" / f"{name}.jsonl") for run in (first, second))
    found = []
    for variant, tasks in indices[0].variants.items():
        others = indices[1].variants.get(variant, {})
        if common := [task for task in tasks if task in others]:
            a, b = ({task: all_tasks[task] for task in common} for all_tasks in (tasks, others))
            only = len(tasks) - len(common), len(others) - len(common)
            changed = _changed(a, b)
            found.append(
                Compared(
                    name, variant, len(common), *only, _metrics(a, b), changed, _solved(a, b), (indices[0], indices[1])
                )
            )
    if not found:
        raise UserError(f"{name} of {first.path} and {second.path} have no task in common: evaluate one with more")
    return found


def _metrics(first: Tasks, second: Tasks) -> list[Metric]:
    found = []
    judged = [task for task in first if all(entry.passed is not None for entry in (*first[task], *second[task]))]
    if judged:
        fewest = min(len(tasks[task]) for tasks in (first, second) for task in judged)
        most = max(len(tasks[task]) for tasks in (first, second) for task in judged)
        for k in (k for k in KS if k <= fewest):
            a, b = (np.array([[_pass_at_k(tasks[task], k)] for task in judged]) for tasks in (first, second))
            # without any difference, a bootstrap would claim to know that there is none
            exact = most == 1 or np.array_equal(a, b)
            difference = of_single_samples(list(a[:, 0] > 0), list(b[:, 0] > 0)) if exact else bootstrap(a, b)
            found.append(Metric(f"pass@{k}", _mean(a[:, 0]), _mean(b[:, 0]), difference))
    scores = {score for tasks in (first, second) for entries in tasks.values() for e in entries for score in e.scores}
    if any(score.startswith("nats/") for score in scores):
        found += _over_tasks("perplexity", first, second, _nats_and_tokens, lambda m: np.exp(m[:, 0] / m[:, 1]))
    for score in sorted(score for score in scores if "/" not in score):
        found += _over_tasks(score, first, second, functools.partial(_mean_score, score))
    return found


def _over_tasks(
    name: str,
    first: Tasks,
    second: Tasks,
    values: Callable[[Sequence[Entry]], Sequence[float] | None],
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[:, 0],
) -> list[Metric]:
    """A metric of the tasks that have its values in both runs; [] if there are none."""
    pairs = [(values(first[task]), values(second[task])) for task in first]
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not both:
        return []
    a, b = np.array([a for a, _ in both]), np.array([b for _, b in both])
    means = [float(statistic(np.array([[_mean(column) for column in rows.T]]))[0]) for rows in (a, b)]
    return [Metric(name, means[0], means[1], bootstrap(a, b, statistic))]


def _mean_score(score: str, entries: Sequence[Entry]) -> list[float] | None:
    values = [entry.scores[score] for entry in entries if score in entry.scores]
    return [_mean(values)] if values else None


def _nats_and_tokens(entries: Sequence[Entry]) -> list[float] | None:
    """The sums of the scores "nats/..." and "tokens/..."."""
    sums = defaultdict[str, list[float]](list)
    for entry in entries:
        for score, value in entry.scores.items():
            sums[score.partition("/")[0]].append(value)
    return [math.fsum(sums["nats"]), math.fsum(sums["tokens"])] if math.fsum(sums["tokens"]) else None


def _changed(first: Tasks, second: Tasks) -> list[Changed]:
    found = []
    for task in first:
        a, b = first[task], second[task]
        if any(entry.passed is None for entry in (*a, *b)):
            continue
        shares = share(a), share(b)
        if shares[0] != shares[1]:
            better = shares[1] > shares[0]
            found.append(Changed(task, *shares, (_example(a, not better), _example(b, better))))
    return sorted(found, key=lambda changed: -abs(changed.second - changed.first))


def _example(entries: Sequence[Entry], passed: bool) -> Entry:
    return next((entry for entry in entries if entry.passed == passed), entries[0])


def _solved(first: Tasks, second: Tasks) -> dict[tuple[bool, bool], int]:
    found = {(a, b): 0 for a in (True, False) for b in (True, False)}
    for task in first:
        if all(entry.passed is not None for entry in (*first[task], *second[task])):
            found[share(first[task]) > 0, share(second[task]) > 0] += 1
    return found


def share(entries: Sequence[Entry]) -> float:
    """The share of samples that passed."""
    return sum(bool(entry.passed) for entry in entries) / len(entries)


def _pass_at_k(entries: Sequence[Entry], k: int) -> float:
    return pass_at_k(len(entries), sum(bool(entry.passed) for entry in entries), k)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return math.fsum(values) / len(values)


def as_json(first: Run, second: Run, compared: Sequence[Compared]) -> dict[str, Any]:
    """What comparison.json has of two runs."""
    benchmarks = defaultdict[str, list[dict[str, Any]]](list)
    for found in compared:
        entry: dict[str, Any] = {"variant": found.variant} if found.variant else {}
        entry |= {
            "tasks": found.tasks,
            "tasks_of_first_only": found.first_only,
            "tasks_of_second_only": found.second_only,
        }
        for metric in found.metrics:
            difference = metric.difference
            entry[metric.name] = {
                "first": metric.first,
                "second": metric.second,
                "difference": difference.value,
                "interval": [difference.low, difference.high],
                "p": difference.p,
                "method": difference.method,
            }
        entry["changed"] = [[changed.task_id, changed.first, changed.second] for changed in found.changed]
        benchmarks[found.name].append(entry)
    return {"first": str(first.path), "second": str(second.path), "benchmarks": dict(benchmarks)}


def summary(compared: Sequence[Compared]) -> list[str]:
    """A line for each metric."""
    lines = []
    for found in compared:
        for metric in found.metrics:
            difference, percent = metric.difference, metric.name.startswith("pass@")
            scale, unit = (100, "%") if percent else (1, "")
            values = [f"{scale * value:.4g}{unit}" for value in (metric.first, metric.second)]
            low, high, value = (f"{scale * x:+.3g}" for x in (difference.low, difference.high, difference.value))
            label = " ".join(filter(None, (found.name, found.variant, metric.name)))
            lines.append(
                f"{label}: {values[0]} -> {values[1]}, {value}{' points' if percent else ''} ({low} to {high}),"
                f" p {difference.p:.2g} ({found.tasks:,} tasks)"
            )
    return lines
