"""Sources of documents: `open` opens the corpus of a stream.

The format of a path decides which module reads it; TensorFlow and SeqIO are imported only for the paths that need them.
"""

import logging
from functools import cache

from codellama_jax.config.data import Corpus, Filters, Paths
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, manifest, seqio_source
from tasks.sources.base import ConcatenatedSource, Source, binding
from tasks.sources.curated import CuratedDataset
from tasks.sources.embedded.corpus import embedded_source
from tasks.sources.folder import EXTENSIONS, SKIPPED_FOLDERS, Folder, walk
from tasks.sources.plugins import import_modules
from tasks.sources.records.find_record_files import NO_RECORDS, TFDS, files_of_folder
from tasks.sources.records.record_formats import is_corpus_file
from tasks.sources.records.record_source import open_records
from tasks.sources.splits import EmptySplit

__all__ = ["import_modules", "open"]


def open(paths: Paths, stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """Opens one split of a corpus: Source[Dialogue] for the stream instruct, else Source[Document].

    Args:
        paths: a path or several, which are concatenated; see _open_path. None is the embedded corpus.
        stream: name of the stream, one of STREAMS.
        split: train or validation.
        corpus: how documents are split, cut and grouped.
        filters: which documents are removed.

    Raises:
        UserError: a path does not exist or cannot be read, or no path has a usable document for this split.
        ValueError: no such stream or split.
    """
    if paths is None:
        return embedded_source(stream, split, corpus, filters)
    opened: list[Source] = []
    empty: list[EmptySplit] = []
    for path in (paths,) if isinstance(paths, str) else paths:
        try:
            opened.append(_open_path(path, stream, split, corpus, filters))
        except EmptySplit as error:
            empty.append(error)
    if not opened:
        raise empty[0] if empty else UserError(f"{binding(stream)}={paths!r} names no path")
    return opened[0] if len(opened) == 1 else ConcatenatedSource(opened)


def _open_path(path: str, stream: str, split: str, corpus: Corpus, filters: Filters) -> Source:
    """Opens a path by its form:

        seqio:NAME                      a registered SeqIO task
        tfds:NAME                       a dataset that TFDS has prepared
        a folder with manifest.json,    a curated dataset, if the manifest is that of `python -m tasks.build`
        or manifest.json itself
        a folder                        its text files; or its record files, if those are larger in total, so that a
                                        README.md does not hide the data beside it
        a file, a glob pattern          record files

    The stream instruct reads dialogues, which folders of text files and curated datasets do not have.
    """
    if path.startswith(seqio_source.PREFIX):
        name = path.removeprefix(seqio_source.PREFIX)
        where = f"{binding(stream)}={path}"
        return seqio_source.open_task(name, split, stream=stream, corpus=corpus, filters=filters, where=where)
    if stream != "instruct" and not path.startswith(TFDS):
        root, where = filesystem.expand_home(path), f"{binding(stream)}={path}"
        if (manifest_path := manifest.path_of(root)) is not None:
            return CuratedDataset(manifest_path, split, name=stream, corpus=corpus, settings=filters)
        if files.is_folder(root, where):
            texts = walk(root, EXTENSIONS[stream], ignore=filters.ignore, sizes=corpus.group_by_repository, where=where)
            records = files.walk(root, is_corpus_file, SKIPPED_FOLDERS | NO_RECORDS, tuple(filters.ignore), where=where)
            if not texts and not records and files_of_folder(root, filters, where):
                return open_records(path, split, name=stream, corpus=corpus, settings=filters)
            if not records or sum(file.size for file in texts) >= sum(file.size for file in records):
                return Folder(path, split, name=stream, corpus=corpus, settings=filters, listed=texts)
            if texts:
                _warn_once(
                    f"{where}: read as {len(records):,} record files; the {len(texts):,} text files beside them are"
                    " smaller in total, and are not read (name a pattern or another folder to be explicit)"
                )
    return open_records(path, split, name=stream, corpus=corpus, settings=filters)


@cache
def _warn_once(message: str) -> None:
    logging.getLogger(__name__).warning("note: %s", message)
