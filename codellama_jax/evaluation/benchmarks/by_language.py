"""Benchmarks whose tasks are in several languages, each of which is a variant."""

import abc
import logging
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from codellama_jax.config.language_benchmarks import HumanEvalX, MultiPLE
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import KS, Benchmark
from codellama_jax.evaluation.languages import Language, marker_of, version
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.jobs import Job, Limits, Outcome, PythonTest
from codellama_jax.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

PYTHON = "python"

S = TypeVar("S", bound=MultiPLE | HumanEvalX)


class ByLanguage(Benchmark[S]):
    """A benchmark with programs in several languages.

    A language whose compiler is absent is left out with a warning, and the results name it under "skipped".

    Attributes:
        languages: name -> language, all but Python.
        averaged: the languages whose average is the benchmark's result; empty: all.
    """

    needs_sandbox = True
    languages: ClassVar[Mapping[str, Language]]
    averaged: ClassVar[Sequence[str]] = ()

    def __init__(self, settings: S, tokenizer: Tokenizer | None = None):
        super().__init__(settings, tokenizer)
        self._secret = secrets.token_bytes(32)

    @abc.abstractmethod
    def read(self, data: Path, language: str) -> list[Problem]:
        """The problems of a language, whose name is their variant. Raises UserError as `problems` does."""

    @abc.abstractmethod
    def program(self, problem: Problem, completion: str) -> str:
        """The program with a completion, without its test."""

    @abc.abstractmethod
    def test(self, problem: Problem) -> str:
        """The test of a problem."""

    def python_job(self, problem: Problem, program: str) -> Job:
        """The job of a Python program."""
        return PythonTest(program, self.test(problem), Limits(cpu_seconds=self.settings.cpu_seconds))

    def language(self, problem: Problem) -> Language:
        """The language of a problem, which is not Python."""
        return self.languages[problem.variant]

    def paths(self) -> Mapping[str, Path | None]:
        """Name of a tool that is no program -> where it is."""
        return {}

    def tools(self) -> Sequence[Path]:
        return [path.resolve() for path in self.paths().values() if path is not None and path.exists()]

    def skipped(self) -> dict[str, str]:
        """The languages that cannot be evaluated here -> why, with the remedy."""
        chosen = [name for name in self.settings.languages if name != PYTHON]
        reasons = {name: self.languages[name].missing(self.paths()) for name in chosen}
        return {name: reason for name, reason in reasons.items() if reason}

    def problems(self, data: Path) -> list[Problem]:
        skipped = self.skipped()
        for name, reason in skipped.items():
            logger.warning("warning: %s: %s is skipped: %s", self.name, self.languages[name].title, reason)
        found = [name for name in self.settings.languages if name not in skipped]
        if not found:
            raise UserError(f"{self.name}: no language is left: {next(iter(skipped.values()))}")
        return [problem for name in found for problem in self.read(data, name)]

    def job(self, problem: Problem, completion: str) -> Job:
        program, seconds = self.program(problem, completion), self.settings.cpu_seconds
        if problem.variant == PYTHON:
            return self.python_job(problem, program)
        language, marker = self.language(problem), self._marker(problem, completion)
        return language.job(program + language.marked(self.test(problem), marker), self.paths(), seconds)

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        if problem.variant == PYTHON:
            return super().judged(problem, completion, outcome, answer)
        assert outcome is not None
        return self.language(problem).judged(outcome, self._marker(problem, completion))

    def summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The average over languages, the results of each, those that were skipped, and versions of the compilers."""
        names = list(dict.fromkeys(sample.variant for sample in samples))
        variants = {name: self.variant_summary([s for s in samples if s.variant == name]) for name in names}
        averaged = [name for name in names if name in (self.averaged or names)]
        summary: dict[str, Any] = {}
        for metric in (f"pass@{k}" for k in KS):
            values = [variants[name][metric] for name in averaged if metric in variants[name]]
            if averaged and len(values) == len(averaged):
                summary[metric] = math.fsum(values) / len(values)
        versions = {name: version(self._versions(name)) for name in names if name != PYTHON}
        return summary | {
            "averaged": averaged,
            "tasks": sum(variant["tasks"] for variant in variants.values()),
            "samples": len(samples),
            "variants": variants,
            "skipped": self.skipped(),
            "compilers": versions,
        }

    def _versions(self, name: str) -> str:
        return self.languages[name].version.format_map(self.paths())

    def _marker(self, problem: Problem, completion: str) -> str:
        return marker_of(self._secret, problem.variant, problem.task_id, completion)
