"""Source over a folder of text files: a document for each file, or for each repository."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, git_lfs
from tasks.sources import files, filters, languages, notebook
from tasks.sources.base import CODE_STREAMS, Block, Document, binding, has_documents, hash_of, left_out_summary
from tasks.sources.documents import check_document_characters, grouped, parts
from tasks.sources.filters import LeftOut
from tasks.sources.languages import FILENAMES, LANGUAGES, NOTEBOOK
from tasks.sources.merge_conflicts import has_conflict
from tasks.sources.splits import EmptySplit, select_split

SCRIPTS = ""  # in a set of extensions: files without an extension whose first line is #!INTERPRETER


def _extensions(*names: str) -> frozenset[str]:
    """Extensions and complete names of files, in lower case, of these languages."""
    found = [name for language in names for name in (*LANGUAGES[language], *FILENAMES.get(language, ()))]
    return frozenset((*found, NOTEBOOK, SCRIPTS))


CODE = _extensions(*LANGUAGES)
PYTHON = _extensions("Python")
PROSE = frozenset((".txt", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"))
EXTENSIONS = {"code": CODE, "python": PYTHON, "nl_code": PROSE, "nl": PROSE}
SKIPPED_FOLDERS = frozenset(("node_modules", "__pycache__"))  # besides those whose names begin with a dot, such as .git


@dataclasses.dataclass(frozen=True, slots=True)
class File:
    """A file of a corpus that has not been read.

    Attributes:
        path: relative to the corpus, with forward slashes; decides the split.
        size: in bytes, or another number that is cheap to get and changes with the text.
        read: returns its bytes or text; None if it has no document, which is not counted as removed by a filter.
        repository: the repository that the file belongs to; "" if there is none.
        script: the language of the file's first line, #!INTERPRETER, if its name has no extension.
    """

    path: str
    size: int
    read: Callable[[], bytes | str | None]
    repository: str = ""
    script: str = ""

    @property
    def language(self) -> str:
        """The language of its name or first line; "" if there is none."""
        return self.script or languages.of_path(self.path)


class TextFiles:
    """A Source[Document] over files. A shard is a file; with group_by_repository, consecutive files of a repository."""

    def __init__(self, name: str, files: Sequence[File], corpus: Corpus, settings: Filters):
        check_document_characters(corpus)
        self.name = name
        self._files, self._corpus, self._settings = files, corpus, settings
        self._groups = list(_repository_groups(files, corpus.shuffle_bytes)) if corpus.group_by_repository else None

    def __len__(self) -> int:
        return len(self._files if self._groups is None else self._groups)

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Document]]:
        if skip:
            return
        block = Block[Document]([], [])
        for file in (self._files[shard],) if self._groups is None else self._groups[shard]:
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
        is_notebook = file.path.lower().endswith(NOTEBOOK)
        limits = notebook.limits(self._settings) if is_notebook else self._settings
        filters.check_size(file.size, limits)
        data = file.read()
        if data is None:
            return None
        if isinstance(data, bytes) and git_lfs.is_pointer(data):
            raise LeftOut("lfs_pointer")
        text = filters.decode(data, limits)
        language = file.script or languages.of_path(file.path, text)
        if (is_notebook or self.name not in CODE_STREAMS) and has_conflict(text, prose=not is_notebook):
            raise LeftOut("merge_conflict")
        if is_notebook:
            text, language = notebook.source_code(text)
            text = filters.decode(text, self._settings)
            if self.name == "python" and language != "Python":
                raise LeftOut("language")
        if self.name in CODE_STREAMS:
            filters.check_code(text, language, self._settings)
        return Document(text, file.path, language, file.repository)

    def fingerprint(self) -> str:
        by_repository = self._groups is not None
        rules = (self._corpus.document_characters, by_repository and self._corpus.shuffle_bytes, self._settings)
        paths = (f"{file.repository}: {file.path}" if by_repository else file.path for file in self._files)
        return hash_of(self.name, rules, zip(paths, (file.size for file in self._files), strict=True))


def _repository_groups(files: Sequence[File], limit: int) -> Iterator[list[File]]:
    """The files of each repository in the order of their paths, in groups of at most `limit` bytes."""
    by_repository = sorted(files, key=lambda file: (file.repository, file.path))
    for _, members in itertools.groupby(by_repository, lambda file: file.repository):
        group: list[File] = []
        size = 0
        for file in members:
            if group and size + file.size > limit:
                yield group
                group, size = [], 0
            group.append(file)
            size += file.size
        yield group


class Folder(TextFiles):
    """The files below a folder that have one of the stream's extensions, split into train and validation.

    Links to folders are followed, and each folder is read once. Hidden files and folders, folders named in `skip` and
    paths that match Filters.ignore are not listed.
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
        listed: Sequence[File] | None = None,
    ):
        """Lists the folder, unless `listed` is given.

        Args:
            root: the folder, local or remote.
            split: train or validation.
            name: name of the stream.
            corpus, settings: how files are split and cut, and which are removed; None takes the defaults.
            extensions: the extensions of the files to read; None takes those of the stream (EXTENSIONS).
            skip: names of folders that are not entered.
            listed: the result of `walk`; None lists the folder.

        Raises:
            UserError: there is no such folder, or it has no usable file for this split.
        """
        corpus, settings = corpus or Corpus(), settings or Filters()
        root = filesystem.expand_home(root)
        where = f"{binding(name)}={root}"
        if not files.is_folder(root, where):
            raise UserError(f"{where}: {'not a folder' if files.exists(root, where) else 'no such folder'}")
        extensions = EXTENSIONS[name] if extensions is None else extensions
        if listed is None:
            listed = walk(root, extensions, skip, settings.ignore, corpus.group_by_repository, where)
        super().__init__(name, select_split(listed, split, corpus, where), corpus, settings)
        if not has_documents(self):
            shown = sorted(name for name in extensions if name.startswith("."))
            kinds = ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")
            raise EmptySplit(
                f"{where}: no usable file for {split} (UTF-8 text with an extension of {kinds}{left_out_summary(self)})"
            )


