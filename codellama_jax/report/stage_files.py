"""Reads the files of a stage for its report. All of them except stage.json may be missing."""

import contextlib
import dataclasses
import json
import math
import pathlib
from typing import Any

from codellama_jax.report.charts import Points
from codellama_jax.runtime import filesystem

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class StageFiles:
    """The contents of a stage's files; empty where a file does not exist yet.

    Attributes:
        path: the stage's folder.
        name: name of the stage.
        stage: the content of stage.json.
        metrics: the lines of metrics.jsonl.
        validations, benchmarks: the lines of evaluations.jsonl of the kinds "validation" and "benchmarks".
        contexts: "before" or "after" -> the line of evaluations.jsonl with that curve of perplexity by context length.
        samples, done: the content of samples.json and done.json.
        infilling: the content of infilling.json: the comparison of the model before and after the stage.
        results: the content of evaluation/results.json: name of a benchmark -> its results at the end of the stage.
        inventory: the content of inventory.json.
        config: the text of config.gin.
    """

    path: pathlib.Path
    name: str
    stage: Record
    metrics: list[Record]
    validations: list[Record]
    benchmarks: list[Record]
    contexts: dict[str, Record]
    samples: list[Record]
    done: Record
    infilling: Record
    results: Record
    inventory: Record
    config: str

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.metrics[-1]["step"] if self.metrics else self.done.get("step", 0))

    @property
    def streams(self) -> list[str]:
        """The streams of the mixture, then any others in the metrics."""
        others = (key.removeprefix("tokens/") for record in self.metrics for key in record if key.startswith("tokens/"))
        return list(dict.fromkeys([*self.stage["shares"], *others]))


def read_stage(path: pathlib.Path) -> StageFiles:
    """Reads the files in the folder of a stage."""
    stage = json.loads((path / "stage.json").read_text(encoding="utf-8"))
    evaluations = _read_lines(path / "evaluations.jsonl")
    return StageFiles(
        path,
        stage["stage"],
        stage,
        metrics=_last_attempt(_read_lines(path / "metrics.jsonl")),
        validations=_last_attempt([record for record in evaluations if record["kind"] == "validation"]),
        benchmarks=_last_attempt([record for record in evaluations if record["kind"] == "benchmarks"]),
        contexts={record["when"]: record for record in evaluations if record["kind"] == "context"},
        samples=_parse(_read_text(path / "samples.json")) or [],
        done=_parse(_read_text(path / "done.json")) or {},
        infilling=_parse(_read_text(path / "infilling.json")) or {},
        results=_parse(_read_text(path / "evaluation" / "results.json")) or {},
        inventory=_parse(_read_text(path / "inventory.json")) or {},
        config=_read_text(path / "config.gin"),
    )


def _read_text(path: pathlib.Path) -> str:
    return filesystem.read_text(path) if path.exists() else ""


def _parse(text: str) -> Any:
    """The JSON value; None for text that is empty or truncated."""
    with contextlib.suppress(ValueError):
        return json.loads(text)


def _read_lines(path: pathlib.Path) -> list[Record]:
    records = map(_parse, _read_text(path).split("\n"))
    return [record for record in records if isinstance(record, dict)]


def _last_attempt(records: list[Record]) -> list[Record]:
    """Removes the steps that ran again after a restart from an earlier checkpoint."""
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def cascade_order(folders: list[StageFiles]) -> list[StageFiles]:
    """Each stage after its parent, followed by its own descendants."""
    waiting = sorted(folders, key=lambda folder: (folder.stage["started"], folder.name))
    names = {folder.name for folder in folders}
    ordered: list[StageFiles] = []

    def add(folder: StageFiles) -> None:
        waiting.remove(folder)
        ordered.append(folder)
        while child := next((other for other in waiting if other.stage["parent"] == folder.name), None):
            add(child)

    while waiting:  # the default is for stages that are each other's parents
        add(next((folder for folder in waiting if folder.stage["parent"] not in names), waiting[0]))
    return ordered


def step_points(records: list[Record], key: str, start: float = 0, scale: float = 1) -> Points:
    """(start + scale * step, value) of each record that has a finite value."""
    return [(start + scale * record["step"], record[key]) for record in records if is_finite(record.get(key))]


def total(records: list[Record], key: str) -> float:
    """Sum of the finite values."""
    return sum(value for _, value in step_points(records, key))


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor nan."""
    return isinstance(value, int | float) and math.isfinite(value)
