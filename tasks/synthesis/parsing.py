"""Reads questions, tests and programs from the answers of models, which may have any form.

Everything that is left out has a reason, which is counted.
"""

import ast
import contextlib
import dataclasses
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

from codellama_jax.chat import reserved_tag
from tasks.synthesis.prompts import CLOSE_CODE, CLOSE_TESTS, OPEN_CODE, OPEN_TESTS, Answer

LONGEST_QUESTION = 2000  # characters
FEWEST_WORDS = 3
LONGEST_CODE = 20_000  # characters of a program or of tests
MOST_TESTS = 20  # of a question

_ITEM = re.compile(
    r"\s{0,3}(?:[*_#]{1,4}\s*)?(?:(?:Question|Problem)\s+)?(?:\d{1,4}\s*[.):]|[-*•])(?:[*_]{1,2})?(?:\s+(.*))?", re.I
)
_CASE = re.compile(r"(?m)^[ \t]*(?:#.*test case.*|(?=assert\b))", re.IGNORECASE)
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL | re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Case:
    """A test: an assertion, after the imports and assignments that stand before it."""

    source: str


@dataclasses.dataclass(frozen=True)
class Tests:
    """The tests of an answer, and the reasons of what was left out, with counts."""

    cases: tuple[Case, ...]
    left_out: Counter[str]


class Malformed(Exception):
    """There is nothing to use in an answer. The message is the reason, one or two words."""


def questions(answer: Answer) -> tuple[list[str], Counter[str]]:
    """The questions of a numbered or bulleted list, in order, and the reasons of what was left out.

    Lines that follow an item belong to it. The last item of an answer that was cut off is left out.
    """
    left_out = Counter[str]()
    items = list[list[str]]()
    for line in answer.text.splitlines():
        if match := _ITEM.fullmatch(line):
            items.append([match[1] or ""])
        elif items and line.strip():
            items[-1].append(line)
    if not items:
        return [], Counter({(answer.refusal and "refused") or "no_list": 1})
    if answer.cut_off:
        items.pop()
        left_out["cut_off"] += 1
    found = []
    for item in items:
        text = " ".join(" ".join(item).split()).strip("*_ ")
        if reason := _unusable(text):
            left_out[reason] += 1
        else:
            found.append(text)
    return found, left_out


def _unusable(text: str) -> str:
    """Why a text is not a question; "" if it may be one."""
    if len(text.split()) < FEWEST_WORDS:
        return "too_short"
    if len(text) > LONGEST_QUESTION:
        return "too_long"
    return "reserved_tag" if reserved_tag(text) else ""


def tests(answer: Answer) -> Tests:
    """The tests between the tags. Without an opening tag, those of the whole answer.

    A test is an assertion at the top level that calls something. Imports of the standard library and assignments before
    it belong to it. Anything else is left out: a test that defines what it tests, loops, or exits says nothing.

    Raises:
        Malformed: "refused", "empty", "too_long" or "no_test", if nothing is left; otherwise see Tests.left_out.
    """
    text = _between(answer, OPEN_TESTS, CLOSE_TESTS)
    left_out = Counter[str]()
    cases, setup, seen = list[Case](), list[str](), set[str]()
    for statement, source in _statements(text, left_out, answer.cut_off):
        if reason := _left_out(statement):
            left_out[reason] += 1
            continue
        if not isinstance(statement, ast.Assert):
            setup.append(source)
            continue
        if source in seen and not setup:
            left_out["repeated"] += 1
        elif len(cases) == MOST_TESTS:
            left_out["too_many"] += 1
        else:
            seen.add(source)
            cases.append(Case("\n".join([*setup, source])))
            setup = []
    if not cases:
        del left_out["prose"]
        raise Malformed(left_out.most_common(1)[0][0] if left_out else "no_test")
    return Tests(tuple(cases), left_out)


def _statements(text: str, left_out: Counter[str], cut_off: bool) -> Iterator[tuple[ast.stmt, str]]:
    """The statements of a text and their source; if it cannot be parsed, those of the parts of it that can."""
    with contextlib.suppress(SyntaxError):
        body = _parsed(text)
        yield from ((statement, ast.get_source_segment(text, statement) or "") for statement in body)
        return
    starts = sorted({match.start() for match in _CASE.finditer(text)} | {0})
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    for number, part in enumerate(parts):
        try:
            body = _parsed(part.strip())
            yield from ((statement, ast.get_source_segment(part.strip(), statement) or "") for statement in body)
        except SyntaxError:
            cut = cut_off and number == len(parts) - 1
            left_out["cut_off" if cut else "syntax" if "assert" in part else "prose"] += 1


def _left_out(statement: ast.stmt) -> str:
    """Why a statement of a test is not used; "" if it is."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        modules = (
            [alias.name for alias in statement.names]
            if isinstance(statement, ast.Import)
            else [statement.module or "" if not statement.level else ""]
        )
        roots = {module.partition(".")[0] for module in modules}
        known = roots <= sys.stdlib_module_names - {"__future__"}  # that one must be at the beginning of a file
        return "" if known else "import"
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return ""
    if not isinstance(statement, ast.Assert):
        return "statement"
    return "" if any(isinstance(node, ast.Call) for node in ast.walk(statement.test)) else "nothing_called"


def program(answer: Answer) -> str:
    """The program between the tags, or in a fenced block, or the whole answer.

    Raises:
        Malformed: "refused", "empty", "too_long", "cut_off", "syntax", or "no_function": it defines none.
    """
    return _program(_between(answer, OPEN_CODE, CLOSE_CODE), answer.cut_off and CLOSE_CODE not in answer.text)


def completed(beginning: str, answer: Answer, stop: Sequence[str]) -> str:
    """The program of a function's beginning and the answer that continues it, up to the first stop string.

    Raises:
        Malformed: as `program`.
    """
    if answer.refusal:
        raise Malformed("refused")
    text = answer.text[: min((place for word in stop if (place := answer.text.find(word)) >= 0), default=None)]
    if not text.strip():
        raise Malformed("empty")
    if len(text) > LONGEST_CODE:
        raise Malformed("too_long")
    return _program(beginning + text.rstrip(), answer.cut_off and text == answer.text)


def _program(text: str, cut_off: bool) -> str:
    """A text that is a program with a function."""
    try:
        tree = ast.Module(_parsed(text), [])
    except SyntaxError:
        raise Malformed("cut_off" if cut_off else "syntax") from None
    if not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body):
        raise Malformed("no_function")
    return text.strip("\n") + "\n"


def _between(answer: Answer, opening: str, closing: str) -> str:
    """What stands between two tags, either of which may be missing; without fences of Markdown."""
    if answer.refusal:
        raise Malformed("refused")
    _, tag, text = answer.text.partition(opening)
    text = (text if tag else answer.text).partition(closing)[0]
    if fenced := _FENCE.search(text):
        text = fenced[1]
    if not text.strip():
        raise Malformed("empty")
    if len(text) > LONGEST_CODE:
        raise Malformed("too_long")
    return text.replace("\r\n", "\n")


def _parsed(text: str) -> list[ast.stmt]:
    """The statements of a text. Raises SyntaxError for any text that Python does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as invalid escapes, of which a model's program may have many
        try:
            tree = ast.parse(text)
            compile(text, "<model>", "exec", dont_inherit=True)  # what the parser alone accepts, such as a stray return
            ast.unparse(tree)  # fails for trees that are too deep for what follows
            return tree.body
        except (ValueError, RecursionError, MemoryError) as error:  # null bytes, or too deep
            raise SyntaxError(str(error)) from None
