"""Long-context fine-tuning with the RoPE base unchanged, larger, and with interpolated positions."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import Chart, Claim, Comparison, Measure, Value
from study.claims.base import evaluations
from study.claims.specialisation import GENERAL
from study.step import training

_START = "general/python_code"
_FILES = ["gin/paper/long_context.gin"]
_VARIANTS = {
    "RoPE base 10,000, as before": ("rope_unchanged", ["LCFT_ROPE_THETA=1e4"]),
    "RoPE base 1,000,000": ("rope_million", []),
    "interpolated positions": (
        "rope_interpolated",
        ["LCFT_ROPE_THETA=1e4", "LCFT_ROPE_SCALE=0.25", "Checkpoints.allowed_changes='rope_scale'"],
    ),
}
# Python's lineage has no rows for infilling, so the stage is its own.
_STEPS = tuple(
    training(
        name, "python_lcft", initial=_START, files=_FILES, flags=["Evaluation.context_factor=2", *flags], minutes=2
    )
    for name, flags in _VARIANTS.values()
)
_BEFORE = "without long-context fine-tuning"
# One step at a rate of almost nothing: the curve of the parameters before.
_CURVE = training(
    "rope_none",
    "python_lcft",
    initial=_START,
    files=_FILES,
    flags=["Evaluation.context_factor=2", "LCFT_ROPE_THETA=1e4", "PYTHON_LCFT_STEPS=1", "LCFT_LEARNING_RATE=1e-12"],
    minutes=0.5,
)
_PERPLEXITY = Measure("perplexity at the last tokens of a context", "", higher_is_better=False)


def _measure(folder: Path) -> Iterator[Value]:
    for condition, name in {_BEFORE: "rope_none", **{label: name for label, (name, _) in _VARIANTS.items()}}.items():
        curve = evaluations(folder, f"{name}/python_lcft", "context")[-1]
        for length, perplexity in zip(curve["lengths"], curve["perplexity"], strict=True):
            yield Value(condition, _PERPLEXITY, perplexity, length)


_UNCHANGED, _MILLION, _INTERPOLATED = _VARIANTS
CLAIM = Claim(
    "rope",
    "A larger RoPE base serves contexts longer than those of training",
    "figure 4a, table 10",
    "A model trained with windows of 256 is fine-tuned with windows of 1,024; perplexity of the standard library's long"
    " files up to 2,048 tokens, eight times the first length.",
    (GENERAL, _CURVE, *_STEPS),
    _measure,
    tuple(
        Comparison(text, _PERPLEXITY, first, second, "better", x=length)
        for text, first, second in (
            ("Base 1,000,000 against the base as before", _UNCHANGED, _MILLION),
            ("Base 1,000,000 against interpolation", _INTERPOLATED, _MILLION),
            ("Base 1,000,000 against no fine-tuning", _BEFORE, _MILLION),
        )
        for length in (1024, 2048)
    ),
    (Chart(_PERPLEXITY, "context length, tokens", log_x=True),),
)
