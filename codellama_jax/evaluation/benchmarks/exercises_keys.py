"""Key retrieval for small models: a function that returns a word, among exercises (codellama_jax/exercises/keys.py)."""

import itertools
from pathlib import Path

import numpy as np

from codellama_jax.config.exercise_benchmarks import ExercisesKeys as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.key_retrieval import Retrieval
from codellama_jax.evaluation.filler import Filler
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.exercises import training
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.keys import Key, keys
from codellama_jax.sandbox.jobs import Outcome
from codellama_jax.tokenizer import Tokenizer

_FILLER = 512  # exercises


class ExercisesKeys(Retrieval):
    """Problem.data is the key."""

    name = "exercises_keys"
    settings_class = Settings
    needs_data = False

    def filler(self, data: Path, tokenizer: Tokenizer) -> Filler:
        return Filler((training.function(number).source for number in range(_FILLER)), tokenizer)

    def asked(self, filler: Filler, length: int, position: float, index: int) -> tuple[Completion, Key]:
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
