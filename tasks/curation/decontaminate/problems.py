"""Reads evaluation problems from the files of benchmarks.

HumanEval and its infilling variants, MBPP, APPS, MultiPL-E, HumanEval-X, and any other records, in the formats of
sources (tasks/sources/records/record_formats.py), such as the Parquet files of a data set's clone.
"""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, git_lfs
from tasks.sources import files
from tasks.sources.files import Found
from tasks.sources.records import record_formats
from tasks.sources.records.record_file import Damaged

# The fields of known benchmarks to search documents for.
PROMPTS = ("prompt", "text", "question", "description", "instruction", "docstring", "intent", "rewritten_intent")
SOLUTIONS = ("canonical_solution", "code", "solution", "solutions", "reference_code", "snippet", "body")
TESTS = ("test", "tests", "test_list", "challenge_test_list", "example_test")
OTHERS = ("declaration", "starter_code", "suffix")
_KNOWN = (*PROMPTS, *SOLUTIONS, *TESTS, *OTHERS)
_NAMES = ("task_id", "name", "id", "problem_id", "question_id")
_MIN_TEXT = 40  # characters of an unknown field: a shorter one is a name or an id
_EXTENSION = re.compile(rf"(\.[a-z]\w{{1,7}})(\.({'|'.join(files.COMPRESSIONS)}))?$", re.IGNORECASE)
# The files of a data set's clone are named after their split: train-00000-of-00001.parquet.
_SPLIT = re.compile(r"(train|training|test|validation|valid|val|dev|eval|prompt|data|part|default)\b", re.IGNORECASE)
_SHARD = re.compile(r"-\d+-of-\d+")
_BLOCK = 1 << 20

_log = logging.getLogger(__name__)


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

    Uses the fields of a record that known benchmarks have or, if it has none of them, all its longer texts. A .json,
    .csv or .tsv file of a folder may have other data, such as the description of a data set, and is then skipped with a
    message.

    Raises:
        UserError: a file does not exist, cannot be read, or has no problem; a folder has no problem.
    """
    return [problem for path in paths for problem in _of_path(filesystem.expand_home(os.fspath(path)))]


def _of_path(path: str) -> list[Problem]:
    named = files.exists(path, path)
    locations = [path] if named else files.matching(path, path)
    problems = []
    for location in locations:
        if files.is_folder(location, path):
            problems += _of_folder(location)
        elif named or record_formats.is_record_file(location):
            problems += _of_file(location)
        else:
            _log.info("%s is not read: its name has no extension of a file of records", location)
    if not problems:
        raise UserError(f"{path}: no file of evaluation problems ({record_formats.KINDS}): check the path")
    return problems


def _of_folder(folder: str) -> list[Problem]:
    found = files.list_files(folder, record_formats.is_record_file).found
    problems = []
    for file in found:
        try:
            problems += _of_file(file.location)
        except UserError as error:
            if record_formats.is_corpus_file(file.location):
                raise
            _log.info("%s; it is skipped", error)
    if not problems:
        raise UserError(
            f"{folder}: no file of evaluation problems below the folder ({record_formats.KINDS}): check the path"
        )
    return problems


def _of_file(location: str) -> list[Problem]:
    *_, folder, name = ["", *location.rstrip("/").split("/")]
    file = _SHARD.sub("", _EXTENSION.sub("", name))
    if folder and _SPLIT.match(file):
        file = f"{folder}/{file}"
    problems = []
    fields: dict[str, None] = {}
    for number, record in enumerate(_records(location), 1):
        texts = {part: text for part, text in _texts(record) if text.strip()}
        fields |= dict.fromkeys(record)
        if texts:
            name = next((record[field] for field in _NAMES if record.get(field) not in (None, "")), f"#{number}")
            problems.append(Problem(f"{file}:{name}", texts, location))
    if not problems:
        found = f"its fields are {', '.join(list(fields)[:12])}" if fields else "it is empty"
        raise UserError(f"{location} has no evaluation problem: none of its records has a text to search for ({found})")
    return problems


def _records(location: str) -> Iterator[dict[str, Any]]:
    git_lfs.check(location)
    found = Found(location, location, filesystem.size(location), "")
    try:
        form = record_formats.open_file(found, _BLOCK, lambda names, _: list(names))
        for shard in range(len(form)):
            for record in form.read(shard):
                yield {name: _decoded(value) for name, value in record.fields().items()}
    except Damaged as damage:
        raise UserError(f"{damage.location} is damaged: {damage.reason}; fix or remove it") from None


def _decoded(value: Any) -> Any:
    """The value with bytes as text: strings of TFRecord are bytes."""
    if isinstance(value, list):
        return [_decoded(entry) for entry in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


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
