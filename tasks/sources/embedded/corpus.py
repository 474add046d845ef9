"""The embedded corpus, the default: real text that every machine with Python has, one source for each stream.

    code      the standard library without the files of the stream python, and the C headers of the interpreter
    python    a third of the standard library's files, chosen by a hash of their paths
    nl_code   the language reference of pydoc, one document per topic; the library's docstrings, one document per file
    nl        descriptions and licences of the distributions that this project requires, and Python's own licence
    instruct  "write this function" and the function, from the library's short, documented functions

A file's code, its docstrings and its functions are all in train or all in validation.
"""

import dataclasses
import functools
import platform
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from codellama_jax.config.data import STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources.base import Block, Dialogue, Source, binding, hash_of, read_first
from tasks.sources.embedded.docstrings import docstrings, function_dialogues
from tasks.sources.embedded.single_place import SinglePlace
from tasks.sources.filters import text_or_none
from tasks.sources.folder import SKIPPED_FOLDERS, File, TextFiles, walk
from tasks.sources.inventory import PlaceInventory
from tasks.sources.splits import hash_fraction, select_split

# Tests are excluded because Debian does not install them, and they would be most of the corpus; encodings because it is
# tables of characters, a seventh of the remaining bytes; pydoc_data because its text is in the stream nl_code.
_TESTS = {"test", "tests", "idle_test"}
_NOT_CODE = SKIPPED_FOLDERS | _TESTS | {"site-packages", "dist-packages", "encodings", "pydoc_data"}
_PYTHON_SHARE = 1 / 3


def embedded_source(stream: str, split: str, corpus: Corpus, filters: Filters, place: str = "None") -> Source:
    """The embedded source of one split of a stream: Source[Dialogue] for instruct, else Source[Document].

    `place` is what the user names it.

    Raises:
        UserError: this Python has no library in source form, or the split would be empty.
        ValueError: no such stream or split.
    """
    if stream not in STREAMS:
        raise ValueError(f"stream is {stream!r}: it is one of {', '.join(STREAMS)}")
    corpus = dataclasses.replace(corpus, group_by_repository=False)  # there are no repositories: the split is by file
    where = f"{binding(stream)}={place}, the text that comes with Python {platform.python_version()}"
    select = functools.partial(select_split, split=split, corpus=corpus, where=where)
    code, python = _library()
    modules = [file for file in select(code) + select(python) if file.path.endswith(".py")]
    source: TextFiles | FunctionDialogues
    if stream == "instruct":
        source = FunctionDialogues(stream, modules, _inventory(stream, place, modules))
    else:
        if stream == "code":
            entries = select(code)
        elif stream == "python":
            entries = select(python)
        elif stream == "nl_code":
            entries = select(_topics()) + [_docstring_file(file) for file in modules]
        else:
            from tasks.sources.embedded.distributions import distribution_files  # only nl needs it

            entries = select(distribution_files())
        source = TextFiles(stream, entries, corpus, filters, split, _inventory(stream, place, entries))
    if not read_first(source).documents:
        raise UserError(f"{where}: nothing usable for {split}; name a folder, or raise Corpus.validation_share")
    return source


def _inventory(stream: str, place: str, entries: Sequence[File]) -> PlaceInventory:
    return PlaceInventory(
        stream, place, f"text that comes with Python {platform.python_version()}", read={"": len(entries)}
    )


class FunctionDialogues(SinglePlace):
    """A Source[Dialogue] over Python files: each short, documented function as a dialogue of two messages."""

    dialogues = True

    def __init__(self, name: str, files: list[File], place: PlaceInventory):
        super().__init__(name, place)
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Dialogue]]:
        if not skip:
            file = self._files[shard]
            yield Block(function_dialogues(text_or_none(file.read()) or "", file.path), [])

    def fingerprint(self) -> str:
        return hash_of(self.name, None, ((file.path, file.size) for file in self._files))


@functools.cache
def _library() -> tuple[list[File], list[File]]:
    """The files of the streams code and python. Listed once: the interpreter does not change while it runs."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = [
        _with_prefix("lib", file)
        for file in walk(root, frozenset((".py",)), _NOT_CODE)
        if "_sysconfigdata" not in file.path  # build variables, which Debian installs twice
    ]
    headers = walk(Path(sysconfig.get_path("include")), frozenset((".h",)))  # some distributions have none
    python = [file for file in modules if hash_fraction(file.path, "python") < _PYTHON_SHARE]
    names = {file.path for file in python}
    code = [file for file in modules if file.path not in names]
    return code + [_with_prefix("include", file) for file in headers], python


def _with_prefix(folder: str, file: File) -> File:
    return dataclasses.replace(file, path=f"{folder}/{file.path}")


@functools.cache
def _topics() -> list[File]:
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions of Python do not contain the documentation
        return []
    return [
        File(f"pydoc_data/topics/{name}", len(text), functools.partial(str, text))
        for name, text in sorted(topics.items())
    ]


def _docstring_file(file: File) -> File:
    return File(f"{file.path}#docstrings", file.size, functools.partial(docstrings, file))
