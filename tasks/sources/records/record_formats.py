"""The formats of record files by file name: JSON, CSV, Parquet, Arrow and TFRecord.

Opening a file reads at most Parquet's footer or the start of JSON. pyarrow, zstandard and TensorFlow are imported by
the formats that need them.
"""

import re

from codellama_jax.runtime import git_lfs
from tasks.sources.files import COMPRESSIONS, Found
from tasks.sources.records.arrow_ipc import ArrowIpc
from tasks.sources.records.compression import is_compressed
from tasks.sources.records.delimited import Delimited
from tasks.sources.records.json_document import JsonDocument, is_json_document
from tasks.sources.records.json_lines import CompressedJsonLines, JsonLines
from tasks.sources.records.parquet import Parquet
from tasks.sources.records.partitions import Partition, partition_fields, selecting_with
from tasks.sources.records.record_file import Damaged, Format, RecordLocation, SelectColumns, open_checked
from tasks.sources.records.repository_files import selecting_files
from tasks.sources.records.tf_examples import TfRecords

_COMPRESSED = rf"(?:\.(?:{'|'.join(COMPRESSIONS)}))?$"
LINES = re.compile(rf"\.(jsonl|ndjson){_COMPRESSED}", re.IGNORECASE)
JSON = re.compile(rf"\.json{_COMPRESSED}", re.IGNORECASE)
DELIMITED = re.compile(rf"\.[ct]sv{_COMPRESSED}", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
ARROW = re.compile(r"\.(arrow|feather)$", re.IGNORECASE)
TFRECORD = re.compile(r"\.tfrecord(-\d+-of-\d+)?$", re.IGNORECASE)
# What Hugging Face's datasets write beside records: their description, and results of map() and filter().
_NO_RECORDS = re.compile(r"(dataset_infos?|dataset_dict|state)\.json$|cache-[0-9a-f]{16}\w*\.arrow$")
KINDS = (
    ".jsonl, .json, .ndjson, .csv or .tsv, optionally followed by .gz, .zst, .xz or .bz2; .parquet; .arrow; .feather;"
    " .tfrecord"
)


def is_record_file(name: str) -> bool:
    """Whether a file name has the extension of a record file."""
    return any(kind.search(name) for kind in (LINES, JSON, DELIMITED, PARQUET, ARROW, TFRECORD))


def is_corpus_file(name: str) -> bool:
    """Whether a file of a folder is read as records.

    .json, .csv and .tsv are excluded: most such files beside source code are configuration and tables, not documents.
    """
    return has_records(name) and not name.lower().endswith((".json", ".csv", ".tsv"))


def has_records(name: str) -> bool:
    """Whether a record file of a folder contains records, and not only what Hugging Face's datasets say of them."""
    return is_record_file(name) and _NO_RECORDS.match(name) is None


def open_file(file: Found, limit: int, select: SelectColumns) -> Format:
    """Opens a record file in the format of its name.

    Args:
        file: the file, for whose name is_record_file is true.
        limit: size of a block in bytes.
        select: chooses the columns of Parquet, Arrow, CSV and TSV.

    Raises:
        Damaged: it is a Git LFS pointer or not a Parquet file, or required columns are missing.
        UserError: it cannot be opened.
    """
    if git_lfs.may_be_pointer(file.size):
        with open_checked(file) as stream:
            if git_lfs.is_pointer(stream.read()):
                reason = f"it is a Git LFS pointer, not the file itself: {git_lfs.REMEDY}"
                raise Damaged(reason, RecordLocation(file), "lfs_pointer")
    fields = partition_fields(file)
    form = _open_format(file, limit, selecting_files(selecting_with(fields, select)))
    return Partition(form, fields) if fields else form


def _open_format(file: Found, limit: int, select: SelectColumns) -> Format:
    if PARQUET.search(file.location):
        return Parquet(file, limit, select)
    if ARROW.search(file.location):
        return ArrowIpc(file, select)
    if TFRECORD.search(file.location):
        return TfRecords(file)
    if DELIMITED.search(file.location):
        return Delimited(file, select)
    if JSON.search(file.location) and is_json_document(file):
        return JsonDocument(file)
    return CompressedJsonLines(file) if is_compressed(file) else JsonLines(file, limit)
