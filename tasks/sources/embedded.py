"""The embedded default corpus: real text that is on any machine with Python, one source for each stream.

    code      the standard library, without the third that is python, and the C headers of the interpreter
    python    a third of the standard library's files, drawn by a hash of their paths
    nl_code   the language reference of pydoc, a document a topic; and the docstrings of the library, a document a file
    nl        descriptions and licences of the installed distributions, and Python's own licence
    instruct  "write this function" and the function, from the library's documented short functions

A file's code, its docstrings and its functions are all on the same side of train and validation.
"""

import ast
import builtins
import dataclasses
import functools
import hashlib
import os
import platform
import re
import site
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from codellama_jax.config.data import STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, manifest
from tasks.sources.curated import CuratedDataset
from tasks.sources.folder import (
    EXTENSIONS,
    SKIPPED_FOLDERS,
    Block,
    ConcatenatedSource,
    Dialogue,
    File,
    Folder,
    Message,
    Source,
    TextFiles,
    binding,
    hash_of,
    readable,
    usable,
    walk,
)
from tasks.sources.records import is_corpus_file, open_records
from tasks.sources.splits import Unusable, chosen, share_of

# Tests are left out because Debian does not install them, and they would be most of the corpus; encodings because it is
# tables of characters, a seventh of what remains; pydoc_data because its text is a stream of its own (nl_code).
_TESTS = {"test", "tests", "idle_test"}
_NOT_CODE = SKIPPED_FOLDERS | _TESTS | {"site-packages", "dist-packages", "encodings", "pydoc_data"}
_PYTHON_SHARE = 1 / 3
_SHORTEST_PROSE = 200  # characters of docstrings in a file, or of a description, below which it is left out
_LONGEST_ANSWER = 1500  # characters of a function's source
_SHORTEST_REQUEST = 20  # characters of the first paragraph of its docstring

