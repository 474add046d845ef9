"""Key retrieval by the length of the context, before and after long-context fine-tuning."""

from collections.abc import Iterator
from pathlib import Path

from study.claim import Chart, Claim, Measure, Value
from study.claims.base import NOT_FINE_TUNED, ROPE_VARIANTS, results, rope_comparisons
from study.step import Step, evaluation, training

_FILES = ["gin/paper/keys.gin"]
# Its tokenizer is its own: words and names are one piece each, as digits are in Llama's.
_KEYS = training("keys", files=_FILES, tokenizer="", minutes=4)
_STEPS = tuple(
    training(
        f"keys_{end}",
        "lcft",
        initial="keys/code",
        files=_FILES,
        flags=["Corpus.key_characters=2700", *flags],
        tokenizer="{folder}/keys/tokenizer.model",
        minutes=1.5,
    )
    for end, flags in ROPE_VARIANTS.values()
)
_ACCURACY = Measure("keys that are found", "%")


def _evaluated(name: str, stage: str) -> Step:
    flags = ["--context=2064", "ExercisesKeys.problems=13"]
    return evaluation(f"{name}_found", f"{name}/{stage}", "exercises_keys", flags=flags, minutes=0.6)


_MODELS = {NOT_FINE_TUNED: "keys", **{condition: f"keys_{end}" for condition, (end, _) in ROPE_VARIANTS.items()}}


def _measure(folder: Path) -> Iterator[Value]:
    for condition, name in _MODELS.items():
        for length, positions in results(folder, f"{name}_found", "exercises_keys")["accuracy"].items():
            yield Value(condition, _ACCURACY, sum(positions.values()) / len(positions), float(length))


CLAIM = Claim(
    "keys",
    "Keys are found in contexts longer than those of training, after long-context fine-tuning",
    "figure 4b",
    "A function returns a word, and an assertion far below asks for it. Trained with windows of 256 tokens, fine-tuned"
    " with 1,024; prompts up to 2,048.",
    (_KEYS, *_STEPS, _evaluated("keys", "code"), *(_evaluated(step.name, "lcft") for step in _STEPS)),
    _measure,
    rope_comparisons(_ACCURACY),
    (Chart(_ACCURACY, "tokens of the prompt", log_x=True),),
    "The prompt has one function that returns a word. A model of this size does not learn in 3 million tokens to choose"
    " among several by their names.",
)
