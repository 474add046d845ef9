"""Settings of the benchmarks of exercises (codellama_jax/exercises). All of them are ours."""

import dataclasses
from collections.abc import Sequence

from codellama_jax.config.evaluation import HUMANEVAL_STOP, ORDERS, Benchmark, check_choices, check_positive
from codellama_jax.config.scored_benchmarks import check_lengths_and_positions

EXERCISE_PROMPTS = ("completion", "chat")
EXERCISES = ("exercises", "exercises_infilling")  # they need no data files
# The most problems of each. The generator has a few more (benchmarks/exercises.md).
MOST_PROBLEMS, MOST_HOLES = 1_000, 250
PREFIX = "prefix"  # the text before a hole alone, completed left to right: what the suffix adds
MOST_KEYS = 16  # in a prompt


@dataclasses.dataclass(frozen=True)
class Exercises(Benchmark):
    """Small functions that are composed as no function of the corpus embedded:exercises is.

    Attributes:
        prompts: the forms of the prompt, each of which is evaluated: "completion", signature and docstring, to be
            continued; "chat", the same as a request in a dialogue, whose answer has the whole function. The first one
            is the result.
        problems: number of problems, at most MOST_PROBLEMS.
        cpu_seconds: processor time of a program.
    """

    max_tokens: int = 128
    stop: Sequence[str] = (*HUMANEVAL_STOP, "\nassert")
    prompts: Sequence[str] = ("completion",)
    problems: int = 400
    cpu_seconds: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        check_choices("Exercises.prompts", self.prompts, EXERCISE_PROMPTS)
        _check_count("Exercises.problems", self.problems, MOST_PROBLEMS)
        check_positive("Exercises.cpu_seconds", self.cpu_seconds)


@dataclasses.dataclass(frozen=True)
class ExercisesInfilling(Benchmark):
    """The same, with a hole in the solution that the text after it decides.

    Attributes:
        orders: the orders of the prompt, each of which is evaluated: "psm", "spm", and PREFIX, for which a model needs
            no infilling. The first one is the result.
        problems: number of problems, at most MOST_HOLES.
        cpu_seconds: processor time of a program.
    """

    max_tokens: int = 64
    orders: Sequence[str] = ORDERS
    problems: int = 200
    cpu_seconds: float = 3.0

    def __post_init__(self):
        super().__post_init__()
        check_choices("ExercisesInfilling.orders", self.orders, (*ORDERS, PREFIX))
        _check_count("ExercisesInfilling.problems", self.problems, MOST_HOLES)
        check_positive("ExercisesInfilling.cpu_seconds", self.cpu_seconds)


@dataclasses.dataclass(frozen=True)
class ExercisesKeys(Benchmark):
    """A function that returns a word, above the line that needs the word: key_retrieval for small models.

    Attributes:
        lengths: tokens of the prompts.
        positions: where the function stands: shares of the tokens around it that are before it.
        problems: prompts for each length and position.
        others: number of other functions that return a word; 0: as in key_retrieval, there is only the one.
    """

    max_tokens: int = 8
    stop: Sequence[str] = ('"', "\n")
    lengths: Sequence[int] = (64, 128, 256, 512, 1_024, 2_048)
    positions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    problems: int = 32
    others: int = 0

    def __post_init__(self):
        super().__post_init__()
        check_positive("ExercisesKeys.problems", self.problems)
        check_lengths_and_positions("ExercisesKeys", self.lengths, self.positions)
        if not 0 <= self.others < MOST_KEYS:
            raise ValueError(f"ExercisesKeys.others={self.others} must be between 0 and {MOST_KEYS - 1}")


def _check_count(name: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"{name}={count} must be between 1 and {most:,}")
