"""What infilling costs left to right, and what it gives."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Chart, Claim, Comparison, Measure, Value
from study.claims.base import (
    BASE,
    BASE_PASS,
    BITS_KEY,
    EXERCISES,
    evaluations,
    exercise_values,
    exercises_pass,
    results,
    tokens_per_step,
)
from study.step import Step, evaluation, training


def _fim(name: str, rate: float, cut: str = "character", steps: str = "", minutes: float = 4) -> Step:
    files = [EXERCISES, f"gin/paper/{steps}.gin"] if steps else [EXERCISES]
    return training(name, files=files, flags=[f"Fim.rate={rate}", f"Fim.cut='{cut}'"], minutes=minutes)


_NONE = "no infilling"
_CONDITIONS = {
    "rate 0.5, split at characters": _fim("fim_characters_50", 0.5),
    "rate 0.9, split at characters": _fim("fim_characters_90", 0.9),
    "rate 0.5, split at lines": _fim("fim_lines_50", 0.5, "line"),
    "rate 0.9, split at lines": _fim("fim_lines_90", 0.9, "line"),
}
# The cost by the number of tokens: steps without infilling, and with rate 0.9 at characters.
_TRAINED = {
    "half": (
        _fim("base_half", 0.0, steps="half", minutes=2.5),
        _fim("fim_half", 0.9, steps="half", minutes=2.5),
    ),
    "": (BASE, _CONDITIONS["rate 0.9, split at characters"]),
    "long": (
        _fim("base_long", 0.0, steps="long", minutes=8),
        _fim("fim_long", 0.9, steps="long", minutes=8),
    ),
}
_PAIRS = [step for pair in _TRAINED.values() for step in pair]
_COST_BITS = Measure("cost of infilling, in bits per byte of canonical bodies", "", higher_is_better=False)
_COST_PASS = Measure("cost of infilling, in pass@1 of exercises", "%", higher_is_better=False)
_HOLES = Measure("pass@1 of holes that the suffix decides", "%")
_WAYS = {"psm": "PSM", "spm": "SPM", "prefix": "the prefix alone"}


def _cost(folder: Path) -> Iterator[Value]:
    yield from exercise_values(folder, _NONE, "base")
    for condition, step in _CONDITIONS.items():
        yield from exercise_values(folder, condition, step.name)
    for plain, fim in _TRAINED.values():
        ends = [evaluations(folder, f"{step.name}/code", "benchmarks")[-1] for step in (plain, fim)]
        bits = [end[BITS_KEY] for end in ends]
        passed = [results(folder, f"{step.name}_pass", "exercises")["pass@1"] for step in (plain, fim)]
        tokens = ends[0]["step"] * tokens_per_step(folder, f"{plain.name}/code") / 1e6
        yield Value("rate 0.9, split at characters", _COST_BITS, bits[1] - bits[0], tokens)
        yield Value("rate 0.9, split at characters", _COST_PASS, passed[0] - passed[1], tokens)


def _use(folder: Path) -> Iterator[Value]:
    for condition, step in {_NONE: BASE, **_CONDITIONS}.items():
        found = results(folder, f"{step.name}_holes", "exercises_infilling")
        variants = found.get("variants", {"prefix": found})
        for way, shown in _WAYS.items():
            if way in variants:
                yield Value(f"{condition}: {shown}", _HOLES, variants[way]["pass@1"])


def _holes(step: Step, orders: tuple[str, ...]) -> Step:
    flags = [f"ExercisesInfilling.orders={orders}"]
    return evaluation(f"{step.name}_holes", f"{step.name}/code", "exercises_infilling", flags=flags)


COST = Claim(
    "infilling-cost",
    "Infilling costs little left to right",
    "table 5",
    "Exercises with infilling at rates 0, 0.5 and 0.9, split at characters (as in the paper) or at lines: equal tokens."
    " The cost of rate 0.9 after half, all and twice the tokens.",
    (
        BASE,
        BASE_PASS,
        *_CONDITIONS.values(),
        *_PAIRS,
        *(exercises_pass(step) for step in (*_CONDITIONS.values(), *_PAIRS)),
    ),
    _cost,
    tuple(
        Comparison(f"{condition}, against none", measure, _NONE, condition, "equal", margin)
        for condition in _CONDITIONS
        for measure, margin in ((PASS, 0.02), (BITS, 0.02))
    ),
    (
        Chart(BITS, "million tokens"),
        Chart(_COST_BITS, "million tokens", log_x=True),
        Chart(_COST_PASS, "million tokens", log_x=True),
    ),
)
USE = Claim(
    "infilling",
    "A model that was trained to fill holes uses the text after them",
    "tables 6 and 14",
    "Holes of one line in exercises; the loop's variable is named only in the text after the hole.",
    (
        BASE,
        *_CONDITIONS.values(),
        _holes(BASE, ("prefix",)),
        *(_holes(step, ("psm", "spm", "prefix")) for step in _CONDITIONS.values()),
    ),
    _use,
    tuple(
        Comparison(
            f"{_WAYS[way]} at {condition}, against the prefix alone without infilling",
            _HOLES,
            f"{_NONE}: {_WAYS['prefix']}",
            f"{condition}: {_WAYS[way]}",
            "better",
        )
        for condition in _CONDITIONS
        for way in ("psm", "spm")
    ),
    remark="Split at characters, a model of this size takes names from the text after the hole, but then writes the"
    " rest of the function up to any character in place of ending before that text, so that few of its programs parse.",
)
