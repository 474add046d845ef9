"""A model of natural language first, then code, against code from random parameters."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Chart, Claim, Comparison, Value
from study.claims.base import BASE, BASE_PASS, EXERCISES, exercise_values, exercises_pass
from study.step import training

_LANGUAGE = training("language", files=["gin/paper/natural_language.gin", "gin/paper/half.gin"], minutes=2)
_AFTER = training("after_language", initial="language/code", files=[EXERCISES], minutes=4)
_SCRATCH, _GENERAL = "code from scratch", "code after natural language"


def _measure(folder: Path) -> Iterator[Value]:
    yield from exercise_values(folder, _SCRATCH, "base")
    yield from exercise_values(folder, _GENERAL, "after_language")


CLAIM = Claim(
    "general",
    "Code training from a general model is better than from scratch",
    "figure 5a",
    "Natural language (docstrings and documentation) for half of the tokens, then exercises, against exercises alone:"
    " equal tokens of code.",
    (BASE, BASE_PASS, _LANGUAGE, _AFTER, exercises_pass(_AFTER)),
    _measure,
    (
        Comparison("A general model first", PASS, _SCRATCH, _GENERAL, "better"),
        Comparison("A general model first", BITS, _SCRATCH, _GENERAL, "better"),
    ),
    (Chart(BITS, "million tokens of code"),),
)
