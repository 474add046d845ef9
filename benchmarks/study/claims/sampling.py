"""pass@k by temperature."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import Chart, Claim, Comparison, Measure, Value
from study.claims.base import BASE, results
from study.step import evaluation

_SAMPLES = 10
_TEMPERATURES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_STEPS = {
    temperature: evaluation(
        f"temperature_{temperature}",
        "base/code",
        "exercises",
        samples=_SAMPLES,
        flags=[f"Exercises.temperature={temperature}", "Exercises.problems=200"],
        minutes=1,
    )
    for temperature in _TEMPERATURES
}
_K = (1, 5, 10)
_PASS_AT_K = Measure("pass@k of exercises", "%")
_BEST = Measure("best temperature")


def _measure(folder: Path) -> Iterator[Value]:
    scores = {temperature: results(folder, step.name, "exercises") for temperature, step in _STEPS.items()}
    for k in _K:
        for temperature, found in scores.items():
            yield Value(f"pass@{k}", _PASS_AT_K, found[f"pass@{k}"], temperature)
        yield Value(f"pass@{k}", _BEST, max(_TEMPERATURES, key=lambda t, k=k: scores[t][f"pass@{k}"]))


CLAIM = Claim(
    "temperature",
    "More samples want a higher temperature, and pass@k grows with k",
    "figure 6",
    f"{_SAMPLES} samples of 200 exercises at each temperature, top-p 0.95.",
    (BASE, *_STEPS.values()),
    _measure,
    (
        Comparison("pass@10 against pass@1 at temperature 0.8", _PASS_AT_K, "pass@1", "pass@10", "better", x=0.8),
        Comparison("The best temperature of pass@10 against that of pass@1", _BEST, "pass@1", "pass@10", "better"),
    ),
    (Chart(_PASS_AT_K, "temperature"),),
)
