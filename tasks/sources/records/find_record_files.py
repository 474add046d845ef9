"""The record files that a path names: a file, a folder, a pattern, or a dataset that TFDS has prepared."""

import concurrent.futures
import dataclasses
import os
import re
from collections import Counter

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files, inventory
from tasks.sources.duplicates import each_once
from tasks.sources.files import Found, Listing
from tasks.sources.records.partitions import is_partition
from tasks.sources.records.record_formats import KINDS, has_records, is_corpus_file, is_record_file
from tasks.sources.records.tf_examples import tensorflow

TFDS = "tfds:"
# What Spark, Hive and Delta Lake write beside their data: logs and unfinished files.
NO_RECORDS = frozenset(("_temporary", "_delta_log", "_spark_metadata", "_symlink_format_manifest"))

_MAGIC = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """The record files of a path.

    Attributes:
        listing: the files; `found` are the record files, without the sizes of remote files.
        kind: how the path names them: FOLDER, PATTERN, FILE or DATASET.
    """

    listing: Listing
    kind: str


FOLDER, PATTERN, FILE, DATASET = "folder", "pattern", "file", "dataset"


def find_files(path: str, where: str, settings: Filters) -> RecordFiles:
    """The record files of a path, sorted. The sizes of remote files are not requested.

    Raises:
        UserError: there is none. `where` is the setting that the message names.
    """
    if path.startswith(TFDS):
        return RecordFiles(Listing(_prepared_dataset(path.removeprefix(TFDS), where)), DATASET)
    root = filesystem.expand_home(path)
    if files.is_folder(root, where):
        listing = list_record_files(root, settings, where)
        if listing.found:
            return RecordFiles(listing, FOLDER)
        raise UserError(f"{where}: no record file below the folder ({KINDS}); {inventory.holds(listing)}")
    if files.exists(root, where):
        if is_record_file(root):
            return RecordFiles(Listing([_entry(root, os.path.dirname(root))]), FILE)
        remedy = "of text files, name the folder"
        raise UserError(f"{where}: the file name has no extension of a record file ({KINDS}); {remedy}")
    fixed = _MAGIC.split(root)[0]
    if fixed == root:
        raise UserError(f"{where}: no such file or folder")
    matches = files.matching(root, where)
    named = [
        location
        for location in matches
        if NO_RECORDS.isdisjoint(location.split("/")) and _may_have_records(location.rstrip("/"))
    ]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # remote requests are slow
        found = list(pool.map(lambda location: _files_of_match(location, settings, where), named))
        others = Counter(pool.map(lambda location: _kind(location, where), set(matches) - set(named)))
    locations = sorted({file for matched in found for file in matched})  # ** also matches what is in a folder
    if not locations:
        reason = f"; it matches {inventory.format_extensions(others)}" if others else ""
        reason += "; name each folder, or continue the pattern with /*" if files.FOLDER in others else ""
        raise UserError(f"{where}: the pattern matches no record file ({KINDS}){reason}")
    entries, duplicates = each_once([_entry(location, os.path.dirname(fixed)) for location in locations])
    return RecordFiles(Listing(entries, others, duplicates=duplicates), PATTERN)


def list_record_files(root: str, settings: Filters, where: str) -> Listing:
    """Lists the record files below a folder. The sizes of remote files are not requested.

    Only if there are no others, .csv and .tsv files are listed, and only without those, .json files.

    Args:
        root: the folder.
        settings: Filters.ignore has the patterns of paths to ignore.
        where: the setting that error messages name.
    """
    for kind in (is_corpus_file, _is_table, has_records):
        listing = files.list_files(root, kind, NO_RECORDS, tuple(settings.ignore), sizes=False, where=where)
        if listing.found:
            break
    return listing


def _is_table(name: str) -> bool:
    return has_records(name) and not name.lower().endswith(".json")


def _may_have_records(location: str) -> bool:
    """Whether a match of a pattern is a record file or, like a folder that Spark writes, a folder of record files."""
    return is_record_file(location) or is_partition(location.rpartition("/")[2])


def _files_of_match(location: str, settings: Filters, where: str) -> list[str]:
    if not files.is_folder(location, where):
        return [location] if is_record_file(location) else []
    return [file.location for file in list_record_files(location.rstrip("/"), settings, where).found]


def _kind(location: str, where: str) -> str:
    """The extension of a match that is not read, or FOLDER."""
    (extension,) = files.count_extensions([location.rstrip("/")])
    return files.FOLDER if extension == files.NO_EXTENSION and files.is_folder(location, where) else extension


def with_size(file: Found) -> Found:
    """The file with its size. Raises UserError if it cannot be read."""
    if file.size != files.UNKNOWN_SIZE:
        return file
    try:
        return dataclasses.replace(file, size=filesystem.size(file.location))
    except OSError as error:
        raise UserError(f"{file.location} cannot be read ({error.strerror or error}): fix or remove it") from None


def _entry(location: str, folder: str) -> Found:
    """A file and its path relative to a folder."""
    return files.file_at(location, location.removeprefix(folder).lstrip("/"))


def _prepared_dataset(name: str, where: str) -> list[Found]:
    """The shards of NAME?data_dir=DIR&split=SPLIT, with paths below the dataset's full name.

    Reads the prepared files only: neither the dataset's own code nor the network is used.
    """
    name, _, rest = name.partition("?")
    options = dict(option.partition("=")[::2] for option in rest.split("&") if option)
    if not name or options.keys() - {"data_dir", "split"}:
        raise UserError(f"{where}: write tfds:NAME, optionally with ?data_dir=DIR and &split=SPLIT")
    split, data_dir = options.get("split", "train"), options.get("data_dir")
    tensorflow()
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        info = builder_from_files(name, data_dir=data_dir and filesystem.expand_home(data_dir)).info
        splits = dict(info.splits)  # a plain dict: "train[:5%]" is not a key of it
    except Exception as error:  # TFDS raises its own errors, and those of its metadata parsers
        reason = str(error).strip().partition("\n")[0]
        remedy = "prepare it with `tfds build`, or name the folder that has it: ?data_dir=DIR"
        raise UserError(f"{where}: TFDS has not prepared {name} ({reason}); {remedy}") from None
    if info.file_format is not None and info.file_format.value != "tfrecord":
        remedy = "prepare it with `tfds build --file_format=tfrecord`"
        raise UserError(f"{where}: {info.full_name} is prepared as {info.file_format.value}; {remedy}")
    if split not in splits:
        remedy = f"name one of its splits, &split={' or &split='.join(sorted(splits))}"
        raise UserError(f"{where}: {info.full_name} has no split {split!r}; {remedy}")
    paths = [os.fspath(path) for path in splits[split].filepaths]
    folder = info.full_name
    return [files.file_at(path, f"{folder}/{path.rpartition('/')[2]}") for path in paths]
