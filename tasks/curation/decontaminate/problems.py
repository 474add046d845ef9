"""The problems that models are evaluated with, read from the files that benchmarks come as.

HumanEval and its infilling forms, MBPP, APPS, MultiPL-E, HumanEval-X, and whatever else is JSON: one record a line, or
a list of records, also with gzip.
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
from tasks.sources import files

# The fields of known benchmarks that are worth finding in a document.
PROMPTS = ("prompt", "text", "question", "description", "instruction", "docstring", "intent", "rewritten_intent")
SOLUTIONS = ("canonical_solution", "code", "solution", "solutions", "reference_code", "snippet", "body")
TESTS = ("test", "tests", "test_list", "challenge_test_list", "example_test")
OTHERS = ("declaration", "starter_code", "suffix")
_KNOWN = (*PROMPTS, *SOLUTIONS, *TESTS, *OTHERS)
_NAMES = ("task_id", "name", "id", "problem_id", "question_id")
_SHORTEST = 40  # characters of a field that is not known, below which it names something rather than says it
_FILE = re.compile(r"\.(jsonl|ndjson|json)(\.gz)?$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        name: file and id: "HumanEval:HumanEval/0".
        texts: by the part of the problem, which is the field; of alternative solutions "solutions[0]" and so on.
        file: that it comes from.
    """

    name: str
    texts: Mapping[str, str]
    file: str = ""


def is_solution(part: str) -> bool:
    """Whether a part of a problem is code that solves it."""
    return part.partition("[")[0] in SOLUTIONS


def problems(places: Iterable[str | os.PathLike[str]]) -> list[Problem]:
    """The problems of files, patterns of files, or folders of them; local or gs://.

    Of a record the fields that known benchmarks have are taken; of one that has none of them, all longer texts.

    Raises:
        UserError: a file that is not there or cannot be read, or holds no problem.
    """
    return [problem for place in places for location in _located(os.fspath(place)) for problem in _read(location)]


def _located(place: str) -> list[str]:
    if files.is_folder(place, place):
        found = [file.location for file in files.walk(place, lambda name: _FILE.search(name) is not None)]
    else:
        found = [place] if files.exists(place, place) else files.matching(place, place)
    if not found:
        raise UserError(f"{place}: no file of evaluation problems (.jsonl or .json, also .gz): check the path")
    return found


def _read(location: str) -> list[Problem]:
    file = _FILE.sub("", location.rstrip("/").rpartition("/")[2])
    found = []
    for number, record in enumerate(_records(location), 1):
        texts = {part: text for part, text in _texts(record) if text.strip()}
        if texts:
            name = next((record[field] for field in _NAMES if record.get(field) not in (None, "")), f"#{number}")
            found.append(Problem(f"{file}:{name}", texts, location))
    if not found:
        raise UserError(f"{location} holds no evaluation problem: its records have no text worth looking for")
    return found


def _records(location: str) -> list[dict[str, Any]]:
    data = files.read_bytes(location)
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
        try:
            whole = json.loads(text)
            records = whole if isinstance(whole, list) else [whole]
        except json.JSONDecodeError:
            records = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{location} is no JSON of evaluation problems ({error}): mend or leave it out") from None
    return [record for record in records if isinstance(record, dict)]


def _texts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = [field for field in _KNOWN if record.get(field)]
    for field in known:
        yield from _of_field(field, record[field])
    if not known:
        yield from ((name, text) for name, text in record.items() if isinstance(text, str) and len(text) >= _SHORTEST)


def _of_field(field: str, value: Any) -> Iterator[tuple[str, str]]:
    if field == "solutions":  # alternatives: a list, in APPS written as JSON, in CodeContests within {"solution": ...}
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