_LICENCE_NAME = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
_REQUESTS = (
    "Write the Python {what}. {purpose}",
    "Please implement the {what} in Python. {purpose}",
    "I need a Python {what}. {purpose}",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def stream_source(stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """The source of one split of a stream: the places that the corpus names, or the embedded one.

    Raises:
        UserError: a place is missing, or there is nothing usable for this split in any of them.
        ValueError: there is no such stream or split.
    """
    places = getattr(corpus, stream) if stream in STREAMS else None
    if places is None:
        return embedded(stream, split, corpus, filters)
    sources: list[Source] = []
    refusals: list[Unusable] = []
    for place in (places,) if isinstance(places, str) else places:
        try:
            sources.append(_opened(place, stream, split, corpus, filters))
        except Unusable as refusal:
            refusals.append(refusal)
    if not sources:
        raise refusals[0] if refusals else UserError(f"{binding(stream)}={places!r} names no place")
    return sources[0] if len(sources) == 1 else ConcatenatedSource(sources)


def _opened(place: str, stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """The source of a place. A folder is read as a build, if it has the manifest of one; as its files of source; or if
    there are more bytes in files of records (a data set with a README.md, say), as those."""
    root, where = filesystem.expand_home(place), f"{binding(stream)}={place}"
    if stream != "instruct" and (path := manifest.path_of(root)) is not None:
        return CuratedDataset(path, split, name=stream, corpus=corpus, settings=filters)
    if stream != "instruct" and files.is_folder(root, where):
        found = walk(root, EXTENSIONS[stream], ignore=filters.ignore, sizes=corpus.group_by_repository, where=where)
        records = files.walk(root, is_corpus_file, SKIPPED_FOLDERS, tuple(filters.ignore), where=where)
        if not records or sum(file.size for file in found) >= sum(file.size for file in records):
            return Folder(place, split, name=stream, corpus=corpus, settings=filters, found=found)
        if found:
            _say_once(
                f"{where}: read as {len(records):,} files of records; {len(found):,} files of source beside them are"
                " smaller in all, and are left out (a pattern, or a folder of its own, would be plain)"
            )
    return open_records(place, split, name=stream, corpus=corpus, settings=filters)


@functools.cache
def _say_once(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def embedded(stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """The embedded source of one split of a stream: Source[Dialogue] for instruct, else Source[Document].

    Raises:
        UserError: this Python has no library in source form, or the split would be empty.
        ValueError: there is no such stream or split.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}: it is one of {', '.join(STREAMS)}")
    whole = dataclasses.replace(corpus, group_by_repository=False)  # the split is by file: there are no repositories
    where = f"{binding(stream)}=None, the text that comes with Python {platform.python_version()}"
    pick = functools.partial(chosen, split=split, corpus=whole, where=where)
    code, python = _library()
    modules = [file for file in pick(code) + pick(python) if file.path.endswith(".py")]
    source: TextFiles | Exercises
    if stream == "instruct":
        source = Exercises(stream, modules)
    else:
        if stream == "code":
            entries = pick(code)
        elif stream == "python":
            entries = pick(python)
        elif stream == "nl_code":
            entries = pick(_topics()) + [_docstring_file(file) for file in modules]
        else:
            entries = pick(_prose())
        source = TextFiles(stream, entries, whole, filters)
    if not usable(source):
        raise UserError(f"{where}: nothing usable for {split}; name a folder, or raise Corpus.validation_share")
    return source


class Exercises:
    """A Source[Dialogue] over Python files: the documented short functions of each, as dialogues of two messages."""

    def __init__(self, name: str, files: list[File]):
        self.name = name
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, piece: int, skip: int = 0) -> Iterator[Block[Dialogue]]:
        if not skip:
            file = self._files[piece]
            yield Block(exercises(readable(file.read()) or "", file.path), [])

    def fingerprint(self) -> str:
        return hash_of(self.name, None, ((file.path, file.size) for file in self._files))


def _names(requirements: Path) -> set[str]:
    """Distributions that a requirements file names; none if it is not there."""
    lines = requirements.read_text().splitlines() if requirements.is_file() else []
    return {line.partition("==")[0].replace("_", "-").lower() for line in lines if "==" in line and line[0] != "#"}


_REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements.txt"


@functools.cache
def _library() -> tuple[list[File], list[File]]:
    """The files of the streams code and python. The interpreter does not change while it runs: listed once."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = [
        _below("lib", file)
        for file in walk(root, frozenset((".py",)), _NOT_CODE)
        if "_sysconfigdata" not in file.path  # variables of the build, and on Debian there twice
    ]
    headers = walk(Path(sysconfig.get_path("include")), frozenset((".h",)))  # none where Python came without them
    python = [file for file in modules if share_of(file.path, "python") < _PYTHON_SHARE]
    names = {file.path for file in python}
    code = [file for file in modules if file.path not in names]
    return code + [_below("include", file) for file in headers], python


def _below(folder: str, file: File) -> File:
    return dataclasses.replace(file, path=f"{folder}/{file.path}")


@functools.cache
def _topics() -> list[File]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions of Python leave the documentation out
        return []
    return [
        File(f"pydoc_data/topics/{name}", len(text), functools.partial(str, text))
        for name, text in sorted(topics.items())
    ]


@functools.cache
def _prose() -> list[File]:
    """Descriptions and licences of the distributions in this interpreter's own folders, and Python's licence.

    The folders are walked because importlib.metadata has no way to list licences but to read RECORD, which takes
    longer than everything else here; and sys.path is left aside because it depends on how the process was started.
    """
    # What the tests need is installed beside the rest: it must not change the data of a run that is going on.
    extras = _names(_REQUIREMENTS.with_name("requirements-test.txt")) - _names(_REQUIREMENTS)
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    found = {path.name: path for folder in reversed(folders) for path in Path(folder).glob("*.dist-info")}
    own = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    candidates = [("python/LICENSE.txt", own)] if own.is_file() else []
    entries = []
    for name, folder in sorted(found.items(), key=lambda item: item[0].lower()):
        if name.partition("-")[0].replace("_", "-").lower() in extras:
            continue
        metadata = folder / "METADATA"
        if metadata.is_file():
            entries.append(File(f"{name}/METADATA", metadata.stat().st_size, functools.partial(description, metadata)))
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder).as_posix()
            if (inside.startswith("licenses/") or _LICENCE_NAME.match(inside)) and path.is_file():
                candidates.append((f"{name}/{inside}", path))
    licences: dict[bytes, File] = {}
    for shown, path in candidates:
        # The same licence lies in many distributions under another copyright line, and would be in both splits.
        lines = [line for line in (_read_text(path) or "").lower().splitlines() if "copyright" not in line]
        key = hashlib.sha256(" ".join(" ".join(lines).split()).encode("utf-8")).digest()
        licences.setdefault(key, File(shown, path.stat().st_size, functools.partial(files.read_bytes, str(path))))
    entries += licences.values()
    if len(entries) < 2:  # a bare interpreter: one text for each split, whatever happens
        documented = [f"{name}\n\n{value.__doc__}" for name, value in sorted(vars(builtins).items()) if value.__doc__]
        for shown, text in (("python/copyright", sys.copyright), ("python/builtins", "\n\n".join(documented))):
            entries.append(File(shown, len(text), functools.partial(str, text)))
    return entries


def _read_text(location: str | os.PathLike[str]) -> str | None:
    return readable(files.read_bytes(os.fspath(location)))


def description(location: str | os.PathLike[str]) -> str | None:
    """The long description in a METADATA file: what follows its header. None if it is short or no text."""
    parts = re.split(r"\r?\n\r?\n", _read_text(location) or "", maxsplit=1)
    body = parts[-1].strip() if len(parts) == 2 else ""
    return body + "\n" if len(body) >= _SHORTEST_PROSE else None


def _docstring_file(file: File) -> File:
    return File(f"{file.path}#docstrings", file.size, functools.partial(docstrings, file))


def docstrings(file: File) -> str | None:
    """The docstrings of a Python file in their order, each below the name and arguments of what it belongs to.

    None if the file cannot be parsed or has hardly any.
    """
    tree = _parsed(readable(file.read()) or "")
    if tree is None:
        return None
    module = re.sub(r"/__init__$", "", file.path.removeprefix("lib/").removesuffix(".py")).replace("/", ".")
    sections = [(f"module {module}", ast.get_docstring(tree))]
    for name, node in _definitions(tree):
        title = f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"
        sections.append((title, ast.get_docstring(node)))
    kept = [(title, text) for title, text in sections if text]
    if sum(len(text) for _, text in kept) < _SHORTEST_PROSE:
        return None
    return _writable("\n\n".join(f"{title}\n\n{text}" for title, text in kept) + "\n")


def exercises(text: str, path: str) -> list[Dialogue]:
    """The functions and methods of a Python file that are short and say what they do, as requests and answers.

    The request is made of the first paragraph of the docstring and the function's signature; the answer is the source,
    without indentation.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as the parser counts lines
    tree = _parsed(text)
    lines = text.split("\n")
    dialogues = []
    for name, node in _definitions(tree) if tree else ():
        docstring = ast.get_docstring(node)
        if isinstance(node, ast.ClassDef) or not docstring or len(node.body) < 2:
            continue
        purpose = " ".join(docstring.split("\n\n")[0].split())
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        answer = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno])) + "\n"
        # A string whose lines are indented less than the function keeps dedent from its work.
        if len(purpose) < _SHORTEST_REQUEST or len(answer) > _LONGEST_ANSWER or _parsed(answer) is None:
            continue
        owner, _, own_name = name.rpartition(".")
        what = f"{'method' if owner else 'function'} `{own_name}({ast.unparse(node.args)})`"
        what += f" of the class `{owner}`" if owner else ""
        purpose += "" if purpose.endswith((".", "!", "?", ":")) else "."
        where = f"{path}#L{node.lineno}"  # names come twice: a property and its setter
        request = _REQUESTS[int(share_of(where, "request") * len(_REQUESTS))].format(what=what, purpose=purpose)
        if _writable(request + answer) is not None:
            messages: list[Message] = [
                {"role": "user", "content": request},
                {"role": "assistant", "content": answer},
            ]
            dialogues.append(Dialogue(messages, where))
    return dialogues


def _definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The classes, functions and methods with their dotted names, in order; not those inside of functions."""
    for child in node.body:
        if isinstance(child, Function | ast.ClassDef):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from _definitions(child, f"{prefix}{child.name}.")


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _writable(text: str) -> str | None:
    """None if the text cannot be written as a document: literals may name NUL and halves of surrogate pairs."""
    try:
        return None if b"\0" in text.encode("utf-8") else text
    except UnicodeEncodeError:
        return None
