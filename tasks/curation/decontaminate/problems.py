"""Reads evaluation problems from the files of benchmarks.

HumanEval and its infilling variants, MBPP, APPS, MultiPL-E, HumanEval-X, and any other JSON: one record a line, or a
list of records, optionally compressed with gzip.
"""

import dataclasses
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files

# The fields of known benchmarks to search documents for.
PROMPTS = ("prompt", "text", "question", "description", "instruction", "docstring", "intent", "rewritten_intent")
SOLUTIONS = ("canonical_solution", "code", "solution", "solutions", "reference_code", "snippet", "body")
TESTS = ("test", "tests", "test_list", "challenge_test_list", "example_test")
OTHERS = ("declaration", "starter_code", "suffix")
_KNOWN = (*PROMPTS, *SOLUTIONS, *TESTS, *OTHERS)
_NAMES = ("task_id", "name", "id", "problem_id", "question_id")
_MIN_TEXT = 40  # characters of an unknown field: a shorter one is a name or an id
_FILE = re.compile(r"\.(jsonl|ndjson|json)(\.gz)?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        name: file and id: "HumanEval:HumanEval/0".
        texts: by the part of the problem, the name of its field; alternative solutions are "solutions[0]" and so on.
        file: location of the file.
    """

    name: str
    texts: Mapping[str, str]
    file: str = ""


def is_solution(part: str) -> bool:
    """Whether a part of a problem is a solution."""
    return part.partition("[")[0] in SOLUTIONS


def read_problems(paths: Iterable[str | os.PathLike[str]]) -> list[Problem]:
    """The problems of files, patterns of files, or folders, local or gs://.

    Uses the fields of a record that known benchmarks have or, if it has none of them, all its longer texts.

    Raises:
        UserError: a file does not exist, cannot be read, or has no problem.
    """
    return [problem for path in paths for location in _locate(os.fspath(path)) for problem in _read(location)]


def _locate(path: str) -> list[str]:
    path = filesystem.expand_home(path)
    if files.is_folder(path, path):
        locations = [file.location for file in files.walk(path, lambda name: _FILE.search(name) is not None)]
    else:
        locations = [path] if files.exists(path, path) else files.matching(path, path)
    if not locations:
        raise UserError(f"{path}: no file of evaluation problems (.jsonl or .json, also .gz): check the path")
    return locations


def _read(location: str) -> list[Problem]:
    file = _FILE.sub("", location.rstrip("/").rpartition("/")[2])
    problems = []
    for number, record in enumerate(_records(location), 1):
        texts = {part: text for part, text in _texts(record) if text.strip()}
        if texts:
            name = next((record[field] for field in _NAMES if record.get(field) not in (None, "")), f"#{number}")
            problems.append(Problem(f"{file}:{name}", texts, location))
    if not problems:
        raise UserError(f"{location} has no evaluation problem: none of its records has a text to search for")
    return problems


def _records(location: str) -> list[dict[str, Any]]:
    data = files.read_bytes(location)
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        try:
            value = json.loads(text)
            records = value if isinstance(value, list) else [value]
        except json.JSONDecodeError:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{location} is not JSON with evaluation problems ({error}): fix or remove it") from None
    return [record for record in records if isinstance(record, dict)]


def _texts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = [field for field in _KNOWN if record.get(field)]
    for field in known:
        yield from _of_field(field, record[field])
    if not known:
        yield from ((name, text) for name, text in record.items() if isinstance(text, str) and len(text) >= _MIN_TEXT)


def _of_field(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if field == "solutions":  # alternatives: a list, encoded as JSON in APPS, in {"solution": ...} in CodeContests
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                value = [value]
        elif isinstance(value, Mapping):
            value = value.get("solution")
        if isinstance(value, list):
            yield from ((f"{field}[{index}]", text) for index, text in enumerate(value) if isinstance(text, str))
            return
    if isinstance(value, list):  # lines, or assertions
        value = "\n".join(text for text in value if isinstance(text, str))
    if isinstance(value, str):
        yield field, value
