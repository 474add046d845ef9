"""HumanEval (arXiv 2107.03374): the bodies of 164 Python functions, tested by running them."""

from pathlib import Path
from typing import Any, ClassVar

from codellama_jax.config.evaluation import HumanEval as Settings
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.sandbox.jobs import Job, Limits, PythonTest

FILE = "humaneval/HumanEval.jsonl.gz"
FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


class HumanEval(Benchmark[Settings]):
    """Problem.data is the task's row. A task is asked once in each form of the prompt, which is the variant."""

    name = "humaneval"
    settings_class = Settings
    needs_sandbox = True
    paper_source = "table 2"
    paper: ClassVar = {
        "Code Llama 7B": {"pass@1": 0.335, "pass@10": 0.596, "pass@100": 0.859},
        "Code Llama 13B": {"pass@1": 0.360, "pass@10": 0.694, "pass@100": 0.898},
        "Code Llama 34B": {"pass@1": 0.488, "pass@10": 0.768, "pass@100": 0.930},
        "Code Llama 70B": {"pass@1": 0.530, "pass@10": 0.846, "pass@100": 0.962},
        "Code Llama - Instruct 7B": {"pass@1": 0.348},
        "Code Llama - Instruct 13B": {"pass@1": 0.427},
        "Code Llama - Instruct 34B": {"pass@1": 0.415},
        "Code Llama - Instruct 70B": {"pass@1": 0.678},
        "Code Llama - Python 7B": {"pass@1": 0.384},
        "Code Llama - Python 13B": {"pass@1": 0.433},
        "Code Llama - Python 34B": {"pass@1": 0.537},
        "Code Llama - Python 70B": {"pass@1": 0.573},
    }

    def problems(self, data: Path) -> list[Problem]:
        path = data / FILE
        rows = task_files.json_lines(path, task_files.read(path, self.settings.sha256, "HumanEval.sha256"), FIELDS)
        return [
            Problem(row["task_id"], Completion(_prompt(row, form)), row, form if len(self.settings.prompts) > 1 else "")
            for form in self.settings.prompts
            for row in rows
        ]

    def job(self, problem: Problem, completion: str) -> Job:
        assert isinstance(problem.input, Completion)
        return python_test(problem.input.text + completion + "\n", problem.data, self.settings.cpu_seconds)

    def canonical(self, problem: Problem) -> str:
        prompt: str = problem.data["prompt"]
        stripped = isinstance(problem.input, Completion) and problem.input.text != prompt
        return (prompt[len(prompt.rstrip()) :] if stripped else "") + str(problem.data["canonical_solution"])


def python_test(program: str, row: dict[str, Any], cpu_seconds: float) -> PythonTest:
    """The job of a HumanEval task: its check, applied to the function that was asked for.

    Functions that a prompt defines before that one, such as the encoder of a decoder, are also the test's own: what an
    answer puts in their place is not used.
    """
    before, definition, _ = row["prompt"].partition(f"def {row['entry_point']}(")
    test = f"{before if definition else ''}\n{row['test']}\ncheck({row['entry_point']})"
    return PythonTest(program, test, Limits(cpu_seconds=cpu_seconds), names=(row["entry_point"],))


def _prompt(row: dict[str, Any], form: str) -> str:
    prompt: str = row["prompt"]
    return prompt.strip() if form == "stripped" else prompt
