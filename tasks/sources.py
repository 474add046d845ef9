"""Where documents come from: a folder of files for text, JSON lines for dialogues.

A source is one split of one stream. Opening it lists files and reads no more than it takes to find a usable one; each
file is read when its turn comes, and yields the same documents every time.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from codellama_jax.errors import UserError
from tasks.config import SPLITS

LANGUAGES: dict[str, tuple[str, ...]] = {
    "Assembly": (".asm", ".s"),
    "C": (".c", ".h"),
    "C++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh"),
    "C#": (".cs",),
    "Clojure": (".clj", ".cljs"),
    "Dart": (".dart",),
    "Elixir": (".ex", ".exs"),
    "Erlang": (".erl", ".hrl"),
    "Fortran": (".f", ".f90", ".f95"),
    "Go": (".go",),
    "Haskell": (".hs",),
    "Java": (".java",),
    "JavaScript": (".js", ".mjs", ".cjs", ".jsx"),
    "Julia": (".jl",),
    "Kotlin": (".kt", ".kts"),
    "Lua": (".lua",),
    "OCaml": (".ml", ".mli"),
    "Perl": (".pl", ".pm"),
    "PHP": (".php",),
    "Python": (".py", ".pyi"),
    "R": (".r",),
    "Ruby": (".rb",),
    "Rust": (".rs",),
    "Scala": (".scala",),
    "Shell": (".sh", ".bash"),
    "SQL": (".sql",),
    "Swift": (".swift",),
    "TypeScript": (".ts", ".tsx", ".mts", ".cts"),
    "Zig": (".zig",),
}
CODE = frozenset(extension for extensions in LANGUAGES.values() for extension in extensions)
PYTHON = frozenset(LANGUAGES["Python"])
PROSE = frozenset((".txt", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"))
EXTENSIONS = {"code": CODE, "python": PYTHON, "nl_code": PROSE, "nl": PROSE}
SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__"))  # and those whose name begins with a dot, such as .git


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """A text, and where it came from: the path below the corpus, with #N for the Nth piece of a file that was cut."""

    text: str
    path: str


Message = dict[str, str]  # role: system, user or assistant; content


@dataclasses.dataclass(frozen=True, slots=True)
class Dialogue:
    """Messages in order, and where they came from."""

    messages: list[Message]
    path: str


Item = TypeVar("Item", Document, Dialogue)


class Source(Protocol[Item]):
    """One split of one stream. The text streams are Source[Document]; instruct is Source[Dialogue].

    Attributes:
        name: of the stream.
    """

    name: str

    def __len__(self) -> int:
        """Number of files, at least 1."""

    def read(self, index: int) -> list[Item]:
        """What file number `index` holds: nothing if it is left out (binary, not UTF-8, empty), else 1 or more."""

    def fingerprint(self) -> str:
        """Hex hash of the paths and sizes of the files, in order, and of what else decides what `read` returns."""


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file of a corpus that has not been read.

    Attributes:
        path: below the corpus, with forward slashes; decides the split.
        size: in bytes, or what else is cheap to know and changes with the text.
        text: reads it; None if it is to be left out.
    """

    path: str
    size: int
    text: Callable[[], str | None]


class Pathed(Protocol):
    @property
    def path(self) -> str: ...


Entry = TypeVar("Entry", bound=Pathed)


class Texts:
    """A Source[Document] over files, cutting those that are longer than document_characters (see cut)."""

    def __init__(self, name: str, files: Sequence[File], document_characters: int | None = None):
        if document_characters is not None and document_characters < 1:
            raise UserError(f"Corpus.document_characters={document_characters} must be at least 1, or None")
        self.name = name
        self._files = files
        self._document_characters = document_characters

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> list[Document]:
        file = self._files[index]
        text = file.text()
        if text is None:
            return []
        pieces = cut(text, self._document_characters)
        if len(pieces) == 1:
            return [Document(text, file.path)]
        return [Document(piece, f"{file.path}#{number}") for number, piece in enumerate(pieces, 1)]

    def fingerprint(self) -> str:
        return hash_of(self.name, self._document_characters, ((file.path, file.size) for file in self._files))


class Folder(Texts):
    """The files below a folder that have one of the extensions, split into train and validation by their paths.

    Folders are walked through links, each once; hidden files and folders and those named in `skip` are left out.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        name: str = "code",
        extensions: frozenset[str] | None = None,
        skip: frozenset[str] = SKIPPED_FOLDERS,
        validation_share: float = 0.05,
        document_characters: int | None = None,
    ):
        """Lists the folder; without extensions, those of the stream's kind count (EXTENSIONS).

        Raises:
            UserError: it is no folder, or has no usable file for this split.
        """
        where = f"{binding(name)}={os.fspath(root)}"
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise UserError(f"{where}: {'not a folder' if folder.exists() else 'no such folder'}")
        extensions = EXTENSIONS[name] if extensions is None else extensions
        files = chosen(walk(folder, extensions, skip), split, validation_share, where)
        super().__init__(name, files, document_characters)
        if not any(self.read(index) for index in range(len(self))):  # stops at the first, which is mostly file 0
            kinds = ", ".join(sorted(extensions)[:12]) + (", ..." if len(extensions) > 12 else "")
            raise UserError(f"{where}: no usable file for {split} (UTF-8 text with an extension of {kinds})")


