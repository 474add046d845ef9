"""Loss and pass@1 by the number of parameters."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Chart, Claim, Comparison, Value
from study.claims.base import BASE, BASE_PASS, EXERCISES, description, exercise_ends, exercises_pass
from study.step import Step, training


def _model(name: str, minutes: float, **shape: int) -> Step:
    flags = [f"Llama.{setting}={value}" for setting, value in shape.items()]
    return training(name, files=[EXERCISES], flags=flags, minutes=minutes)


_SIZES = {
    "0.5 million": _model("size_05", 2.5, dim=96, layers=3, heads=3, kv_heads=1, ffn_dim=288),
    "1 million": BASE,
    "2 million": _model("size_2", 7, dim=192, heads=6, kv_heads=3, ffn_dim=512),
    "4 million": _model("size_4", 12, dim=256, heads=8, kv_heads=4, ffn_dim=832),
}
_OTHERS = [step for step in _SIZES.values() if step is not BASE]


def _measure(folder: Path) -> Iterator[Value]:
    for condition, step in _SIZES.items():
        parameters = description(folder, f"{step.name}/code")["parameters"] / 1e6
        for value in exercise_ends(folder, condition, step.name):
            yield value
            yield Value("all", value.measure, value.value, parameters)


_NAMES = list(_SIZES)
CLAIM = Claim(
    "scaling",
    "A larger model is better at equal tokens",
    "tables 2 and 4",
    "Half, one, two and four million parameters on the same tokens of exercises, at the same learning rate.",
    (BASE, BASE_PASS, *_OTHERS, *map(exercises_pass, _OTHERS)),
    _measure,
    tuple(
        Comparison(f"{larger} parameters against {smaller}", measure, smaller, larger, "better")
        for smaller, larger in itertools.pairwise(_NAMES)
        for measure in (PASS, BITS)
    ),
    (Chart(PASS, "million parameters", log_x=True), Chart(BITS, "million parameters", log_x=True)),
    "The learning rate was chosen for one million parameters, and is probably too high for four million, whose first"
    " gradients are several times larger; a smaller one was not tried.",
)
