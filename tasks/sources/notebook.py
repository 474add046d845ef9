"""Jupyter notebooks as source files: the code cells as they are, and the text cells as comments, in their order.

Cells are separated by a blank line. Outputs, raw cells and attachments are not read; commands of IPython (%matplotlib,
!pip) stay as they are in the cells. Both formats of notebooks are read: nbformat 4, and 3 with its worksheets.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_jax.config.data import Filters
from tasks.sources import languages
from tasks.sources.filters import LeftOut

# Notebooks contain their outputs, so that the size of the file says little about that of the document.
_LONGEST_BYTES = 64 << 20

_LANGUAGE = (("language_info", "name"), ("kernelspec", "language"))  # where the metadata name it

_COMMENTS = {
    "//": "C C# C++ D Dart F# Go Groovy Java JavaScript Kotlin PHP Rust Scala Swift TypeScript Zig",
    "--": "Ada Haskell Lua SQL",
    ";": "Clojure Scheme",
    "%": "MATLAB Prolog",
}
_COMMENT = {language: mark for mark, names in _COMMENTS.items() for language in names.split()}


def limits(filters: Filters) -> Filters:
    """The filters for the file of a notebook, instead of those for its document."""
    return filters if filters.longest_bytes is None else dataclasses.replace(filters, longest_bytes=_LONGEST_BYTES)


def source_code(text: str) -> tuple[str, str]:
    """The document of a notebook, and its language: that of the kernel, Python if the notebook names none.

    Raises:
        LeftOut: it is not a notebook ("damaged"), or has no text in its cells ("blank").
    """
    try:
        notebook = json.loads(text.removeprefix("\ufeff"))
        cells = list(_cells(notebook))
        language = languages.canonical_name(_language(notebook, cells) or "Python")
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError):
        raise LeftOut("damaged") from None
    mark = _COMMENT.get(language, "#")
    parts = []
    for cell in cells:
        kind, source = cell.get("cell_type"), _source(cell)
        if kind == "heading" and isinstance(cell.get("level"), int):
            source = f"{'#' * cell['level']} {source}"
        if source.strip() and kind in ("code", "markdown", "heading"):
            parts.append(source if kind == "code" else _commented(source, mark))
    if not parts:
        raise LeftOut("blank")
    return "\n".join(part.rstrip("\r\n") + "\n" for part in parts), language


def _cells(notebook: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "worksheets" in notebook:
        for sheet in notebook["worksheets"]:
            yield from map(_cell, sheet["cells"])
    else:
        yield from map(_cell, notebook["cells"])


def _cell(cell: Any) -> Mapping[str, Any]:
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        raise TypeError
    _source(cell)
    return cell


def _source(cell: Mapping[str, Any]) -> str:
    """The text of a cell, which is a text or a list of lines. Code is in `input` in nbformat 3."""
    source = cell.get("source", cell.get("input")) or ""
    if isinstance(source, Mapping):
        raise TypeError
    return source if isinstance(source, str) else "".join(source)


def _language(notebook: Mapping[str, Any], cells: list[Mapping[str, Any]]) -> str:
    metadata = _mapping(notebook.get("metadata"))
    named = [_mapping(metadata.get(key)).get(name) for key, name in _LANGUAGE]
    named.append(metadata.get("language"))
    named += [cell.get("language") for cell in cells if cell.get("cell_type") == "code"][:1]
    return next((name for name in named if isinstance(name, str) and name), "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _commented(source: str, mark: str) -> str:
    return "\n".join(f"{mark} {line}".rstrip() for line in source.splitlines())