class Dialogues:
    """A Source[Dialogue]: each line of a .jsonl file, or of all those below a folder, is a dialogue.

    A line is {"messages": [{"role": "system" | "user" | "assistant", "content": "..."}, ...]}. A line counts as a file
    of the source: one file of many dialogues can be shuffled and split like a folder of them.
    """

    def __init__(
        self, root: str | os.PathLike[str], split: str, validation_share: float = 0.05, *, name: str = "instruct"
    ):
        """Finds where the lines begin, and reads the first.

        Raises:
            UserError: no such file or folder, no dialogue for this split, or the first line is not a dialogue.
        """
        self.name = name
        where = f"{binding(name)}={os.fspath(root)}"
        path = Path(root).expanduser()
        if path.is_dir():
            files = [(file.path, path / file.path) for file in walk(path, frozenset((".jsonl",)))]
        elif path.is_file():
            files = [(path.name, path)]
        else:
            raise UserError(f"{where}: no such file or folder")
        try:
            lines = [line for shown, file in files for line in _lines(shown, file)]
        except OSError as error:
            raise UserError(f"{where} cannot be read ({error})") from None
        self._lines = chosen(lines, split, validation_share, where)
        if not self._lines:
            raise UserError(f"{where}: no dialogue for {split}; dialogues are lines of .jsonl files")
        self.read(0)

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> list[Dialogue]:
        """The dialogue of line number `index`.

        Raises:
            UserError: the line is not a dialogue.
        """
        line = self._lines[index]
        try:
            with line.file.open("rb") as file:
                file.seek(line.begin)
                data = file.readline()
            messages = [_message(message) for message in json.loads(data.decode("utf-8-sig"))["messages"]]
            if not messages:
                raise ValueError("it has no messages")
        except (OSError, KeyError, TypeError, ValueError) as error:
            cure = 'a line is {"messages": [{"role": "user", "content": "..."}, ...]}'
            raise UserError(f"{binding(self.name)}: {line.path} is not a dialogue ({error!r}); {cure}") from None
        return [Dialogue(messages, line.path)]

    def fingerprint(self) -> str:
        return hash_of(self.name, None, ((line.path, line.size) for line in self._lines))


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    path: str  # of the file below the corpus, and the line's number
    file: Path
    begin: int
    size: int


def _lines(shown: str, path: Path) -> Iterator[_Line]:
    begin = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _Line(f"{shown}:{number}", path, begin, len(line))
            begin += len(line)


