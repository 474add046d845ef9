"""Long-context fine-tuning with the RoPE base unchanged, larger, and with interpolated positions."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import Chart, Claim, Measure, Value
from study.claims.base import NOT_FINE_TUNED, ROPE_VARIANTS, evaluations, rope_comparisons
from study.claims.specialisation import GENERAL
from study.step import training

_START = "general/python_code"
_FILES = ["gin/paper/long_context.gin"]
# Python's lineage has no rows for infilling, so the stage is its own.
_STEPS = tuple(
    training(
        f"rope_{end}",
        "python_lcft",
        initial=_START,
        files=_FILES,
        flags=["Evaluation.context_factor=2", *flags],
        minutes=2,
    )
    for end, flags in ROPE_VARIANTS.values()
)
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
    ends = {NOT_FINE_TUNED: "none", **{condition: end for condition, (end, _) in ROPE_VARIANTS.items()}}
    for condition, end in ends.items():
        curve = evaluations(folder, f"rope_{end}/python_lcft", "context")[-1]
        for length, perplexity in zip(curve["lengths"], curve["perplexity"], strict=True):
            yield Value(condition, _PERPLEXITY, perplexity, length)


CLAIM = Claim(
    "rope",
    "A larger RoPE base serves contexts longer than those of training",
    "figure 4a, table 10",
    "A model trained with windows of 256 is fine-tuned with windows of 1,024; perplexity of the standard library's long"
    " files up to 2,048 tokens, eight times the first length.",
    (GENERAL, _CURVE, *_STEPS),
    _measure,
    rope_comparisons(_PERPLEXITY),
    (Chart(_PERPLEXITY, "context length, tokens", log_x=True),),
)
