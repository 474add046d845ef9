"""Record files in every format for tests, and functions that read them."""

import bz2
import collections
import csv
import gzip
import io
import json
import lzma
import random
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from codellama_jax.config.data import Corpus, Filters
from tasks.sources.base import Block, items
from tasks.sources.filters import TEXT_ONLY
from tasks.sources.records.record_source import open_records

TEXT_FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "jsonl.xz", "jsonl.bz2", "json", "csv", "tsv.gz")
FILE_FORMATS = (*TEXT_FORMATS, "parquet", "arrow", "tfrecord")
FORMATS = (*FILE_FORMATS, "tfds")
LIMIT = 2000

# --- writing ----------------------------------------------------------------------------------------------------------


def packed(form: str, records: list[dict]) -> bytes:
    """A file of records."""
    if form == "parquet":
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records), buffer, row_group_size=17, compression="zstd")
        return buffer.getvalue().to_pybytes()
    if form == "tfrecord":
        return framed([example(record) for record in records])
    if form == "arrow":
        return arrow(records, rows=17)
    if form == "json":
        return json.dumps(records, ensure_ascii=False, indent=2).encode()
    if form.startswith(("csv", "tsv")):
        data = delimited(records, "," if form.startswith("csv") else "\t")
        return gzip.compress(data, mtime=0) if form.endswith(".gz") else data
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
    if form == "jsonl":
        return b"".join(lines)
    # two members or frames, as written by programs that compress in parallel
    halves = b"".join(lines[: len(lines) // 2]), b"".join(lines[len(lines) // 2 :])
    if form == "jsonl.gz":
        return b"".join(gzip.compress(half, mtime=0) for half in halves)
    if form == "jsonl.xz":
        return b"".join(map(lzma.compress, halves))
    if form == "jsonl.bz2":
        return b"".join(map(bz2.compress, halves))
    return b"".join(pa.Codec("zstd").compress(half, asbytes=True) for half in halves)


def arrow(records: list[dict], rows: int) -> bytes:
    """A file in Arrow's stream format, in batches of `rows`."""
    table, buffer = pa.Table.from_pylist(records), pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table, max_chunksize=rows)
    return buffer.getvalue().to_pybytes()


def delimited(records: list[dict], delimiter: str) -> bytes:
    """A file of CSV or TSV. Lists become texts: those of texts are joined, others are JSON."""
    buffer = io.StringIO(newline="")
    rows = csv.DictWriter(buffer, list(records[0]) if records else ["text"], delimiter=delimiter)
    rows.writeheader()
    for record in records:
        rows.writerow({name: _cell(value) for name, value in record.items()})
    return buffer.getvalue().encode()


def _cell(value) -> str:
    is_texts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    return ", ".join(value) if is_texts else value if isinstance(value, str) else json.dumps(value)


def example(record: dict) -> bytes:
    features = {}
    for name, value in record.items():
        values = value if isinstance(value, list) and name != "messages" else [value]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in texts]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def framed(examples: list[bytes]) -> bytes:
    """A file of TFRecord."""
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for serialized in examples:
                writer.write(serialized)
        return file.read()


def write(location: str | Path, data: bytes) -> None:
    location = str(location)
    tf.io.gfile.makedirs(location.rpartition("/")[0])
    with tf.io.gfile.GFile(location, "wb") as file:
        file.write(data)


def prepare(folder: Path, records: list[dict], **config) -> str:
    """Prepares a dataset with TFDS in about three shards; returns its path."""

    class Recorded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            kinds = {name: tfds.features.Text() for name in records[0]}
            kinds |= {n: tfds.features.Sequence(kinds[n]) for n, v in records[0].items() if n == "licenses"}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, _):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for number, record in enumerate(records):
                yield number, {n: json.dumps(v) if n == "messages" else v for n, v in record.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs_utils, "_is_gcs_disabled", True)
        builder = Recorded(data_dir=str(folder), **config)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return f"tfds:recorded?data_dir={folder}"


def written(form: str, folder: str | Path, records: list[dict]) -> str:
    """Writes the records to three files, or prepares them with TFDS; returns the path."""
    if form == "tfds":
        return prepare(Path(folder), records)
    third = -(-len(records) // 3)
    for number in range(3):
        write(f"{folder}/part{number}.{form}", packed(form, records[number * third : (number + 1) * third]))
    return str(folder)


def codes(number: int = 150) -> list[dict]:
    """Records with the columns of The Stack, two or three per repository."""
    random_ = random.Random(7)
    return [
        {
            "content": f"é = {i}\n" + "print('line')\n" * random_.randrange(40),
            "max_stars_repo_path": f"src/m{i}.py",
            "max_stars_repo_name": f"org{i * 2 // 5 % 3}/repo{i * 2 // 5}",
            "licenses": ["MIT", "BSD-3-Clause"],
            "lang": "Python",
        }
        for i in range(number)
    ]


def talks(number: int = 40) -> list[dict]:
    turns = [("user", "How é {}?"), ("assistant", "So."), ("user", "Why?"), ("assistant", "")]
    return [{"messages": [{"role": r, "content": c.format(i)} for r, c in turns]} for i in range(number)]


# --- reading ----------------------------------------------------------------------------------------------------------


def opened(path: str | Path, split: str = "train", name: str = "code", settings: Filters = TEXT_ONLY, **corpus):
    corpus = {"validation_share": 0.3, "shuffle_bytes": LIMIT} | corpus
    return open_records(str(path), split, name=name, corpus=Corpus(**corpus), settings=settings)


def everything(source) -> list:
    return [item for shard in range(len(source)) for item in items(source, shard)]


def blocks(source) -> list[Block]:
    return [block for shard in range(len(source)) for block in source.read(shard)]


def left_out(source) -> collections.Counter:
    return collections.Counter(reason for block in blocks(source) for reason, _ in block.left_out)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


RECORDS = [{"text": f"text {i} " + "".join(random.Random(i).choices("abcdef ", k=400))} for i in range(40)]
TEXTS = [record["text"] for record in RECORDS]
