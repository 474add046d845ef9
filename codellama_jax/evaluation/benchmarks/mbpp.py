"""MBPP (arXiv 2108.07732): short Python functions, described in a sentence and tested by three assertions."""

import ast
import json
from pathlib import Path
from typing import Any, ClassVar

from codellama_jax.config.evaluation import MBPP as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Chat, Completion, Problem
from codellama_jax.sandbox.jobs import Job, Limits, PythonTest

FILE, SANITIZED = "mbpp/mbpp.jsonl", "mbpp/sanitized-mbpp.json"
SHOTS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 1)  # ids of solved tasks
SPLITS = {"test": range(11, 511), "validation": range(511, 601), "train": range(601, 975), "all": range(1, 975)}
OPEN, CLOSE = "[PYTHON]", "[/PYTHON]"


class MBPP(Benchmark[Settings]):
    """Problem.data has the task's row in one form for both files: task_id, text, code, tests, imports and setup.

    The code of the file has CRLF line ends, and so has the prompt.
    """

    name = "mbpp"
    settings_class = Settings
    needs_sandbox = True
    paper_source = "table 2"
    paper: ClassVar = {
        "Code Llama 7B": {"pass@1": 0.414, "pass@10": 0.667, "pass@100": 0.825},
        "Code Llama 13B": {"pass@1": 0.470, "pass@10": 0.717, "pass@100": 0.871},
        "Code Llama 34B": {"pass@1": 0.550, "pass@10": 0.762, "pass@100": 0.866},
        "Code Llama 70B": {"pass@1": 0.624, "pass@10": 0.811, "pass@100": 0.919},
        "Code Llama - Instruct 7B": {"pass@1": 0.444},
        "Code Llama - Instruct 13B": {"pass@1": 0.494},
        "Code Llama - Instruct 34B": {"pass@1": 0.570},
        "Code Llama - Instruct 70B": {"pass@1": 0.622},
        "Code Llama - Python 7B": {"pass@1": 0.476},
        "Code Llama - Python 13B": {"pass@1": 0.490},
        "Code Llama - Python 34B": {"pass@1": 0.562},
        "Code Llama - Python 70B": {"pass@1": 0.656},
    }

    def problems(self, data: Path) -> list[Problem]:
        settings = self.settings
        rows = _sanitized(data, settings) if settings.sanitized else _rows(data, settings)
        solved = _solved(rows, settings)
        problems = []
        for row in rows:
            if row["task_id"] in SPLITS[settings.split]:
                asked: Chat | Completion
                if settings.prompt == "instruct":
                    asked = Chat(({"role": "user", "content": _question(row)},))
                else:
                    others = [shot for shot in solved if shot is not row]
                    text = _few_shot(others[: settings.shots], row)
                    asked = Completion(text.strip() if settings.form == "stripped" else text)
                problems.append(Problem(f"MBPP/{row['task_id']}", asked, row))
        return problems

    def completion(self, problem: Problem, raw: str) -> str:
        """Few-shot: the text before the stop string. Instruct: the text between the tags, or all without an opening."""
        if self.settings.prompt == "instruct":
            _, tag, code = raw.partition(OPEN)
            return super().completion(problem, (code if tag else raw).partition(CLOSE)[0])
        return super().completion(problem, raw)

    def job(self, problem: Problem, completion: str) -> Job:
        row = problem.data
        # The set-up uses the classes that the program defines, so it comes after the program.
        program = f"{completion}\n{row['setup']}\n"
        test = "\n".join([*row["imports"], *row["tests"]])
        return PythonTest(program, test, Limits(cpu_seconds=self.settings.cpu_seconds), names=_functions(row["code"]))

    def canonical(self, problem: Problem) -> str:
        code: str = problem.data["code"]
        if self.settings.prompt == "instruct":
            return f"{OPEN}\n{code}\n{CLOSE}"
        return f"\n{code}\n[DONE]" if self.settings.form == "stripped" else f"{code}\n[DONE]"


def _functions(code: str) -> tuple[str, ...]:
    """The names of the functions in a solution: one of them is `sum`, which a test would take for Python's."""
    return tuple(node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))


def _rows(data: Path, settings: Settings) -> list[dict[str, Any]]:
    path = data / FILE
    content = task_files.read(path, settings.sha256, "MBPP.sha256")
    fields = ("task_id", "text", "code", "test_list", "test_setup_code")
    return [
        {
            "task_id": row["task_id"],
            "text": row["text"],
            "code": row["code"],
            "tests": row["test_list"],
            "imports": [],
            "setup": row["test_setup_code"],
        }
        for row in task_files.json_lines(path, content, fields)
    ]


def _sanitized(data: Path, settings: Settings) -> list[dict[str, Any]]:
    path = data / SANITIZED
    content = task_files.read(path, settings.sha256_sanitized, "MBPP.sha256_sanitized")
    try:
        rows = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch it again") from None
    fields = ("task_id", "prompt", "code", "test_list", "test_imports")
    return [
        {
            "task_id": row["task_id"],
            "text": row["prompt"],
            "code": row["code"],
            "tests": row["test_list"],
            "imports": row["test_imports"],
            "setup": "",
        }
        for row in (task_files.with_fields(row, fields, f"{path}: task {n}") for n, row in enumerate(rows))
    ]


def _solved(rows: list[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """The solved tasks that a prompt may have, in their order. Raises UserError if they are fewer than MBPP.shots."""
    by_id = {row["task_id"]: row for row in rows}
    solved = [by_id[id] for id in SHOTS if id in by_id]
    if settings.prompt == "few_shot" and len(solved) < settings.shots:
        file = SANITIZED if settings.sanitized else FILE
        raise UserError(
            f"MBPP.shots={settings.shots}, but {file} has {len(solved)} of the tasks 1 to 10, which are the solved"
            f" ones: set MBPP.shots to at most {len(solved)}"
        )
    return solved


def _few_shot(shots: list[dict[str, Any]], row: dict[str, Any]) -> str:
    solved = "".join(f"{_task(shot)}[BEGIN]\n{shot['code']}\n[DONE]\n\n" for shot in shots)
    return f"{solved}{_task(row)}[BEGIN]\n"


def _task(row: dict[str, Any]) -> str:
    tests = "\n".join(row["tests"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']}"
        f" Your code should pass these tests:\n\n{tests}\n"
    )


def _question(row: dict[str, Any]) -> str:
    tests = "\n".join(row["tests"])
    return (
        f"You are an expert Python programmer, and here is your task: {row['text']}\n"
        f"Your code should pass these tests:\n\n{tests}\n"
        f"Your code should start with a {OPEN} tag and end with a {CLOSE} tag."
    )
