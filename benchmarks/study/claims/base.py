"""The steps that several claims share, and the values of a step."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.claim import BITS, PASS, Comparison, Measure, Value
from study.step import Step, evaluation, training

EXERCISES = "gin/paper/exercises.gin"
BITS_KEY = "bits_per_byte/exercises"  # in the evaluations of a stage
BASE_STEPS = (500, 1000, 1500, 2000)  # whose checkpoints are kept, of 3,000
BASE = training("base", files=[EXERCISES], flags=["Checkpoints.keep=8"], minutes=4)
BASE_PASS = evaluation("base_pass", "base/code", "exercises")
# Long-context fine-tuning: condition -> (end of the names of its steps, bindings). The second one is the paper's.
ROPE_VARIANTS: dict[str, tuple[str, list[str]]] = {
    "RoPE base 10,000, as before": ("unchanged", ["LCFT_ROPE_THETA=1e4"]),
    "RoPE base 1,000,000": ("million", []),
    "interpolated positions": (
        "interpolated",
        ["LCFT_ROPE_THETA=1e4", "LCFT_ROPE_SCALE=0.25", "Checkpoints.allowed_changes='rope_scale'"],
    ),
}
NOT_FINE_TUNED = "without long-context fine-tuning"


def exercises_pass(trained: Step, stage: str = "code") -> Step:
    """The step that measures pass@1 of the exercises of a training step."""
    return evaluation(f"{trained.name}_pass", f"{trained.name}/{stage}", "exercises")


def exercise_ends(folder: Path, condition: str, name: str, stage: str = "code") -> Iterator[Value]:
    """pass@1 and bits per byte of the exercises of a training step, at its end."""
    yield Value(condition, PASS, results(folder, f"{name}_pass", "exercises")["pass@1"])
    yield Value(condition, BITS, evaluations(folder, f"{name}/{stage}", "benchmarks")[-1][BITS_KEY])


def exercise_values(folder: Path, condition: str, name: str, stage: str = "code") -> Iterator[Value]:
    """The same, and these bits along its training."""
    yield from exercise_ends(folder, condition, name, stage)
    tokens = tokens_per_step(folder, f"{name}/{stage}")
    for line in evaluations(folder, f"{name}/{stage}", "benchmarks")[1:]:
        yield Value(condition, BITS, line[BITS_KEY], line["step"] * tokens / 1e6)


def rope_comparisons(measure: Measure) -> tuple[Comparison, ...]:
    """The paper's variant against the others, at the length of its windows and at twice that."""
    unchanged, million, interpolated = ROPE_VARIANTS
    others = {
        "Base 1,000,000 against the base as before": unchanged,
        "Base 1,000,000 against interpolation": interpolated,
        "Base 1,000,000 against no fine-tuning": NOT_FINE_TUNED,
    }
    return tuple(
        Comparison(text, measure, other, million, "better", x=length)
        for text, other in others.items()
        for length in (1024, 2048)
    )


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
    return description(folder, stage)["batch_tokens"]


def description(folder: Path, stage: str) -> dict[str, Any]:
    """What "STEP/STAGE" trained, and how."""
    return json.loads((folder / stage / "stage.json").read_text())
