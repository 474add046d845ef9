"""The record files that a path names: a file, a folder, a pattern, or a dataset that TFDS has prepared."""

import concurrent.futures
import dataclasses
import os
import re

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources import files
from tasks.sources.files import Found
from tasks.sources.records.partitions import is_partition
from tasks.sources.records.record_formats import KINDS, is_corpus_file, is_record_file
from tasks.sources.records.tf_examples import tensorflow

TFDS = "tfds:"
# What Spark, Hive and Delta Lake write beside their data: logs and unfinished files.
NO_RECORDS = frozenset(("_temporary", "_delta_log", "_spark_metadata", "_symlink_format_manifest"))

_MAGIC = re.compile(r"[*?\[]")


def find_files(path: str, where: str, settings: Filters) -> list[Found]:
    """The record files of a path, sorted. The sizes of remote files are not requested.

    Raises:
        UserError: there is none. `where` is the setting that the message names.
    """
    if path.startswith(TFDS):
        return _prepared_dataset(path.removeprefix(TFDS), where)
    root = filesystem.expand_home(path)
    if files.is_folder(root, where):
        if entries := files_of_folder(root, settings, where):
            return entries
        raise UserError(f"{where}: no record file below the folder ({KINDS})")
    if files.exists(root, where):
        if is_record_file(root):
            return [_entry(root, os.path.dirname(root))]
        raise UserError(f"{where}: the file name has no extension of a record file ({KINDS})")
    fixed = _MAGIC.split(root)[0]
    if fixed == root:
        raise UserError(f"{where}: no such file or folder")
    matches = (location for location in files.matching(root, where) if not NO_RECORDS & set(location.split("/")))
    named = (location for location in matches if _may_have_records(location.rstrip("/")))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:  # remote requests are slow
        found = list(pool.map(lambda location: _files_of_match(location, settings, where), named))
    locations = sorted({file for matched in found for file in matched})  # ** also matches what is in a folder
    if not locations:
        raise UserError(f"{where}: the pattern matches no record file ({KINDS})")
    return [_entry(location, os.path.dirname(fixed)) for location in locations]


def files_of_folder(root: str, settings: Filters, where: str, others: bool = True) -> list[Found]:
    """The record files below a folder, sorted. The sizes of remote files are not requested.

    Args:
        root: the folder.
        settings: Filters.ignore has the patterns of paths to ignore.
        where: the setting that error messages name.
        others: if there are none, to list .csv and .tsv files, or if there are none of these either, .json files.
    """
    kinds = (is_corpus_file, _is_table, is_record_file) if others else (is_corpus_file,)
    for kind in kinds:
        if entries := files.walk(root, kind, NO_RECORDS, tuple(settings.ignore), sizes=False, where=where):
            return entries
    return []


def _is_table(name: str) -> bool:
    return is_record_file(name) and not name.lower().endswith(".json")


def _may_have_records(location: str) -> bool:
    """Whether a match of a pattern is a record file or, like a folder that Spark writes, a folder of record files."""
    return is_record_file(location) or is_partition(location.rpartition("/")[2])


def _files_of_match(location: str, settings: Filters, where: str) -> list[str]:
    if not files.is_folder(location, where):
        return [location] if is_record_file(location) else []
    return [file.location for file in files_of_folder(location.rstrip("/"), settings, where)]


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
    path = location.removeprefix(folder).lstrip("/")
    return Found(os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/"), location, files.UNKNOWN_SIZE, "")


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
    return [Found(f"{info.full_name}/{path.rpartition('/')[2]}", path, files.UNKNOWN_SIZE, "") for path in paths]
