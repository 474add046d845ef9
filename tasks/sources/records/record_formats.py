"""The formats of record files by file name: JSON lines (plain, gzip, Zstandard), Parquet and TFRecord.

Opening a file reads at most Parquet's footer. pyarrow and TensorFlow are imported by the formats that need them.
"""

import re

from tasks.sources.files import Found
from tasks.sources.records.json_lines import CompressedJsonLines, JsonLines
from tasks.sources.records.parquet import Parquet
from tasks.sources.records.record_file import Format, SelectColumns
from tasks.sources.records.tf_examples import TfRecords

PLAIN = re.compile(r"\.(jsonl|ndjson|json)$", re.IGNORECASE)
COMPRESSED = re.compile(r"\.(jsonl|ndjson|json)\.(gz|zst|zstd)$", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
TFRECORD = re.compile(r"\.tfrecord(-\d+-of-\d+)?$", re.IGNORECASE)
KINDS = ".jsonl, .json or .ndjson, optionally followed by .gz or .zst; .parquet; .tfrecord"


def is_record_file(name: str) -> bool:
    """Whether a file name has the extension of a record file."""
    return any(kind.search(name) for kind in (PLAIN, COMPRESSED, PARQUET, TFRECORD))


def is_corpus_file(name: str) -> bool:
    """Whether a file of a folder is read as records. .json is excluded: most such files are configuration, not data."""
    return is_record_file(name) and not name.lower().endswith(".json")


def open_file(file: Found, limit: int, select: SelectColumns) -> Format:
    """Opens a record file in the format of its name.

    Args:
        file: the file, for whose name is_record_file is true.
        limit: size of a block in bytes.
        select: chooses the columns of Parquet.

    Raises:
        Damaged: it is not a Parquet file, or required columns are missing.
        UserError: it cannot be opened.
    """
    if PARQUET.search(file.location):
        return Parquet(file, limit, select)
    if TFRECORD.search(file.location):
        return TfRecords(file)
    return CompressedJsonLines(file) if COMPRESSED.search(file.location) else JsonLines(file, limit)
