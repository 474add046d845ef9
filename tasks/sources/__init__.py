"""Sources of documents: `open` opens the corpus of a stream.

The format of a path decides which module reads it; TensorFlow and SeqIO are imported only for the paths that need them.
"""

import functools
import os
import re

from codellama_jax.config.data import Corpus, Filters, Paths
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, manifest, seqio_source
from tasks.sources.base import ConcatenatedSource, Source, binding
from tasks.sources.curated import CuratedDataset
from tasks.sources.duplicates import FilesRead, check_not_repeated
from tasks.sources.embedded.corpus import embedded_source
from tasks.sources.embedded.exercises import exercises_source
from tasks.sources.embedded.keys import keys_source
from tasks.sources.files import UNKNOWN_SIZE, Found, Listing
from tasks.sources.folder import EXTENSIONS, SKIPPED_FOLDERS, Folder, is_wanted, with_scripts
from tasks.sources.named_splits import names_split
from tasks.sources.plugins import import_modules
from tasks.sources.records.find_record_files import FOLDER, NO_RECORDS, TFDS, RecordFiles, list_record_files
from tasks.sources.records.record_formats import is_corpus_file
from tasks.sources.records.record_source import open_records
from tasks.sources.splits import EmptySplit

__all__ = ["EMBEDDED_PLACES", "import_modules", "open"]

EMBEDDED = "embedded:"
EMBEDDED_PLACES = ("embedded:library", "embedded:exercises", "embedded:keys")

_DESCRIPTION = re.compile(r"(readme|licen[cs]e|citation|changelog)\b[^/]*$", re.IGNORECASE)


def open(paths: Paths, stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """Opens one split of a corpus: Source[Dialogue] for the stream instruct, else Source[Document].

    Args:
        paths: a path or several, which are concatenated; see _open_path. None is the embedded corpus.
        stream: name of the stream, one of STREAMS.
        split: train or validation.
        corpus: how documents are split, cut and grouped.
        filters: which documents are removed.

    Raises:
        UserError: a path does not exist or cannot be read, it has no usable document for training, or it repeats an
            earlier one; or no path has a usable document for validation.
        ValueError: no such stream or split.
    """
    if paths is None:
        return embedded_source(stream, split, corpus, filters)
    opened: list[Source] = []
    empty: list[EmptySplit] = []
    places = (paths,) if isinstance(paths, str) else paths
    files_read = FilesRead()
    for path in places:
        try:
            opened.append(_open_path(path, stream, split, corpus, filters, files_read))
        except EmptySplit as error:
            if split == "train" and len(places) > 1:
                raise EmptySplit(f"{error}; correct this place, or remove it from the list") from None
            empty.append(error)
    if not opened:
        raise empty[0] if empty else UserError(f"{binding(stream)}={paths!r} names no path")
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def _open_path(path: str, stream: str, split: str, corpus: Corpus, filters: Filters, files_read: FilesRead) -> Source:
    """Opens a path by its form:

        embedded:library                the embedded corpus, as without a path
        embedded:exercises              generated functions
        embedded:keys                   generated functions, and assertions of what they return
        seqio:NAME                      a registered SeqIO task
        tfds:NAME                       a dataset that TFDS has prepared
        a folder with manifest.json,    a curated dataset, if the manifest is that of `python -m tasks.build`
        or manifest.json itself
        a folder                        its text files; or its record files, if those are larger in total, so that a
                                        README.md does not hide the data beside it
        a file, a glob pattern          record files

    The stream instruct reads dialogues, which folders of text files and curated datasets do not have. The inventory
    names the files of a folder that are not read. `files_read` has the files of the places before this one.
    """
    where = f"{binding(stream)}={path}"
    if path.startswith(EMBEDDED):
        return _open_embedded(path, stream, split, corpus, filters, files_read)
    if path.startswith(seqio_source.PREFIX):
        name = path.removeprefix(seqio_source.PREFIX)
        return seqio_source.open_task(
            name, split, stream=stream, corpus=corpus, filters=filters, where=where, files_read=files_read
        )
    found = None
    if stream != "instruct" and not path.startswith(TFDS):
        root = filesystem.expand_home(path)
        if (manifest_path := manifest.path_of(root)) is not None:
            return CuratedDataset(
                manifest_path, split, name=stream, corpus=corpus, settings=filters, files_read=files_read
            )
        if files.is_folder(root, where):
            listing, texts, records = _list_folder(root, stream, corpus, filters, where)
            tables = _tables(root, texts, filters, where) if not records else None
            if tables is not None:
                found = RecordFiles(tables, FOLDER)
            elif not records or (texts and _larger(texts, records)):
                return Folder(
                    path,
                    split,
                    name=stream,
                    corpus=corpus,
                    settings=filters,
                    listing=listing.of(texts, records),
                    files_read=files_read,
                )
            else:
                found = RecordFiles(listing.of(records, texts), FOLDER)
    return open_records(path, split, name=stream, corpus=corpus, settings=filters, found=found, files_read=files_read)


def _open_embedded(
    path: str, stream: str, split: str, corpus: Corpus, filters: Filters, files_read: FilesRead
) -> Source:
    where = f"{binding(stream)}={path}"
    check_not_repeated(where, *files_read.add(path, [Found(path, path, UNKNOWN_SIZE, "", path)]))
    match path.removeprefix(EMBEDDED):
        case "library":
            return embedded_source(stream, split, corpus, filters, path)
        case "exercises":
            return exercises_source(stream, split, corpus, filters, where)
        case "keys":
            return keys_source(stream, split, corpus, filters, where)
        case name:
            raise UserError(f"{where}: there is no embedded corpus {name!r}: write {' or '.join(EMBEDDED_PLACES)}")


def _list_folder(
    root: str, stream: str, corpus: Corpus, filters: Filters, where: str
) -> tuple[Listing, list[Found], list[Found]]:
    """The files of a folder, its text files, and its record files."""
    is_text = functools.partial(is_wanted, extensions=EXTENSIONS[stream])
    record_names: set[str] = set()

    def wanted(name: str) -> bool:
        if is_text(name):
            return True
        if is_corpus_file(name):
            record_names.add(name)
            return True
        return False

    listing = files.list_files(root, wanted, SKIPPED_FOLDERS, tuple(filters.ignore), corpus.group_by_repository, where)
    texts: list[Found] = []
    records: list[Found] = []
    others: list[Found] = []
    for file in listing.found:
        is_record = os.path.basename(file.location) in record_names
        unread = is_record and not NO_RECORDS.isdisjoint(file.path.split("/"))
        (others if unread else records if is_record else texts).append(file)
    texts, no_scripts = with_scripts(texts, EXTENSIONS[stream])
    return listing.of([*texts, *records], [*others, *no_scripts]), texts, records


def _tables(root: str, texts: list[Found], filters: Filters, where: str) -> Listing | None:
    """The .csv, .tsv and .json files of a folder; None if there are none, or if its text files are read.

    Beside text files that only describe the folder, they are read if they name splits, as in a clone of a dataset.
    """
    if not all(_DESCRIPTION.match(file.path) for file in texts):
        return None
    tables = list_record_files(root, filters, where)
    if not tables.found or (texts and not any(names_split(file.path) for file in tables.found)):
        return None
    return tables


def _larger(texts: list[Found], records: list[Found]) -> bool:
    """Whether text files have at least as many bytes as record files. False if the sizes were not requested."""
    sizes = [[file.size for file in files] for files in (texts, records)]
    return UNKNOWN_SIZE not in sizes[0] and sum(sizes[0]) >= sum(sizes[1])
