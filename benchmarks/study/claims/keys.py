"""Key retrieval by the length of the context, before and after long-context fine-tuning."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import Chart, Claim, Comparison, Measure, Value
from study.claims.base import results
from study.step import Step, evaluation, training

_FILES = ["gin/paper/keys.gin"]
# Its tokenizer is its own: words and names are one piece each, as digits are in Llama's.
_KEYS = training("keys", files=_FILES, tokenizer="", minutes=4)
_FINE_TUNED = {
    "RoPE base 10,000, as before": ("keys_unchanged", ["LCFT_ROPE_THETA=1e4"]),
    "RoPE base 1,000,000": ("keys_million", []),
    "interpolated positions": (
        "keys_interpolated",
        ["LCFT_ROPE_THETA=1e4", "LCFT_ROPE_SCALE=0.25", "Checkpoints.allowed_changes='rope_scale'"],
    ),
}
_STEPS = tuple(
    training(
        name,
        "lcft",
        initial="keys/code",
        files=_FILES,
        flags=["Corpus.key_characters=2700", *flags],
        tokenizer="{folder}/keys/tokenizer.model",
        minutes=1.5,
    )
    for name, flags in _FINE_TUNED.values()
)
_ACCURACY = Measure("keys that are found", "%")
_BEFORE = "without long-context fine-tuning"


def _evaluated(name: str, stage: str) -> Step:
    flags = ["--context=2064", "ExercisesKeys.problems=13"]
    return evaluation(f"{name}_found", f"{name}/{stage}", "exercises_keys", flags=flags, minutes=0.6)


_MODELS = {_BEFORE: "keys", **{condition: name for condition, (name, _) in _FINE_TUNED.items()}}


def _measure(folder: Path) -> Iterator[Value]:
    for condition, name in _MODELS.items():
        for length, positions in results(folder, f"{name}_found", "exercises_keys")["accuracy"].items():
            yield Value(condition, _ACCURACY, sum(positions.values()) / len(positions), float(length))


_UNCHANGED, _MILLION, _INTERPOLATED = _FINE_TUNED
CLAIM = Claim(
    "keys",
    "Keys are found in contexts longer than those of training, after long-context fine-tuning",
    "figure 4b",
    "A function returns a word, and an assertion far below asks for it. Trained with windows of 256 tokens, fine-tuned"
    " with 1,024; prompts up to 2,048.",
    (_KEYS, *_STEPS, _evaluated("keys", "code"), *(_evaluated(step.name, "lcft") for step in _STEPS)),
    _measure,
    tuple(
        Comparison(text, _ACCURACY, first, _MILLION, "better", x=length)
        for text, first in (
            ("Base 1,000,000 against no fine-tuning", _BEFORE),
            ("Base 1,000,000 against the base as before", _UNCHANGED),
            ("Base 1,000,000 against interpolation", _INTERPOLATED),
        )
        for length in (1024, 2048)
    ),
    (Chart(_ACCURACY, "tokens of the prompt", log_x=True),),
    "The prompt has one function that returns a word. A model of this size does not learn in 3 million tokens to choose"
    " among several by their names.",
)
