"""Questions that no model writes: those of a file, or of the exercises, with their tests if they have any.

A record has the fields of HumanEval: prompt, the beginning of a function; entry_point, its name; and test, a function
`check` that is called with it. `question`, the same in words, may stand beside or in place of them.
"""

import ast
import dataclasses
import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.chat import reserved_tag
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.exercises import problems as exercises
from codellama_jax.runtime import filesystem
from tasks.synthesis.parsing import Case

EXERCISES = "embedded:exercises"
SUFFIXES = (".jsonl", ".jsonl.gz")
_IN_WORDS = "Complete this Python function:\n\n{prompt}"  # where a record has no question


@dataclasses.dataclass(frozen=True)
class Given:
    """A question.

    Attributes:
        text: the question in words.
        prompt: the beginning of the function; "" if the record has none.
        cases: the tests; none if the record has none.
    """

    text: str
    prompt: str = ""
    cases: tuple[Case, ...] = ()


@dataclasses.dataclass(frozen=True)
class GivenQuestions:
    """The questions of a place.

    Attributes:
        questions: in the order of the place.
        identity: what they are, as JSON values.
    """

    questions: tuple[Given, ...]
    identity: Mapping[str, str]

    @property
    def tested(self) -> bool:
        """Whether they have tests: all of them, or none."""
        return bool(self.questions[0].cases)


def is_given(place: str) -> bool:
    """Whether a place has questions, and is not a model."""
    return place == EXERCISES or place.endswith(SUFFIXES)


def read(place: str, completed: bool, most: int | None = None) -> GivenQuestions:
    """The questions of a place, of which is_given is true.

    Args:
        completed: whether each must have a prompt and tests.
        most: only the first ones; None: all.

    Raises:
        UserError: the file is missing or damaged, has no question, or lacks something in some records.
    """
    if place == EXERCISES:
        try:
            problems = exercises.problems("questions", most)
        except ValueError as error:
            raise UserError(f"SelfInstruct.most_questions={most}: {error}", EXIT_USAGE) from None
        rows: list[tuple[str, Mapping[str, Any]]] = [
            (f"{place}, {row['task_id']}", {**row, "question": exercises.question(row)}) for row in problems
        ]
    else:
        rows = list(itertools.islice(_rows(place), most))
    found = [_given(row, where) for where, row in rows]
    if not found:
        raise UserError(f"{place} has no questions: name another file", EXIT_USAGE)
    tested = bool(found[0].cases)
    for given, (where, _) in zip(found, rows, strict=True):
        if completed and not (given.prompt and given.cases):
            lacks = "test" if given.prompt else "prompt"
            raise UserError(f"{where} has no {lacks}: SelfInstruct.form=completion needs both", EXIT_USAGE)
        if bool(given.cases) != tested:
            raise UserError(f"{where}: some records have a test and others not: divide the file", EXIT_USAGE)
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(given) for given in found]).encode())
    return GivenQuestions(tuple(found), {"file": place, "sha256": digest.hexdigest()})


def _rows(place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of a file of JSON Lines."""
    try:
        content = filesystem.read_bytes(place)
        content = gzip.decompress(content) if place.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{place} cannot be read ({error}): name another file of questions", EXIT_USAGE) from None
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{place}:{number} is not JSON ({error}): correct it", EXIT_USAGE) from None
            if not isinstance(row, dict):
                raise UserError(f"{place}:{number} is not an object: correct it", EXIT_USAGE)
            yield f"{place}:{number}", row


def _given(row: Mapping[str, Any], where: str) -> Given:
    """The question of a record. Raises UserError if there is none, or the test has another form."""
    question, prompt, name, test = (_text(row, field, where) for field in ("question", "prompt", "entry_point", "test"))
    if not (question or prompt).strip():
        raise UserError(f"{where} has neither a question nor a prompt: add one", EXIT_USAGE)
    text = question or _IN_WORDS.replace("{prompt}", prompt)
    if tag := reserved_tag(text):
        raise UserError(f"{where} contains {tag}, a tag of the dialogue format: remove it", EXIT_USAGE)
    if test and not name:
        raise UserError(f"{where} has a test, but no entry_point, the function that is tested: add it", EXIT_USAGE)
    return Given(text, prompt, cases(test, name, where) if test else ())


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field) or ""
    if not isinstance(value, str):
        raise UserError(f"{where}: {field} is {type(value).__name__}, not text: correct it", EXIT_USAGE)
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cases(test: str, name: str, where: str) -> tuple[Case, ...]:
    """The tests of HumanEval's form, which call the function by its name.

    Each assertion of `check` is one. If it has other statements too, all of it is one, because they may belong
    together. What stands beside `check` is a part of each, unless it is an assignment to names that `check` does not
    use.

    Raises:
        UserError: there is no function `check` with one parameter and an assertion, or the text is not Python.
    """
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: the test is not Python ({error}): correct it", EXIT_USAGE) from None
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or len(checks[0].args.args) != 1 or not _asserts(checks[0].body):
        raise UserError(
            f"{where}: the test has no function check(candidate) with an assertion, as in HumanEval: correct it",
            EXIT_USAGE,
        )
    [check] = checks
    renamed = _Renamed(check.args.args[0].arg, name)
    body = [ast.fix_missing_locations(renamed.visit(node)) for node in check.body if not _is_text(node)]
    used = {node.id for part in body for node in ast.walk(part) if isinstance(node, ast.Name)}
    before = [node for node in tree.body if node is not check and not _is_text(node) and not _unused(node, used)]
    single = all(isinstance(node, ast.Assert) for node in body)
    return tuple(Case(_source([*before, *part])) for part in ([[node] for node in body] if single else [body]))


def _asserts(body: Sequence[ast.stmt]) -> bool:
    return any(isinstance(node, ast.Assert) for statement in body for node in ast.walk(statement))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _unused(node: ast.stmt, used: set[str]) -> bool:
    """Whether a statement only assigns names that are not used, such as METADATA."""
    return isinstance(node, ast.Assign) and not used & {
        inner.id for target in node.targets for inner in ast.walk(target) if isinstance(inner, ast.Name)
    }


def _source(statements: Sequence[ast.stmt]) -> str:
    return ast.unparse(ast.Module(list(statements), []))


class _Renamed(ast.NodeTransformer):
    """Replaces a name."""

    def __init__(self, old: str, new: str):
        self._old, self._new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._new, node.ctx) if node.id == self._old else node
