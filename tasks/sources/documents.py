"""Turns texts into documents: one for each file, several parts of a long file, or one for a repository."""

import dataclasses
import itertools
import re
from collections.abc import Sequence

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks.sources.base import Document


def check_document_characters(corpus: Corpus) -> None:
    """Raises UserError if Corpus.document_characters is not a limit."""
    limit = corpus.document_characters
    if limit is not None and limit < 1:
        raise UserError(f"Corpus.document_characters={limit} must be at least 1, or None")


def grouped(documents: Sequence[Document]) -> list[Document]:
    """Joins consecutive documents of one repository into one, with a line "# PATH" before the text of each.

    Documents without a known repository are not changed.
    """
    result: list[Document] = []
    for repository, group in itertools.groupby(documents, lambda document: document.repository):
        if not repository:
            result += group
            continue
        members = list(group)
        text = "".join(
            f"# {member.path.removeprefix(repository + '/')}\n{member.text}"
            + ("" if member.text.endswith("\n") else "\n")
            for member in members
        )
        metadata = {(member.language, member.licence) for member in members}
        language, licence = metadata.pop() if len(metadata) == 1 else ("", "")
        result.append(Document(text, members[0].path, language, repository, licence))
    return result


def parts(document: Document, limit: int | None) -> list[Document]:
    """The document, cut into parts of at most `limit` characters (see cut)."""
    texts = cut(document.text, limit)
    if len(texts) == 1:
        return [document]
    return [
        dataclasses.replace(document, text=text, path=f"{document.path}#{number}")
        for number, text in enumerate(texts, 1)
    ]


def cut(text: str, limit: int | None) -> list[str]:
    """Cuts a text into parts of at most `limit` characters, whose concatenation is the text. None does not cut.

    A part ends before the last top-level statement that begins in the second half of the allowed range: a line that
    starts in column 0 with a character other than a closing bracket, if possible after a blank line. Without such a
    line, a part ends at the last line end in the range. A single line that is longer than the limit is cut at the
    limit.
    """
    texts, start = [], 0
    while limit is not None and len(text) - start > limit:
        stop = _cut_position(text, start, start + limit)
        texts.append(text[start:stop])
        start = stop
    return [*texts, text[start:]]


# A line ends with a line feed, with or without a carriage return before it, or with a carriage return alone.
_TOP_LEVEL_AFTER_BLANK = re.compile(r"(?:\n|\r(?!\n))(?:\r?\n|\r(?!\n))(?=[^\s)\]}])")
_TOP_LEVEL = re.compile(r"(?:\n|\r(?!\n))(?=[^\s)\]}])")
_LINE_END = re.compile(r"\n|\r(?!\n)")


def _cut_position(text: str, start: int, stop: int) -> int:
    for pattern in (_TOP_LEVEL_AFTER_BLANK, _TOP_LEVEL):
        # One character more than the range, for a line that begins exactly at its end.
        ends = [match.end() for match in pattern.finditer(text, (start + stop) // 2, stop + 1)]
        if ends:
            return ends[-1]
    ends = [match.end() for match in _LINE_END.finditer(text, start, stop + 1) if match.end() <= stop]
    if ends:
        return ends[-1]
    return stop - 1 if text[stop - 1 : stop + 1] == "\r\n" and stop - 1 > start else stop
