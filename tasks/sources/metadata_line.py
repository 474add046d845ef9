"""A line of metadata that corpora put before the text of a file, such as that of StarCoderData.

    <reponame>octocat/hello<filename>src/hello.py<gh_stars>10-100

The line is not part of the file. StarCoderData has it in about half of its files, with any of the tags.
"""

import dataclasses
import re

NAME = "metadata_line"  # in the counts of documents that a rule changed

_REPOSITORY = ("reponame", "repo_name", "repository")
_PATH = ("filename", "file_name", "filepath", "file_path", "file_sep")
_OTHER = ("gh_stars", "stars", "language", "lang", "license", "licence")
_TAG = re.compile(rf"<\|?({'|'.join((*_REPOSITORY, *_PATH, *_OTHER))})\|?>([^<>\r\n]+)")
_LINE = re.compile(rf"\ufeff?((?:{_TAG.pattern})+)(?:\r\n|\n|\r)")
_LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class MetadataLine:
    """The metadata of a text.

    Attributes:
        end: the number of characters of the line, with its line end.
        repository, path: "" where the line does not name them.
    """

    end: int
    repository: str
    path: str


def find(text: str | bytes) -> MetadataLine | None:
    """The line of metadata at the start of a text; None if there is none.

    The line consists of tags and their values alone. A tag that the text closes (</filename>) is XML, and a second
    <file_sep> means that the text is several files: neither is metadata.
    """
    if isinstance(text, bytes):
        text = text[:_LONGEST].decode("utf-8", "replace")
    if not text.startswith(("<", "\ufeff<")):  # cheap, and true of few texts
        return None
    line = _LINE.match(text, 0, _LONGEST)
    if line is None:
        return None
    tags = dict(_TAG.findall(line[1]))
    if any(f"</{tag}" in text for tag in tags) or re.search(r"<\|?file_sep\|?>", text[line.end() :]):
        return None
    values = [next((tags[tag].strip() for tag in names if tag in tags), "") for names in (_REPOSITORY, _PATH)]
    return MetadataLine(line.end(), *values)
