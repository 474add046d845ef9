"""HumanEval-infilling (arXiv 2207.14255): holes in the solutions of HumanEval, tested by running what results."""

import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from codellama_jax.config.evaluation import HumanEvalInfilling as Settings
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.humaneval import FIELDS, python_test
from codellama_jax.evaluation.problem import Completion, Infilling, Problem
from codellama_jax.sandbox.jobs import Job


class Holes(Benchmark[Any]):
    """Holes in functions. Problem.data is the task's row. A task is asked in each order, which is the variant."""

    needs_sandbox = True

    @abc.abstractmethod
    def rows(self, data: Path) -> list[dict[str, Any]]:
        """The tasks in HumanEval's form, with a `suffix`; for data and errors see Benchmark.problems."""

    def problems(self, data: Path) -> list[Problem]:
        rows, orders = self.rows(data), self.settings.orders
        return [Problem(row["task_id"], self.asked(row, order), row, order) for order in orders for row in rows]

    def asked(self, row: Mapping[str, Any], order: str) -> Infilling | Completion:
        """What the model is asked in one of the orders of the settings."""
        return Infilling(row["prompt"], row["suffix"], "spm" if order == "spm" else "psm")

    def job(self, problem: Problem, completion: str) -> Job:
        program = f"{problem.data['prompt']}{completion}{problem.data['suffix']}\n"
        return python_test(program, problem.data, self.settings.cpu_seconds)

    def canonical(self, problem: Problem) -> str:
        return str(problem.data["canonical_solution"])


class HumanEvalInfilling(Holes):
    """The holes of one of the four sets.

    Attributes:
        file: name of the data file.
        holes: name of the set, as in its setting.
    """

    settings_class = Settings
    paper_source = "table 14"
    file: ClassVar[str]
    holes: ClassVar[str]

    def rows(self, data: Path) -> list[dict[str, Any]]:
        path = data / "humaneval" / self.file
        name = f"sha256_{self.holes}"
        content = task_files.read(path, getattr(self.settings, name), f"HumanEvalInfilling.{name}")
        return task_files.json_lines(path, content, (*FIELDS, "suffix"))


class SingleLine(HumanEvalInfilling):
    name = "infilling_single_line"
    file, holes = "HumanEval-SingleLineInfilling.jsonl.gz", "single_line"
    paper: ClassVar = {
        "Code Llama 7B": {"psm pass@1": 0.741, "spm pass@1": 0.833},
        "Code Llama 13B": {"psm pass@1": 0.759, "spm pass@1": 0.856},
    }


class MultiLine(HumanEvalInfilling):
    name = "infilling_multi_line"
    file, holes = "HumanEval-MultiLineInfilling.jsonl.gz", "multi_line"
    paper: ClassVar = {
        "Code Llama 7B": {"psm pass@1": 0.482, "spm pass@1": 0.508},
        "Code Llama 13B": {"psm pass@1": 0.510, "spm pass@1": 0.561},
    }


class RandomSpan(HumanEvalInfilling):
    """The paper's figures are those of the light set or this one: it does not say."""

    name = "infilling_random_span"
    file, holes = "HumanEval-RandomSpanInfilling.jsonl.gz", "random_span"
    paper: ClassVar = {
        "Code Llama 7B": {"psm pass@1": 0.597, "spm pass@1": 0.390},
        "Code Llama 13B": {"psm pass@1": 0.636, "spm pass@1": 0.419},
    }


class RandomSpanLight(HumanEvalInfilling):
    name = "infilling_random_span_light"
    file, holes = "HumanEval-RandomSpanInfillingLight.jsonl.gz", "random_span_light"
