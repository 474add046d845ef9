"""Exercises: small Python functions, whose composition is in no training function, tested by running them."""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.exercise_benchmarks import PREFIX
from codellama_jax.config.exercise_benchmarks import Exercises as Settings
from codellama_jax.config.exercise_benchmarks import ExercisesInfilling as InfillingSettings
from codellama_jax.config.generation import Sampling
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.humaneval import python_test
from codellama_jax.evaluation.benchmarks.infilling import Holes
from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Problem
from codellama_jax.evaluation.sample import Sample
from codellama_jax.exercises import problems as generator
from codellama_jax.sandbox.jobs import Job

_FENCE = re.compile(r"```(?:python)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


class Exercises(Benchmark[Settings]):
    """Problem.data is a row of the generator. A task is asked once in each form of the prompt, which is the variant."""

    name = "exercises"
    settings_class = Settings
    needs_sandbox = True
    needs_data = False

    def problems(self, data: Path) -> list[Problem]:
        rows = generator.problems("test", self.settings.problems)
        forms = self.settings.prompts
        return [
            Problem(row["task_id"], _asked(row, form), row, form if len(forms) > 1 else "")
            for form in forms
            for row in rows
        ]

    def sampling(self, problem: Problem) -> Sampling:
        found = super().sampling(problem)
        return dataclasses.replace(found, stop=()) if isinstance(problem.input, Chat) else found

    def completion(self, problem: Problem, raw: str) -> str:
        """The text before the first stop string; of a chat's answer the fenced block, or all without one."""
        fenced = _FENCE.search(raw) if isinstance(problem.input, Chat) else None
        return fenced[1] if fenced else super().completion(problem, raw)

    def job(self, problem: Problem, completion: str) -> Job:
        head = problem.data["prompt"] if isinstance(problem.input, Completion) else ""
        return python_test(f"{head}{completion}\n", problem.data, self.settings.cpu_seconds)

    def canonical(self, problem: Problem) -> str:
        head = problem.data["prompt"] if isinstance(problem.input, Chat) else ""
        return head + str(problem.data["canonical_solution"])

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return super().variant_summary(samples) | _by_family(samples, super().variant_summary)


class ExercisesInfilling(Holes):
    """The holes that the generator makes."""

    name = "exercises_infilling"
    settings_class = InfillingSettings
    needs_data = False

    def rows(self, data: Path) -> list[dict[str, Any]]:
        return generator.holes("test", self.settings.problems)

    def asked(self, row: Mapping[str, Any], order: str) -> Infilling | Completion:
        return Completion(row["prompt"]) if order == PREFIX else super().asked(row, order)

    def job(self, problem: Problem, completion: str) -> Job:
        if problem.variant == PREFIX:  # holes are one line; a completion does not know where it ends
            completion = completion.partition("\n")[0] + "\n"
        return super().job(problem, completion)

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return super().variant_summary(samples) | _by_family(samples, super().variant_summary)


def _asked(row: dict[str, str], form: str) -> Completion | Chat:
    if form == "chat":
        return Chat(({"role": "user", "content": generator.question(row)},))
    return Completion(row["prompt"])


def _by_family(samples: Sequence[Sample], summary: Callable[[Sequence[Sample]], dict[str, Any]]) -> dict[str, Any]:
    """pass@1 of each family, which is the first part of the names of tasks."""
    families = defaultdict[str, list[Sample]](list)
    for sample in samples:
        families[sample.task_id.partition("/")[0]].append(sample)
    found = {family: summary(of) for family, of in sorted(families.items())}
    return {"pass@1_of_groups": {family: of["pass@1"] for family, of in found.items() if "pass@1" in of}}
