"""APPS (arXiv 2105.09938): programming problems with tests of standard input and output, or of a function."""

import inspect
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.language_benchmarks import APPS as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks import apps_comparison, apps_files
from codellama_jax.evaluation.benchmarks.apps_files import AppsProblem
from codellama_jax.evaluation.benchmarks.apps_program import program_of
from codellama_jax.evaluation.problem import Chat, Completion, Problem
from codellama_jax.evaluation.sample import Sample
from codellama_jax.sandbox.jobs import Job, Limits, PythonTest

logger = logging.getLogger(__name__)

FOLDER = "apps"
FENCE = "```"
_INSTRUCTION = (
    "Write a python code to solve the following coding problem that obeys the constraints and passes the example test"
    " cases. The output code needs to {guide}. Please wrap your code answer using ```:\n{problem}\n"
)
_GUIDES = {True: "use the provided function signature", False: "read from and write to standard IO"}
_START_SECONDS = 2.0  # of the two processes, added to the time of all tests together


class APPS(Benchmark[Settings]):
    """Problem.data is an AppsProblem. The difficulty is the variant."""

    name = "apps"
    settings_class = Settings
    needs_sandbox = True

    def problems(self, data: Path) -> list[Problem]:
        settings = self.settings
        found = apps_files.read(data / FOLDER, settings.split, getattr(settings, f"sha256_{settings.split}"))
        tested = [problem for problem in found if problem.count]
        if len(tested) < len(found):
            count = len(found) - len(tested)
            logger.warning("warning: %s: %d of %d problems have no tests: left out", self.name, count, len(found))
        if not tested:
            raise UserError(f"{data / FOLDER}: no problem of the split {settings.split} has a test")
        shots = self._shots(data) if settings.prompt == "few_shot" else []
        return [
            Problem(problem.name, self._input(problem, shots), problem, problem.difficulty)
            for difficulty in apps_files.DIFFICULTIES
            for problem in tested
            if problem.difficulty == difficulty
        ]

    def completion(self, problem: Problem, raw: str) -> str:
        """The code between the first two fences, or all of the text if there is no fence."""
        text = super().completion(problem, raw)
        _, fence, code = text.partition(FENCE)
        if not fence:
            return text
        code = code.partition(FENCE)[0]
        first, newline, rest = code.partition("\n")
        return rest if newline and first.strip().lower() in ("python", "python3", "py", "") else code

    def job(self, problem: Problem, completion: str) -> Job:
        tests: AppsProblem = problem.data
        seconds = self.settings.cpu_seconds
        memory = Limits().memory
        program = program_of(completion, tests.function, seconds)
        limits = Limits(cpu_seconds=_START_SECONDS + seconds * tests.count, memory=memory)
        return PythonTest(program, _test_of(tests), limits)

    def canonical(self, problem: Problem) -> str | None:
        solutions: list[str] = problem.data.solutions
        return f" {FENCE}\n{solutions[0]}\n{FENCE}" if solutions else None

    def summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The results over all problems, and those of each difficulty."""
        if not samples:
            return super().summary(samples)
        groups = defaultdict[str, list[Sample]](list)
        for sample in samples:
            groups[sample.variant].append(sample)
        variants = {difficulty: self.variant_summary(group) for difficulty, group in groups.items()}
        return self.variant_summary(samples) | {"variants": variants}

    def _shots(self, data: Path) -> list[AppsProblem]:
        """The solved problems of the prompt."""
        settings = self.settings
        if not settings.shots:
            return []
        solved = [p for p in apps_files.read(data / FOLDER, "train", settings.sha256_train) if p.solutions]
        by_name = {problem.name: problem for problem in solved}
        wanted = [f"train/{number:04}" for number in settings.shots]
        if missing := [name for name in wanted if name not in by_name]:
            raise UserError(
                f"{data / FOLDER} has no problem {missing[0]} with a solution, which the prompt needs: bind"
                " --gin.APPS.shots to the numbers of others, or --gin.APPS.prompt=\"'instruct'\" for none"
            )
        return [by_name[name] for name in wanted]

    def _input(self, problem: AppsProblem, shots: Sequence[AppsProblem]) -> Completion | Chat:
        if self.settings.prompt == "instruct":
            return Chat(({"role": "user", "content": _question(problem)},))
        solved = "".join(f"Q: {_question(shot)}A: {FENCE}{shot.solutions[0]}{FENCE}\n" for shot in shots)
        return Completion(f"{solved}Q: {_question(problem)}A:")


def _question(problem: AppsProblem) -> str:
    text = f"{problem.question}\n{problem.starter_code}" if problem.starter_code else problem.question
    return _INSTRUCTION.format(guide=_GUIDES[bool(problem.function)], problem=text)


_TEST = """
import json
import sys

sys.set_int_max_str_digits(0)
found = json.loads({tests!r})
for given, wanted in zip(found["inputs"], found["outputs"], strict=True):
    assert {check}
"""


def _test_of(problem: AppsProblem) -> str:
    """The test of a problem: it calls what `program_of` defines, and knows what is expected."""
    if problem.function:
        check = "same_value(apps_run(with_integer_keys(given)), with_integer_keys(wanted))"
    else:
        check = "same_output(apps_run(joined(given)), joined(wanted))"
    return inspect.getsource(apps_comparison) + _TEST.format(tests=problem.tests, check=check)
