"""Reads the problems of APPS in the layouts in which they are published."""

import dataclasses
import decimal
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.evaluation import task_files
from codellama_jax.runtime import filesystem

DIFFICULTIES = ("introductory", "interview", "competition")


@dataclasses.dataclass(frozen=True)
class AppsProblem:
    """A problem.

    Attributes:
        name: split and number, such as "test/0000".
        question: the text.
        starter_code: the code that an answer begins with; "": none.
        difficulty: one of DIFFICULTIES.
        tests: the published JSON: "inputs" and "outputs" of each test are texts, or lists of lines; where a function is
            called, they are its arguments and its result.
        count: number of tests.
        function: name of the function that is called; "": programs read standard input and write standard output.
        solutions: right programs; there may be none.
    """

    name: str
    question: str
    starter_code: str
    difficulty: str
    tests: str
    count: int
    function: str
    solutions: list[str]


def read(folder: Path, split: str, sha256: str) -> list[AppsProblem]:
    """The problems of a split, in the order of their numbers.

    Args:
        folder: has SPLIT.jsonl, as on Hugging Face, or SPLIT/NNNN/question.txt and so on, as in the archive.
        split: "train" or "test".
        sha256: digest that SPLIT.jsonl must have; "": any.

    Raises:
        UserError: there is neither, or a file is damaged.
    """
    path = folder / f"{split}.jsonl"
    if filesystem.exists(path):
        rows = task_files.json_lines(path, task_files.read(path, sha256, f"APPS.sha256_{split}"), ("question",))
        return [_from_row(row, number, split, f"{path}:{number + 1}") for number, row in enumerate(rows)]
    names = [name for name in _names(folder / split) if name.isdecimal()]
    if not names:
        raise UserError(
            f"{folder} has neither {split}.jsonl nor {split}/0000: it needs one of the layouts of APPS"
            " (--data=DIR names its parent folder)"
        )
    return [_from_folder(folder / split / name, f"{split}/{name}") for name in sorted(names)]


def _names(folder: Path) -> Iterator[str]:
    if filesystem.exists(folder):
        yield from (path.name for path in folder.iterdir())


def _from_row(row: dict[str, Any], number: int, split: str, where: str) -> AppsProblem:
    """A row of Hugging Face, in which tests and solutions are JSON in texts."""
    id = row.get("problem_id", row.get("id", number))
    texts = {key: row.get(key) or "" for key in ("input_output", "solutions")}
    name = f"{split}/{id:04}" if isinstance(id, int) else f"{split}/{id}"
    return _problem(name, row, texts["input_output"], texts["solutions"], where)


def _from_folder(folder: Path, name: str) -> AppsProblem:
    """A folder of the archive."""

    def text(file: str) -> str:
        return filesystem.read_text(folder / file) if filesystem.exists(folder / file) else ""

    metadata = _parsed(text("metadata.json") or "{}", f"{folder}/metadata.json")
    row = {"question": text("question.txt"), "starter_code": text("starter_code.py")}
    row["difficulty"] = metadata.get("difficulty", "") if isinstance(metadata, dict) else ""
    if not row["question"]:
        raise UserError(f"{folder}/question.txt is missing: fetch the archive again")
    return _problem(name, row, text("input_output.json"), text("solutions.json"), str(folder))


def _problem(name: str, row: dict[str, Any], tests: str, solutions: str, where: str) -> AppsProblem:
    found = _parsed(tests or "{}", f"{where}: input_output")
    inputs, outputs = (found.get("inputs", []), found.get("outputs", [])) if isinstance(found, dict) else (None, None)
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise UserError(f"{where}: input_output does not have as many inputs as outputs: fetch the file again")
    if not isinstance(row["question"], str):
        raise UserError(f"{where}: question is not a text: fetch the file again")
    difficulty = row.get("difficulty")
    if difficulty not in DIFFICULTIES:
        raise UserError(f"{where}: difficulty is {difficulty!r}, not one of {', '.join(DIFFICULTIES)}")
    programs = _parsed(solutions or "[]", f"{where}: solutions")
    if not isinstance(programs, list) or not all(isinstance(program, str) for program in programs):
        raise UserError(f"{where}: solutions is not a list of texts: fetch the file again")
    function = str(found.get("fn_name") or "")
    starter_code = str(row.get("starter_code") or "")
    return AppsProblem(name, row["question"], starter_code, difficulty, tests, len(inputs), function, programs)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}): fetch the file again") from None


def _integer(digits: str) -> int:
    """An integer of any length; int() refuses very long ones."""
    return int(digits) if len(digits) < 4000 else int(decimal.Decimal(digits))
