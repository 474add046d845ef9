"""The source's documents, filtered, with secrets replaced, tokens counted, and the key of their content.

Out: a file of documents for each unit, in the order of the source. A document's id is its unit's number and its own
number in the unit; it means something within one build only.
"""

import functools
from collections.abc import Iterator

import pyarrow as pa

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.build import minhash, storage, tables
from tasks.build.job import Inputs, Job, Unit
from tasks.build.choice import UNKNOWN
from tasks.build.tally import Tally, bucket
from tasks.sources import Document, Source

NAME = "read"
SCHEMA = pa.schema(
    [
        pa.field("number", pa.uint32(), False),
        pa.field("text", pa.large_string(), False),
        pa.field("path", pa.string(), False),
        pa.field("language", pa.string(), False),
        pa.field("repository", pa.string(), False),
        pa.field("licence", pa.string(), False),
        pa.field("bytes", pa.uint32(), False),
        pa.field("tokens", pa.uint32(), False),
        pa.field("key", pa.binary(16), False),
    ]
)
LEFT_OUT = pa.schema([pa.field(name, pa.string(), False) for name in ("path", "reason", "detail")])


def run(job: Job, folder: str, tokenizer: bytes) -> Tally:
    """Reads the source."""
    return job.engine.run("read", folder, job.units, Read(folder, job.inputs, tokenizer), size=1 << 40)


class Read:
    """Work: a unit in, its files and its counts out."""

    def __init__(self, folder: str, inputs: Inputs, tokenizer: bytes):
        self._folder, self._inputs, self._tokenizer = folder, inputs, tokenizer

    def __call__(self, unit: Unit) -> Iterator[Tally]:
        tally = Tally()
        left_out: list[tuple[str, str, str]] = []
        groups = self._groups(unit, _source(self._inputs), tally, left_out)
        tables.write(storage.join(self._folder, unit.file), SCHEMA, groups)
        columns = list(zip(*left_out, strict=True)) or [(), (), ()]
        table = pa.table([pa.array(column, pa.string()) for column in columns], LEFT_OUT)
        tables.write(storage.join(self._folder, f"left-out-{unit.file}"), LEFT_OUT, [table])
        yield tally

    def _groups(
        self, unit: Unit, source: Source, tally: Tally, left_out: list[tuple[str, str, str]]
    ) -> Iterator[pa.Table]:
        rows: list[dict] = []
        number = size = 0
        for piece in range(unit.begin, unit.end):
            for block in source.read(piece):
                for reason, place in block.left_out:
                    left_out.append((str(place), reason, ""))
                    tally.count(f"left_out/{reason}")
                for document in block.items:
                    row = self._row(document, number, tally)
                    rows.append(row)
                    number += 1
                    size += row["bytes"]
                    if size >= tables.GROUP_BYTES:
                        yield pa.Table.from_pylist(rows, SCHEMA)
                        rows, size = [], 0
        yield pa.Table.from_pylist(rows, SCHEMA)

    def _row(self, document: Document, number: int, tally: Tally) -> dict:
        text = document.text
        tokens, size = len(_encoder(self._tokenizer).encode(text)), len(text.encode())
        language = document.language or UNKNOWN
        for name, count in (("documents", 1), ("tokens", tokens), ("bytes", size)):
            tally.count(f"{name}/read", count)
            tally.count(f"{name}/read/{language}", count)
        tally.count(f"length/read/{bucket(tokens)}")
        return {
            "number": number,
            "text": text,
            "path": document.path,
            "language": document.language,
            "repository": document.repository,
            "licence": document.licence,
            "bytes": size,
            "tokens": tokens,
            "key": bytes.fromhex(minhash.exact_key(text)),
        }


@functools.lru_cache(maxsize=1)
def _source(inputs: Inputs) -> Source:
    """Opened once in each worker process: it lists all files."""
    try:
        return inputs.open()
    except UserError as error:
        raise UserError(f"{error}. What is read so far is kept: mend it, then run the same command") from None


@functools.lru_cache(maxsize=1)
def _encoder(model: bytes) -> Tokenizer:
    return Tokenizer(model, infilling=False)
