"""The steps that several claims share, and the values of a step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.claim import BITS, PASS, Value
from study.step import Step, evaluation, training

EXERCISES = "gin/paper/exercises.gin"
BITS_KEY = "bits_per_byte/exercises"  # in the evaluations of a stage
BASE_STEPS = (500, 1000, 1500, 2000)  # whose checkpoints are kept, of 3,000
BASE = training("base", files=[EXERCISES], flags=["Checkpoints.keep=8"], minutes=4)
BASE_PASS = evaluation("base_pass", "base/code", "exercises")


def exercises_pass(trained: Step, stage: str = "code") -> Step:
    """The step that measures pass@1 of the exercises of a training step."""
    return evaluation(f"{trained.name}_pass", f"{trained.name}/{stage}", "exercises")


def exercise_values(folder: Path, condition: str, name: str, stage: str = "code") -> Iterator[Value]:
    """pass@1 and bits per byte of the exercises of a training step, and these bits along its training."""
    yield Value(condition, PASS, results(folder, f"{name}_pass", "exercises")["pass@1"])
    measured = evaluations(folder, f"{name}/{stage}", "benchmarks")
    yield Value(condition, BITS, measured[-1][BITS_KEY])
    tokens = tokens_per_step(folder, f"{name}/{stage}")
    for line in measured[1:]:
        yield Value(condition, BITS, line[BITS_KEY], line["step"] * tokens / 1e6)


def results(folder: Path, name: str, benchmark: str) -> dict[str, Any]:
    """The results of a benchmark in an evaluation step."""
    return json.loads((folder / name / "results.json").read_text())[benchmark]


def evaluations(folder: Path, stage: str, kind: str) -> list[dict[str, Any]]:
    """The lines of a kind in the evaluations of "STEP/STAGE"."""
    lines = (folder / stage / "evaluations.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]


def validation_loss(folder: Path, stage: str, stream: str) -> float:
    """The last validation loss of a stream in "STEP/STAGE", in nats a token."""
    return evaluations(folder, stage, "validation")[-1][f"loss/{stream}"]


def tokens_per_step(folder: Path, stage: str) -> int:
    """Tokens of a training step of "STEP/STAGE"."""
    return json.loads((folder / stage / "stage.json").read_text())["batch_tokens"]
