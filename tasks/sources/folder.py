"""Where documents come from. Here: what a source is, and folders of files; tasks/sources/records.py has files of
records.

A source is one split of one stream. It consists of pieces that can be read in any order, a piece of blocks that are
read one after the other. Opening a source lists files and reads no more than it takes to find a usable one; a piece
yields the same documents every time.
"""

import bisect
import collections
import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, filters, languages
from tasks.sources.filters import LeftOut
from tasks.sources.languages import LANGUAGES
from tasks.sources.splits import Unusable, chosen

CODE = frozenset(extension for extensions in LANGUAGES.values() for extension in extensions)
PYTHON = frozenset(LANGUAGES["Python"])
PROSE = frozenset((".txt", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"))
EXTENSIONS = {"code": CODE, "python": PYTHON, "nl_code": PROSE, "nl": PROSE}
CODE_STREAMS = ("code", "python")
ANY = Filters(longest_bytes=None, longest_line=None, generated=False, ignore=())  # takes whatever is text
SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__"))  # and those whose name begins with a dot, such as .git


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text, and what is known of it.

    Attributes:
        path: below the corpus; with #N for the Nth piece of a file that was cut.
        language, repository, licence: "" where unknown.
    """

    text: str
    path: str
    language: str = ""
    repository: str = ""
    licence: str = ""


Message = dict[str, str]  # role: system, user or assistant; content


@dataclasses.dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order, and where they came from.

    Attributes:
        place: the same as `path`, but for a person: str(place) may have to count lines.
    """

    messages: list[Message]
    path: str
    place: object = dataclasses.field(default="", compare=False, repr=False)


Item = TypeVar("Item", Document, Dialogue)


@dataclasses.dataclass
class Block(Generic[Item]):
    """What is read, and shuffled, at once.

    Attributes:
        items: the documents.
        left_out: (name of the filter, place) of what is not among them; str(place) tells it to a person.
    """

    items: list[Item]
    left_out: list[tuple[str, object]]


class Source(Protocol[Item]):
    """One split of one stream. The text streams are Source[Document]; instruct is Source[Dialogue].

    Attributes:
        name: of the stream.
    """

    name: str

    def __len__(self) -> int:
        """Number of pieces, at least 1: files of a folder, stretches of files of records."""

    def read(self, piece: int, skip: int = 0) -> Iterator[Block[Item]]:
        """The blocks of a piece, without the first `skip`, which are passed over as cheaply as the format allows."""

    def fingerprint(self) -> str:
        """Hex hash of the paths and sizes of the files, in order, and of what else decides what `read` returns."""


def items(source: Source[Item], piece: int) -> Iterator[Item]:
    """All documents of a piece, in the order of the source."""
    return itertools.chain.from_iterable(block.items for block in source.read(piece))


class ConcatenatedSource:
    """A Source of several, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self.name, self._sources = sources[0].name, sources
        self._ends = list(itertools.accumulate(map(len, sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, piece: int, skip: int = 0) -> Iterator[Block]:
        index = bisect.bisect_right(self._ends, piece)
        return self._sources[index].read(piece - (self._ends[index - 1] if index else 0), skip)

    def fingerprint(self) -> str:
        return hash_of(self.name, "joined", ((source.fingerprint(), len(source)) for source in self._sources))


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file of a corpus that has not been read.

    Attributes:
        path: below the corpus, with forward slashes; decides the split.
        size: in bytes, or what else is cheap to know and changes with the text.
        read: its bytes or text; None if there is no document in it after all, which is not worth counting.
        repository: that it belongs to.
    """

    path: str
    size: int
    read: Callable[[], bytes | str | None]
    repository: str = ""

    @property
    def language(self) -> str:
        """By its extension; "" if that is no language's."""
        return languages.of_path(self.path)


class TextFiles:
    """A Source[Document] over files: a piece is a file, or with group_by_repository a stretch of a repository."""

    def __init__(self, name: str, files: Sequence[File], corpus: Corpus, settings: Filters):
        limit = corpus.document_characters
        if limit is not None and limit < 1:
            raise UserError(f"Corpus.document_characters={limit} must be at least 1, or None")
        self.name = name
        self._files, self._corpus, self._settings = files, corpus, settings
        self._groups = list(_stretches(files, corpus.shuffle_bytes)) if corpus.group_by_repository else None

    def __len__(self) -> int:
        return len(self._files if self._groups is None else self._groups)

    def read(self, piece: int, skip: int = 0) -> Iterator[Block[Document]]:
        if skip:
            return
        block = Block[Document]([], [])
        for file in (self._files[piece],) if self._groups is None else self._groups[piece]:
            try:
                if (document := self._document(file)) is not None:
                    block.items.append(document)
            except LeftOut as left_out:
                block.left_out.append((left_out.reason, file.path))
        if self._groups is not None:
            block.items = grouped(block.items)
        block.items = [part for document in block.items for part in parts(document, self._corpus.document_characters)]
        yield block

    def _document(self, file: File) -> Document | None:
        filters.check_size(file.size, self._settings)
        data = file.read()
        if data is None:
            return None
        text = filters.decoded(data, self._settings)
        if self.name in CODE_STREAMS:
            filters.check_code(text, file.language, self._settings)
        return Document(text, file.path, file.language, file.repository)

    def fingerprint(self) -> str:
        by_repository = self._groups is not None
        rules = (self._corpus.document_characters, by_repository and self._corpus.shuffle_bytes, self._settings)
        paths = (f"{file.repository}: {file.path}" if by_repository else file.path for file in self._files)
        return hash_of(self.name, rules, zip(paths, (file.size for file in self._files), strict=True))


def _stretches(files: Sequence[File], limit: int) -> Iterator[list[File]]:
    """The files of each repository in the order of their paths, in stretches of at most `limit` bytes."""
    by_repository = sorted(files, key=lambda file: (file.repository, file.path))
    for _, group in itertools.groupby(by_repository, lambda file: file.repository):
        stretch: list[File] = []
        size = 0
        for file in group:
            if stretch and size + file.size > limit:
                yield stretch
                stretch, size = [], 0
            stretch.append(file)
            size += file.size
        yield stretch


def grouped(documents: Sequence[Document]) -> list[Document]:
    """Documents of one repository that stand together, as one: a line "# PATH" before the text of each.

    Documents whose repository is not known stay as they are.
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
        first = members[0]
        same = {(member.language, member.licence) for member in members}
        language, licence = same.pop() if len(same) == 1 else ("", "")
        result.append(Document(text, first.path, language, repository, licence))
    return result


def parts(document: Document, limit: int | None) -> list[Document]:
    """The document, cut into parts of at most `limit` characters (see cut)."""
    pieces = cut(document.text, limit)
    if len(pieces) == 1:
        return [document]
    return [
        dataclasses.replace(document, text=piece, path=f"{document.path}#{number}")
        for number, piece in enumerate(pieces, 1)
    ]


class Folder(TextFiles):
    """The files below a folder that have one of the stream's extensions, split into train and validation.

    Folders are walked through links, each once; hidden files and folders, those named in `skip` and what Filters.ignore
    names are left out.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        name: str = "code",
        corpus: Corpus | None = None,
        settings: Filters | None = None,
        extensions: frozenset[str] | None = None,
        skip: frozenset[str] = SKIPPED_FOLDERS,
        found: Sequence[File] | None = None,
    ):
        """Lists the folder, unless it is given what was found there.

        Without extensions, those of the stream's kind count (EXTENSIONS).

        Raises:
            UserError: it is no folder, or has no usable file for this split.
        """
        corpus, settings = corpus or Corpus(), settings or Filters()
        root = filesystem.expand_home(root)
        where = f"{binding(name)}={root}"
        if not files.is_folder(root, where):
            raise UserError(f"{where}: {'not a folder' if files.exists(root, where) else 'no such folder'}")
        extensions = EXTENSIONS[name] if extensions is None else extensions
        if found is None:
            found = walk(root, extensions, skip, settings.ignore, corpus.group_by_repository, where)
        super().__init__(name, chosen(found, split, corpus, where), corpus, settings)
        if not usable(self):
            kinds = ", ".join(sorted(extensions)[:12]) + (", ..." if len(extensions) > 12 else "")
            raise Unusable(
                f"{where}: no usable file for {split} (UTF-8 text with an extension of {kinds}{left_out_of(self)})"
            )


def usable(source: Source) -> bool:
    """Whether there is a document at all; stops at the first, which mostly is in piece 0."""
    return any(block.items for piece in range(len(source)) for block in source.read(piece))


def left_out_of(source: Source) -> str:
    """Why the documents of a source's first pieces are left out, for an error: "; left out: 3 generated"."""
    blocks = (block for piece in range(min(len(source), 100)) for block in source.read(piece))
    reasons = collections.Counter(reason for block in blocks for reason, _ in block.left_out)
    return f"; left out: {filters.listed(reasons)}" if reasons else ""


def binding(stream: str) -> str:
    """How a user names the corpus of a stream: the field, and the gin macro of the command line."""
    return f"Corpus.{stream} / --gin.{stream.upper()}_CORPUS"


def walk(
    root: str | os.PathLike[str],
    extensions: frozenset[str],
    skip: frozenset[str] = SKIPPED_FOLDERS,
    ignore: Sequence[str] = (),
    sizes: bool = False,
    where: str = "",
) -> list[File]:
    """The files below a folder with one of the extensions (in any case of letters), sorted by path (see files.walk)."""
    found = files.walk(
        os.fspath(root),
        lambda name: os.path.splitext(name)[1].lower() in extensions,
        skip,
        tuple(ignore),
        sizes,
        where,
    )
    return [
        File(entry.path, entry.size, functools.partial(files.read_bytes, entry.location), entry.repository)
        for entry in found
    ]


def readable(data: bytes | str | None) -> str | None:
    """The text of what File.read gave; None if it is none, binary, not UTF-8, or blank."""
    try:
        return None if data is None else filters.decoded(data, ANY)
    except LeftOut:
        return None


def cut(text: str, limit: int | None) -> list[str]:
    """Cuts a text into pieces of at most `limit` characters, whose concatenation it is; None leaves it whole.

    Where the second half of the allowed stretch has the beginning of something at the top level (a line that starts at
    column 0 with other than a closing bracket, if possible after a blank line), the last one opens the next piece;
    else the last line that begins in the stretch does; a single line longer than the limit is cut at the limit.
    """
    pieces, begin = [], 0
    while limit is not None and len(text) - begin > limit:
        stop = _cut_before(text, begin, begin + limit)
        pieces.append(text[begin:stop])
        begin = stop
    return [*pieces, text[begin:]]


_TOP_LEVEL_AFTER_BLANK = re.compile(r"\n\r?\n(?=[^\s)\]}])")
_TOP_LEVEL = re.compile(r"\n(?=[^\s)\]}])")


def _cut_before(text: str, begin: int, stop: int) -> int:
    for pattern in (_TOP_LEVEL_AFTER_BLANK, _TOP_LEVEL):
        # One character past the stretch is in sight, for a line that begins exactly there.
        ends = [match.end() for match in pattern.finditer(text, (begin + stop) // 2, stop + 1)]
        if ends:
            return ends[-1]
    line = text.rfind("\n", begin, stop) + 1
    if line:
        return line
    return stop - 1 if text[stop - 1 : stop + 1] == "\r\n" and stop - 1 > begin else stop


def hash_of(name: str, rules: object, entries: Iterable[tuple[str, int]]) -> str:
    """Hex hash for Source.fingerprint."""
    digest = hashlib.blake2b(f"{name} {rules!r}\n".encode(), digest_size=16)
    for path, size in entries:
        digest.update(f"{size} {path}\n".encode())
    return digest.hexdigest()
