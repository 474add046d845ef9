"""Source over a folder of text files: a document for each file, or for each repository."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from codellama_jax.config.data import SPLITS, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, filters, inventory, languages, metadata_line
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
from tasks.sources.languages import LANGUAGES
from tasks.sources.splits import EmptySplit, select_split

CODE = frozenset(extension for extensions in LANGUAGES.values() for extension in extensions)
PYTHON = frozenset(LANGUAGES["Python"])
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
    """

    path: str
    size: int
    read: Callable[[], bytes | str | None]
    repository: str = ""
    identity: Identity | None = None

    @property
    def language(self) -> str:
        """The language of its extension; "" if no language has it."""
        return languages.of_path(self.path)


class TextFiles:
    """A Source[Document] over files. A shard is a file; with group_by_repository, consecutive files of a repository."""

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
        block.changed = changed(block.items)
        if self._groups is not None:
            block.items = grouped(block.items)
        block.items = [part for document in block.items for part in parts(document, self._corpus.document_characters)]
        yield block

    def _document(self, file: File) -> Document | None:
        filters.check_size(file.size, self._settings)
        data = file.read()
        if data is None:
            return None
        text, repository = filters.decode(data, self._settings), file.repository
        changed_by: tuple[str, ...] = ()
        if self._corpus.metadata_line and (metadata := metadata_line.find(text)):
            text = filters.decode(text[metadata.end :], self._settings)  # raises LeftOut if nothing is left
            repository, changed_by = repository or metadata.repository, (metadata_line.NAME,)
        if self.name in CODE_STREAMS:
            filters.check_code(text, file.language, self._settings)
        return Document(text, file.path, file.language, repository, changed=changed_by)

    def fingerprint(self) -> str:
        by_repository = self._groups is not None
        rules = (self._corpus.document_characters, by_repository and self._corpus.shuffle_bytes, self._settings)
        paths = (f"{file.repository}: {file.path}" if by_repository else file.path for file in self._files)
        return hash_of(self.name, rules, zip(paths, (file.size for file in self._files), strict=True))

    def inventory(self) -> Sequence[PlaceInventory]:
        return [self._place]

    def place(self, shard: int) -> int:
        return 0

    def file_splits(self) -> Mapping[Identity, str]:
        return {file.identity: self._split for file in self._files if file.identity is not None}


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
            listing = files.list_files(
                root, has_extension(extensions), skip, tuple(settings.ignore), corpus.group_by_repository, where
            )
        texts, repeated = (files_read or FilesRead()).add(place, listing.found)
        check_not_repeated(where, texts, repeated)
        chosen = select_split([_file(entry) for entry in texts], split, corpus, where)
        described = inventory.of_listing(name, place, "text files", texts, listing, repeated)
        if corpus.validation_share:
            unit = "repository" if corpus.group_by_repository else "file's path"
            counts = dict.fromkeys(SPLITS, len(texts) - len(chosen)) | {split: len(chosen)}
            described = dataclasses.replace(described, splits=counts, split_by=f"the hash of a {unit}")
        super().__init__(name, chosen, corpus, settings, split, described)
        sample = read_first(self)
        if not sample.documents:
            kinds = ", ".join(sorted(extensions)[:12]) + (", ..." if len(extensions) > 12 else "")
            found = "" if texts else f"; {inventory.holds(listing)}"
            raise EmptySplit(
                f"{where}: no usable file for {split}{found}{left_out_text(sample.left_out)} (it reads UTF-8 text with"
                f" an extension of {kinds})"
            )
        self._place = described.counted(sample.documents, sample.left_out, inventory.ON_OPENING)

    def fingerprint(self) -> str:
        return hash_of(self.name, (READING_RULES, self._corpus.metadata_line, super().fingerprint()), ())


def has_extension(extensions: frozenset[str]) -> Callable[[str], bool]:
    """Whether a file name has one of the extensions, in upper or lower case."""
    return lambda name: os.path.splitext(name)[1].lower() in extensions


def walk(
    root: str | os.PathLike[str], extensions: frozenset[str], skip: frozenset[str] = SKIPPED_FOLDERS
) -> list[File]:
    """The files below a folder that have one of the extensions, sorted by path (files.list_files)."""
    return [_file(entry) for entry in files.walk(os.fspath(root), has_extension(extensions), skip, sizes=False)]


def _file(entry: Found) -> File:
    read = functools.partial(files.read_bytes, entry.location)
    return File(entry.path, entry.size, read, entry.repository, entry.identity)
