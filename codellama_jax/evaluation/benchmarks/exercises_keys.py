"""Key retrieval for small models: a function that returns a word, among exercises (codellama_jax/exercises/keys.py)."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codellama_jax.config.exercise_benchmarks import ExercisesKeys as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.key_retrieval import by_length_and_position
from codellama_jax.evaluation.filler import Filler
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.exercises import training
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.keys import Key, keys
from codellama_jax.sandbox.jobs import Outcome

_FILLER = 512  # exercises


class ExercisesKeys(Benchmark[Settings]):
    """Problem.data is the key. Tasks are named LENGTH/POSITION/NUMBER."""

    name = "exercises_keys"
    settings_class = Settings
    needs_data = False
    needs_tokenizer = True

    def problems(self, data: Path) -> list[Problem]:
        if self.tokenizer is None:
            raise UserError(
                f"{self.name} counts tokens, and the model's tokenizer is not known: --tokenizer=FILE names its"
                " tokenizer.model"
            )
        filler = Filler((training.function(number).source for number in range(_FILLER)), self.tokenizer)
        return [
            Problem(f"{length}/{position:g}/{index}", *self._problem(filler, length, position, index))
            for index in range(self.settings.problems)  # the first tasks are of all lengths and positions
            for length in self.settings.lengths
            for position in self.settings.positions
        ]

    def _problem(self, filler: Filler, length: int, position: float, index: int) -> tuple[Completion, Key]:
        """The prompt and the key. Both are functions of length, position and index."""
        draws = Draws(self.name, length, position, index)
        key, *others = itertools.islice(keys("test", draws), 1 + self.settings.others)
        rng = np.random.default_rng([length, round(position * 1e6), index])
        texts = [f"{other.function}\n\n" for other in (key, *others)]
        try:
            text = filler.around(texts[0], key.question, length, position, rng, texts[1:])
        except ValueError:
            raise UserError(
                f"ExercisesKeys.lengths has {length}, which is too short for {1 + len(others)} functions"
            ) from None
        return Completion(text), key

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        passed = completion == problem.data.word
        return Judgement(passed, reason="" if passed else f"the word is {problem.data.word}")

    def canonical(self, problem: Problem) -> str:
        return f'{problem.data.word}"\n'

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """pass@1 over all prompts, and "accuracy": length -> position -> the share of right answers."""
        return {**super().variant_summary(samples), "accuracy": by_length_and_position(samples)}