def walk(
    root: str | os.PathLike[str],
    extensions: frozenset[str],
    skip: frozenset[str] = SKIPPED_FOLDERS,
    ignore: Sequence[str] = (),
    sizes: bool = False,
    where: str = "",
) -> list[File]:
    """The files below a folder that have one of the extensions, in upper or lower case, sorted by path (files.walk).

    Files without an extension are opened to read their first line, but only local ones: each request of a remote one is
    slow.
    """
    wanted = functools.partial(_is_wanted, extensions=extensions)
    found = []
    for entry in files.walk(os.fspath(root), wanted, skip, tuple(ignore), sizes, where):
        script = ""
        if _may_be_script(entry.path):
            script = _script_language(entry)
            if not script or not extensions.intersection(LANGUAGES[script]):
                continue
        read = functools.partial(files.read_bytes, entry.location)
        found.append(File(entry.path, entry.size, read, entry.repository, script))
    return found


def _is_wanted(name: str, extensions: frozenset[str]) -> bool:
    """Whether a file is read because of its name, or may be a script."""
    if SCRIPTS in extensions and _may_be_script(name):
        return True
    if language := languages.of_file_name(name):
        return extensions.issuperset(FILENAMES[language])
    return os.path.splitext(name)[1].lower() in extensions - {SCRIPTS}


def _may_be_script(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not os.path.splitext(name)[1] and not languages.of_file_name(name)


def _script_language(entry: files.Found) -> str:
    if filesystem.is_remote(entry.location):
        return ""
    try:
        with filesystem.open_input(entry.location) as file:
            return languages.of_script(file.read(languages.SHEBANG_BYTES))
    except OSError:
        return ""  # a file that may not be read is not source code that was meant
