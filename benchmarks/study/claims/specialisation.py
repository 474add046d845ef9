"""Python training after code training, against more code training."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import BITS, PASS, Claim, Comparison, Measure, Value
from study.claims.base import exercise_ends, exercises_pass, validation_loss
from study.step import training

_FILES = ["gin/paper/general_code.gin"]
_CODE = training("general", "python_code", files=[*_FILES, "gin/paper/half.gin"], minutes=2.5)
_PYTHON = training("python", "python", initial="general/python_code", files=_FILES, minutes=2.5)
# The same number of tokens at the same rate, of the first stage's mixture.
_MORE = training(
    "more_general",
    "python_code",
    initial="general/python_code",
    files=_FILES,
    flags=["Stage.steps=%PYTHON_STEPS", "CODE_LEARNING_RATE=%PYTHON_LEARNING_RATE", "CODE_WARMUP=%PYTHON_WARMUP"],
    minutes=2.5,
)
_NL = Measure("validation loss of natural language", "nats", higher_is_better=False)
_BEFORE, _SPECIAL, _GENERAL = "before", "Python training", "more code training"


def _measure(folder: Path) -> Iterator[Value]:
    for condition, name, stage in (
        (_BEFORE, "general", "python_code"),
        (_SPECIAL, "python", "python"),
        (_GENERAL, "more_general", "python_code"),
    ):
        yield from exercise_ends(folder, condition, name, stage)
        yield Value(condition, _NL, validation_loss(folder, f"{name}/{stage}", "nl"))


CLAIM = Claim(
    "python",
    "Python specialisation improves Python",
    "table 2",
    "Code training on the standard library with exercises (85%) and natural language, then as many tokens of"
    " gin/python.gin, whose Python is exercises (75%), against as many more of code training.",
    (
        _CODE,
        _PYTHON,
        _MORE,
        *(
            exercises_pass(step, stage)
            for step, stage in ((_CODE, "python_code"), (_PYTHON, "python"), (_MORE, "python_code"))
        ),
    ),
    _measure,
    (
        Comparison("Python in place of more code", PASS, _GENERAL, _SPECIAL, "better"),
        Comparison("Python in place of more code", BITS, _GENERAL, _SPECIAL, "better"),
    ),
)
GENERAL = _CODE
