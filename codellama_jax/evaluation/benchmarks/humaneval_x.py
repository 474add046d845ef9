"""HumanEval-X (arXiv 2303.17568): HumanEval with solutions and tests that people wrote in each language."""

import dataclasses
from pathlib import Path

from codellama_jax.config.generation import Sampling
from codellama_jax.config.language_benchmarks import HumanEvalX as Settings
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmarks import humaneval
from codellama_jax.evaluation.benchmarks.by_language import PYTHON, ByLanguage
from codellama_jax.evaluation.benchmarks.multipl_e import JAVA, JAVAC, LANGUAGES
from codellama_jax.evaluation.languages import Language
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.sandbox.jobs import Job

FILE = "humaneval-x/humaneval_{}.jsonl.gz"
FIELDS = ("task_id", "prompt", "canonical_solution", "test")
_COMPILE = "g++ -std=c++11 program.cpp -o program"
_CPP = dataclasses.replace(LANGUAGES["cpp"], commands=(_COMPILE, "./program"))
_OPENSSL = dataclasses.replace(_CPP, commands=(f"{_COMPILE} -lcrypto -lssl", "./program"))  # for one task
# What the benchmark's own program puts before each program.
_CPP_HEADERS = ("stdlib.h", "algorithm", "math.h", "stdio.h", "vector", "string", "climits", "cstring", "iostream")
_PYTHON_IMPORTS = (
    *("math", "re", "sys", "copy", "datetime", "itertools", "collections", "heapq", "statistics", "functools"),
    *("hashlib", "string"),
)
_STOP = {
    PYTHON: ("\ndef", "\nclass", "\nif", "\n#", "\nprint", "\nassert"),
    "cpp": ("\n}",),
    "java": ("\n    }\n",),
    "js": ("\n}",),
}
# What ends a function whose answer was cut at a stop string.
_CLOSING = {"cpp": "\n}\n", "java": "\n    }\n", "js": "\n}\n"}


class HumanEvalX(ByLanguage[Settings]):
    """Problem.data is the task's row."""

    name = "humaneval_x"
    settings_class = Settings
    languages = {  # noqa: RUF012
        "cpp": _CPP,
        "java": dataclasses.replace(
            LANGUAGES["java"], file="Main.java", commands=(f"{JAVAC} Main.java", f"{JAVA} Main"), tools={}
        ),
        # Its tests use console.assert, which writes a message and goes on.
        "js": dataclasses.replace(LANGUAGES["js"], silent=True),
    }

    def language(self, problem: Problem) -> Language:
        needs_openssl = problem.variant == "cpp" and "#include<openssl/" in problem.data["prompt"]
        return _OPENSSL if needs_openssl else super().language(problem)

    def read(self, data: Path, language: str) -> list[Problem]:
        path, setting = data / FILE.format(language), f"sha256_{language}"
        content = task_files.read(path, getattr(self.settings, setting), f"HumanEvalX.{setting}")
        rows = task_files.json_lines(path, content, FIELDS)
        return [Problem(row["task_id"], Completion(row["prompt"]), row, language) for row in rows]

    def sampling(self, problem: Problem) -> Sampling:
        sampling = super().sampling(problem)
        return sampling if sampling.stop else dataclasses.replace(sampling, stop=_STOP[problem.variant])

    def completion(self, problem: Problem, raw: str) -> str:
        """The body of the function: indented lines in Python, elsewhere up to the brace that closes it."""
        text = super().completion(problem, raw)
        if problem.variant == PYTHON:
            return _indented(text)
        closed = _up_to_closing_brace(text + _CLOSING[problem.variant])
        return closed + "}\n" if problem.variant == "java" else closed  # the class

    def program(self, problem: Problem, completion: str) -> str:
        row = problem.data
        before = ""
        if problem.variant == PYTHON:
            before = "".join(f"import {name}\n" for name in _PYTHON_IMPORTS)
            before += "from typing import *\nfrom collections import *\n"
        elif problem.variant == "cpp":
            headers = (f"#include<{name}>\n" for name in _CPP_HEADERS)
            before = "".join(line for line in headers if line.strip() not in row["prompt"])
        return f"{before}{row['prompt']}{completion}\n"

    def test(self, problem: Problem) -> str:
        return str(problem.data["test"])

    def python_job(self, problem: Problem, program: str) -> Job:
        row = problem.data
        test, entry_point = row["test"].rstrip().removesuffix(")").rsplit("check(", 1)  # its last line
        checked = {"prompt": row["prompt"], "test": test, "entry_point": entry_point}
        return humaneval.python_test(program, checked, self.settings.cpu_seconds)

    def canonical(self, problem: Problem) -> str:
        return str(problem.data["canonical_solution"])


def _indented(text: str) -> str:
    """The lines before the first one that is neither empty nor indented."""
    kept = []
    for line in text.split("\n"):
        if line.strip() and line[0] not in " \t":
            break
        kept.append(line)
    return "\n".join(kept)


def _up_to_closing_brace(text: str) -> str:
    """The text up to the first closing brace that has no opening one, or all of it."""
    open_braces = 0
    for position, character in enumerate(text):
        open_braces += (character == "{") - (character == "}")
        if open_braces < 0:
            return text[: position + 1] + "\n"
    return text
