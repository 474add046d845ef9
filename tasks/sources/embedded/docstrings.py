"""Documents and dialogues made from the docstrings of Python source files."""

import ast
import re
import textwrap
from collections.abc import Iterator

from codellama_jax.chat import Message
from tasks.sources.base import Dialogue
from tasks.sources.filters import text_or_none
from tasks.sources.folder import File
from tasks.sources.splits import hash_fraction

SHORTEST_PROSE = 200  # minimum number of characters of a file's docstrings, or of a description
_LONGEST_ANSWER = 1500  # maximum number of characters of a function's source
_SHORTEST_PURPOSE = 20  # minimum number of characters of the first paragraph of its docstring

_REQUESTS = (
    "Write the Python {what}. {purpose}",
    "Please implement the {what} in Python. {purpose}",
    "I need a Python {what}. {purpose}",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(file: File) -> str | None:
    """The docstrings of a Python file in order, each below the name and arguments of its class or function.

    None if the file cannot be parsed, or if its docstrings have fewer than SHORTEST_PROSE characters.
    """
    tree = _parse(text_or_none(file.read()) or "")
    if tree is None:
        return None
    module = re.sub(r"/__init__$", "", file.path.removeprefix("lib/").removesuffix(".py")).replace("/", ".")
    sections = [(f"module {module}", ast.get_docstring(tree))]
    for name, node in _definitions(tree):
        title = f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"
        sections.append((title, ast.get_docstring(node)))
    kept = [(title, text) for title, text in sections if text]
    if sum(len(text) for _, text in kept) < SHORTEST_PROSE:
        return None
    return _encodable("\n\n".join(f"{title}\n\n{text}" for title, text in kept) + "\n")


def function_dialogues(text: str, path: str) -> list[Dialogue]:
    """A request and its answer for each short, documented function or method of a Python file.

    The request consists of the first paragraph of the docstring and the function's signature; the answer is the source
    without its indentation.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as the parser counts lines
    tree = _parse(text)
    lines = text.split("\n")
    dialogues = []
    for name, node in _definitions(tree) if tree else ():
        docstring = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef) or not docstring or len(node.body) < 2:
            continue
        purpose = " ".join(docstring.split("\n\n")[0].split())
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        answer = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
        # dedent does nothing if a string has lines that are indented less than the function
        if len(purpose) < _SHORTEST_PURPOSE or len(answer) > _LONGEST_ANSWER or _parse(answer) is None:
            continue
        owner, _, own_name = name.rpartition(".")
        what = f"{'method' if owner else 'function'} `{own_name}({ast.unparse(node.args)})`"
        what += f" of the class `{owner}`" if owner else ""
        purpose += "" if purpose.endswith((".", "!", "?", ":")) else "."
        location = f"{path}#L{node.lineno}"  # a name is not unique: a property and its setter share it
        request = _REQUESTS[int(hash_fraction(location, "request") * len(_REQUESTS))].format(what=what, purpose=purpose)
        if _encodable(request + answer) is not None:
            messages: list[Message] = [
                {"role": "user", "content": request},
                {"role": "assistant", "content": answer},
            ]
            dialogues.append(Dialogue(messages, location))
    return dialogues


def _definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The classes, functions and methods with their dotted names, in order; not those inside functions."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{prefix}{child.name}.")


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _encodable(text: str) -> str | None:
    """None if the text cannot be written as a document: literals may contain NUL and halves of surrogate pairs."""
    try:
        return None if b"\0" in text.encode("utf-8") else text
    except UnicodeEncodeError:
        return None
