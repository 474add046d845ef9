"""Source over a folder of text files: a document for each file, or for each repository."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from codellama_jax.config.data import NEWEST, SPLITS, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, git_lfs
from tasks.sources import files, filters, inventory, languages, metadata_line, newest_files, notebook
from tasks.sources.base import (
    CODE_STREAMS,
    READING_RULES,
    Block,
    Document,
    binding,
    changed,
    hash_of,
    left_out_text,
    read_first,
)
from tasks.sources.documents import check_document_characters, grouped, parts
from tasks.sources.duplicates import FilesRead, Identity, check_not_repeated
from tasks.sources.files import Found, Listing
from tasks.sources.filters import LeftOut
from tasks.sources.inventory import PlaceInventory
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
        identity: see files.Found.
        script: the language of the file's first line, #!INTERPRETER, if its name has no extension.
    """

    path: str
    size: int
    read: Callable[[], bytes | str | None]
    repository: str = ""
    identity: Identity | None = None
    script: str = ""

    @property
    def language(self) -> str:
        """The language of its name or first line; "" if there is none."""
        return self.script or languages.of_path(self.path)


class TextFiles:
    """A Source[Document] over files.

    A shard is a file; with group_by_repository or neighbour_bytes, consecutive files of a repository.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[File],
        corpus: Corpus,
        settings: Filters,
        split: str = "train",
        place: PlaceInventory | None = None,
    ):
        """Keeps the files of one split. `place` is their inventory."""
        check_document_characters(corpus)
        self.name, self._split = name, split
        self._place = place or PlaceInventory(name, "", "text files")
        self._files, self._corpus, self._settings = files, corpus, settings
        self._groups: list[list[File]] | None = None
        if corpus.group_by_repository:
            self._groups = list(_repository_groups(sorted(files, key=_by_path), corpus.shuffle_bytes))
        elif corpus.neighbour_bytes:
            self._groups = list(_repository_groups(sorted(files, key=_by_folder), corpus.neighbour_bytes))

    def __len__(self) -> int:
        return len(self._files if self._groups is None else self._groups)

    def read(self, shard: int, skip: int = 0) -> Iterator[Block[Document]]:
        if skip:
            return
        block = Block[Document]([], [], in_order=bool(self._corpus.neighbour_bytes))
        for file in (self._files[shard],) if self._groups is None else self._groups[shard]:
            try:
                if (document := self._document(file)) is not None:
                    block.items.append(document)
            except LeftOut as left_out:
                block.left_out.append((left_out.reason, file.path))
        block.changed = changed(block.items)
        if self._corpus.group_by_repository:
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
        text, repository = filters.decode(data, limits), file.repository
        changed_by: tuple[str, ...] = ()
        if self._corpus.metadata_line and (metadata := metadata_line.find(text)):
            text = filters.decode(text[metadata.end :], self._settings)  # raises LeftOut if nothing is left
            repository, changed_by = repository or metadata.repository, (metadata_line.NAME,)
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
        return Document(text, file.path, language, repository, changed=changed_by)

    def fingerprint(self) -> str:
        by_repository, neighbours = self._corpus.group_by_repository, self._corpus.neighbour_bytes
        rules: tuple[object, ...] = (
            self._corpus.document_characters,
            by_repository and self._corpus.shuffle_bytes,
            self._settings,
            *([neighbours] if neighbours else []),
        )
        paths = (f"{file.repository}: {file.path}" if by_repository else file.path for file in self._files)
        return hash_of(self.name, rules, zip(paths, (file.size for file in self._files), strict=True))

    def inventory(self) -> Sequence[PlaceInventory]:
        return [self._place]

    def place(self, shard: int) -> int:
        return 0

    def file_splits(self) -> Mapping[Identity, str]:
        return {file.identity: self._split for file in self._files if file.identity is not None}


def _by_path(file: File) -> tuple[str, str]:
    return file.repository, file.path


def _by_folder(file: File) -> tuple[str, list[str], str]:
    """The files of a folder are consecutive, in the order of their names; those of the folders in it follow."""
    return file.repository, file.path.split("/")[:-1], file.path


def _repository_groups(files: Sequence[File], limit: int) -> Iterator[list[File]]:
    """The files of each repository, which are consecutive, in groups of at most `limit` bytes."""
    for _, members in itertools.groupby(files, lambda file: file.repository):
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
        listing: Listing | None = None,
        files_read: FilesRead | None = None,
    ):
        """Lists the folder, unless `listing` is given.

        Args:
            root: the folder, local or remote.
            split: train or validation.
            name: name of the stream.
            corpus, settings: how files are split and cut, and which are removed; None takes the defaults.
            extensions: the extensions of the files to read; None takes those of the stream (EXTENSIONS).
            skip: names of folders that are not entered.
            listing: the files of the folder; None lists those with one of the extensions.
            files_read: the files that earlier places of the stream read. They are not read again.

        Raises:
            UserError: there is no such folder, earlier places read all of its files, or it has no usable file for this
                split.
        """
        corpus, settings = corpus or Corpus(), settings or Filters()
        place, root = os.fspath(root), filesystem.expand_home(root)
        where = f"{binding(name)}={root}"
        if not files.is_folder(root, where):
            raise UserError(f"{where}: {'not a folder' if files.exists(root, where) else 'no such folder'}")
        extensions = EXTENSIONS[name] if extensions is None else extensions
        if listing is None:
            listing = list_texts(root, extensions, skip, tuple(settings.ignore), corpus.group_by_repository, where)
        texts, repeated = (files_read or FilesRead()).add(place, listing.found)
        check_not_repeated(where, texts, repeated)
        ignored = 0
        if not corpus.ignored_by_git:
            texts, ignored = newest_files.without_ignored(texts)
        described = inventory.of_listing(name, place, "text files", texts, listing, repeated)
        if ignored:
            described = described.noted(f"not read: {ignored:,} files that git ignores (Corpus.ignored_by_git)")
        if corpus.held_out == NEWEST:
            selected = newest_files.select(texts, split, corpus, settings, where)
            chosen, counts, split_by = [_file(entry) for entry in selected.files], selected.counts, selected.split_by
            described = described.noted(*selected.notes)
        else:
            chosen = select_split([_file(entry) for entry in texts], split, corpus, where)
            counts = dict.fromkeys(SPLITS, len(texts) - len(chosen)) | {split: len(chosen)}
            split_by = "the hash of a repository" if corpus.group_by_repository else newest_files.BY_HASH
        if corpus.validation_share:
            described = dataclasses.replace(described, splits=counts, split_by=split_by)
        super().__init__(name, chosen, corpus, settings, split, described)
        sample = read_first(self)
        if not sample.documents:
            shown = sorted(name for name in extensions if name.startswith("."))
            kinds = ", ".join(shown[:12]) + (", ..." if len(shown) > 12 else "")
            found = "" if texts else f"; {inventory.holds(listing)}"
            raise EmptySplit(
                f"{where}: no usable file for {split}{found}{left_out_text(sample.left_out)} (it reads UTF-8 text with"
                f" an extension of {kinds})"
            )
        self._place = described.counted(sample.documents, sample.left_out, inventory.ON_OPENING)

    def fingerprint(self) -> str:
        return hash_of(self.name, (READING_RULES, self._corpus.metadata_line, super().fingerprint()), ())


def walk(
    root: str | os.PathLike[str], extensions: frozenset[str], skip: frozenset[str] = SKIPPED_FOLDERS
) -> list[File]:
    """The files below a folder that are wanted, sorted by path (list_texts)."""
    return [_file(entry) for entry in list_texts(os.fspath(root), extensions, skip, sizes=False).found]


def list_texts(
    root: str,
    extensions: frozenset[str],
    skip: frozenset[str] = SKIPPED_FOLDERS,
    ignore: tuple[str, ...] = (),
    sizes: bool = False,
    where: str = "",
) -> Listing:
    """Lists the text files below a folder. See files.list_files for the arguments, and with_scripts."""
    listing = files.list_files(root, functools.partial(is_wanted, extensions=extensions), skip, ignore, sizes, where)
    return listing.of(*with_scripts(listing.found, extensions))


def is_wanted(name: str, extensions: frozenset[str]) -> bool:
    """Whether a file is read because of its name, in upper or lower case, or may be a script."""
    if SCRIPTS in extensions and _may_be_script(name):
        return True
    if language := languages.of_file_name(name):
        return extensions.issuperset(FILENAMES[language])
    return os.path.splitext(name)[1].lower() in extensions - {SCRIPTS}


def with_scripts(entries: Sequence[Found], extensions: frozenset[str]) -> tuple[list[Found], list[Found]]:
    """The files with the language of scripts, and those without an extension that are no scripts of these languages.

    Files without an extension are opened to read their first line, but only local ones: each request of a remote one is
    slow.
    """
    texts: list[Found] = []
    others: list[Found] = []
    for entry in entries:
        if not _may_be_script(entry.path):
            texts.append(entry)
        elif (script := _script_language(entry)) and not extensions.isdisjoint(LANGUAGES[script]):
            texts.append(dataclasses.replace(entry, script=script))
        else:
            others.append(entry)
    return texts, others


def _file(entry: Found) -> File:
    read = functools.partial(files.read_bytes, entry.location)
    return File(entry.path, entry.size, read, entry.repository, entry.identity, entry.script)


def _may_be_script(path: str) -> bool:
    name = path.rpartition("/")[2]
    return not os.path.splitext(name)[1] and not languages.of_file_name(name)


def _script_language(entry: Found) -> str:
    if filesystem.is_remote(entry.location):
        return ""
    try:
        with filesystem.open_input(entry.location) as file:
            return languages.of_script(file.read(languages.SHEBANG_BYTES))
    except OSError:
        return ""  # a file that may not be read is not source code that was meant
