"""Docstrings of Python functions (CodeXGLUE's code-to-text, arXiv 2102.04664), as holes to fill."""

import ast
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from codellama_jax.config.scored_benchmarks import Docstring as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.bleu import natural_language_bleu
from codellama_jax.evaluation.problem import Infilling, Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.jobs import Outcome
from codellama_jax.tokenizer import Order

_log = logging.getLogger(__name__)

FILE = "codexglue/python/test.jsonl"
FIELDS = ("code", "docstring", "docstring_tokens")
QUOTES = '"""'

_OPENING = re.compile(r"""[rRuUbB]?("{3}|'{3}|"|')\s*$""")
_CLOSING = re.compile(r"""\s*("{3}|'{3}|"|')""")
_STRING = re.compile(r"""[rRuUbB]?("{3}|'{3})(.*?)\1""", re.DOTALL)


class Docstring(Benchmark[Settings]):
    """Problem.data is the reference. The score is CodeXGLUE's: the mean of smoothed BLEU-4, here between 0 and 1."""

    name = "docstring"
    settings_class = Settings

    def problems(self, data: Path) -> list[Problem]:
        path = data / FILE
        content = task_files.read(path, self.settings.sha256, "Docstring.sha256")
        order = cast(Order, self.settings.order)
        problems, without = list[Problem](), 0
        for index, row in enumerate(task_files.json_lines(path, content, FIELDS)):
            where = f"{path}:{index + 1}"
            hole = docstring_hole(task_files.text(row, "code", where), task_files.text(row, "docstring", where))
            if hole is None:
                without += 1
                continue
            reference = " ".join(map(str, row["docstring_tokens"])).replace("\n", "").strip()
            problems.append(Problem(str(row.get("idx", index)), Infilling(*hole, order), reference))
        if without:
            _log.warning("warning: %d functions of %s are left out: their code has no docstring", without, path)
        if not problems:
            raise UserError(f"{path} has no functions with docstrings: it must be CodeXGLUE's code-to-text test set")
        return problems

    def completion(self, problem: Problem, raw: str) -> str:
        """The first line that is not empty, before the quotes that may close the docstring."""
        text = super().completion(problem, raw).partition(QUOTES)[0]
        return next((line.strip() for line in text.split("\n") if line.strip()), "")

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        return Judgement(None, {"bleu": natural_language_bleu(completion, problem.data)})

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """With "codexglue_bleu", the score as CodeXGLUE's script states it: times 100, summed in the order of tasks."""
        total = sum((sample.scores["bleu"] for sample in samples), 0.0)
        return {"codexglue_bleu": total * 100 / len(samples), **super().variant_summary(samples)}

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        return Judgement(None, {"bleu": 0.0}, refusal)

    def canonical(self, problem: Problem) -> str:
        return f"{problem.data}\n    "


def docstring_hole(code: str, docstring: str) -> tuple[str, str] | None:
    """The code before and after the docstring of a function; None if the code has none.

    The code before ends with three quotes and a space, whatever quotes the docstring has; the quotes that close it are
    left out.
    """
    first = _parsed(code)
    span = _span_of_text(code, docstring) if first is None else _span_in_function(code, first)
    return None if span is None else (f"{code[: span[0]]}{QUOTES} ", code[span[1] :])


def _parsed(code: str) -> ast.stmt | None:
    """The first statement of code in Python 3; None if it is not valid: the data has Python 2 too."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the code: escapes that are not valid, for example
            return next(iter(ast.parse(code).body), None)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _span_in_function(code: str, function: ast.stmt) -> tuple[int, int] | None:
    """Where the docstring's literal begins and ends."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or ast.get_docstring(function) is None:
        return None
    literal = function.body[0]
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", code)  # as the parser counts them

    def position(line: int, column: int) -> int:  # columns are bytes of UTF-8
        return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

    assert literal.end_lineno is not None and literal.end_col_offset is not None
    return position(literal.lineno, literal.col_offset), position(literal.end_lineno, literal.end_col_offset)


def _span_of_text(code: str, docstring: str) -> tuple[int, int] | None:
    """Where the quotes around the docstring begin and end, or else those of the first text in three quotes."""
    start = code.find(docstring) if docstring.strip() else -1
    opening = _OPENING.search(code, 0, start) if start >= 0 else None
    closing = _CLOSING.match(code, start + len(docstring))
    if opening is not None and closing is not None:
        return opening.start(), closing.end()
    literal = _STRING.search(code)
    return None if literal is None else literal.span()