def _message(message: dict[str, Any]) -> Message:
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise ValueError(f"role {role!r} is none of system, user, assistant")
    if not isinstance(content, str):
        raise ValueError(f"content {content!r} is no text")
    content.encode("utf-8")  # a ValueError if it is half of a surrogate pair, which JSON can write
    return {"role": role, "content": content}


def binding(stream: str) -> str:
    """How a user names the corpus of a stream: the field, and the gin macro of the command line."""
    return f"Corpus.{stream} / --gin.{stream.upper()}_CORPUS"


def walk(root: Path, extensions: frozenset[str], skip: frozenset[str] = SKIPPED_FOLDERS) -> list[File]:
    """The files below a folder with one of the extensions (in any case of letters), sorted by path; reads none.

    Links to folders are followed, and each folder is entered once: a link that leads back cannot loop.
    """
    files, entered = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in entered:
            folders.clear()
            continue
        entered.add((identity.st_dev, identity.st_ino))
        folders[:] = sorted(name for name in folders if name not in skip and not name.startswith("."))
        for name in names:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in extensions:
                continue
            location = os.path.join(folder, name)
            try:
                found = os.stat(location)
            except OSError:
                continue  # a link that leads nowhere
            if stat.S_ISREG(found.st_mode):
                # A name that is not UTF-8 is shown with U+FFFD, so that a path can be written anywhere a text can.
                path = os.fsencode(Path(location).relative_to(root).as_posix()).decode("utf-8", "replace")
                files.append(File(path, found.st_size, functools.partial(read_text, location)))
    return sorted(files, key=lambda file: file.path)


def read_text(location: str | os.PathLike[str]) -> str | None:
    """The text of a file, its line ends and byte order mark kept; None if it is binary, not UTF-8, or blank.

    Raises:
        UserError: it cannot be read. (Leaving it out would change the stream without a word.)
    """
    try:
        data = Path(location).read_bytes()
    except OSError as error:
        raise UserError(f"{os.fspath(location)} cannot be read ({error.strerror}): mend or remove it") from None
    if b"\0" in data:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.strip() else None


def share_of(path: str, purpose: str) -> float:
    """A number in [0, 1) that is a hash of the path; independent for each purpose."""
    digest = hashlib.blake2b(path.encode("utf-8"), digest_size=8, person=purpose.encode("utf-8")).digest()
    return int.from_bytes(digest, "big") / 2**64


def chosen(entries: Sequence[Entry], split: str, validation_share: float, where: str) -> list[Entry]:
    """The entries of one split, in their order: an entry is validation if the hash of its path is below the share.

    Where a side would be empty, the entry whose hash is nearest to the share goes there.

    Raises:
        UserError: validation is asked for and the share is 0 or there is only one entry; or the share is no share.
        ValueError: the split has another name.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: it is one of {', '.join(SPLITS)}")
    if not 0 <= validation_share < 1:
        raise UserError(f"Corpus.validation_share={validation_share} must be at least 0 and below 1")
    hashes = {entry.path: share_of(entry.path, "split") for entry in entries}
    validation = {path for path, share in hashes.items() if share < validation_share}
    if not validation and validation_share > 0 and len(entries) > 1:
        validation = {min(hashes, key=hashes.__getitem__)}
    elif len(entries) > 0 and len(validation) == len(hashes):
        validation.remove(max(hashes, key=hashes.__getitem__))  # also where there is only one: train goes first
    if split == "validation" and entries and not validation:
        reason = "there is only one file" if validation_share else "Corpus.validation_share is 0"
        raise UserError(f"{where}: no file is left for validation, since {reason}")
    return [entry for entry in entries if (entry.path in validation) == (split == "validation")]


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


def hash_of(name: str, rules: object, files: Iterator[tuple[str, int]]) -> str:
    """Hex hash for Source.fingerprint."""
    digest = hashlib.blake2b(f"{name} {rules!r}\n".encode(), digest_size=16)
    for path, size in files:
        digest.update(f"{size} {path}\n".encode())
    return digest.hexdigest()
