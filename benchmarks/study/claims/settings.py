"""Ours: which settings let a small model learn exercises, and when it learns to write programs that pass."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Chart, Claim, Comparison, Value
from study.claims.base import (
    BASE,
    BASE_PASS,
    BASE_STEPS,
    EXERCISES,
    exercise_values,
    exercises_pass,
    results,
    tokens_per_step,
)
from study.step import evaluation, training

_CHOSEN = "as chosen"
_OTHERS = {
    "initial weights of 0.08 in place of 0.02": training(
        "wide_start", files=[EXERCISES], flags=["Llama.init_std=0.08"]
    ),
    "Adam's epsilon of 1e-5 in place of 1e-8": training("epsilon", files=[EXERCISES], flags=["AdamW.eps=1e-5"]),
    "documents cut and not masked": training(
        "unmasked", files=[EXERCISES], flags=["Packing.mask_documents=False", "Packing.queue=0"]
    ),
}
_ALONG = {step: evaluation(f"base_pass_{step}", f"base/code/checkpoints/{step}", "exercises") for step in BASE_STEPS}


def _measure(folder: Path) -> Iterator[Value]:
    yield from exercise_values(folder, _CHOSEN, "base")
    for condition, step in _OTHERS.items():
        yield from exercise_values(folder, condition, step.name)
    tokens = tokens_per_step(folder, "base/code") / 1e6
    for step, measured in _ALONG.items():
        yield Value(_CHOSEN, PASS, results(folder, measured.name, "exercises")["pass@1"], step * tokens)


CLAIM = Claim(
    "settings",
    "Ours: the settings of the experiment",
    "not in the paper",
    "The same model and tokens of exercises with one setting changed; and both measures along the training.",
    (BASE, BASE_PASS, *_OTHERS.values(), *map(exercises_pass, _OTHERS.values()), *_ALONG.values()),
    _measure,
    tuple(
        Comparison(condition, measure, _CHOSEN, condition, "worse") for condition in _OTHERS for measure in (PASS, BITS)
    ),
    (Chart(BITS, "million tokens"), Chart(PASS, "million tokens")),
)
