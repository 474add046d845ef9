"""The source's documents, filtered, with secrets replaced, tokens counted, and the key of their content.

Out: a file of documents for each unit, in the order of the source. A document's id is its unit's number and its own
number in the unit; it means something within one build only.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from codellama_jax.config.curation import PLACEHOLDERS, Quality
from codellama_jax.tokenizer import Tokenizer
from tasks.curation import storage, tables
from tasks.curation.clean import licences, quality, redaction
from tasks.curation.counters import Counters, bucket
from tasks.curation.dedup import keep_rule, minhash
from tasks.curation.ledger import Inputs, Ledger, Unit
from tasks.sources import languages
from tasks.sources.base import CODE_STREAMS, Document, Source
from tasks.sources.filters import LeftOut
from tasks.sources.record_file import RecordLocation

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


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is read, and how.

    Attributes:
        redact: kinds of what is replaced.
        tokenizer: a SentencePiece model.
    """

    inputs: Inputs
    quality: Quality
    redact: tuple[str, ...]
    tokenizer: bytes


def run(job: Ledger, folder: str, rules: Rules) -> Counters:
    """Reads the source."""
    return job.engine.run("read", folder, job.units, _Read(folder, rules), size=1 << 40)


class _Read:
    """Work: a unit in, its files and its counts out."""

    def __init__(self, folder: str, rules: Rules):
        self._folder, self._rules = folder, rules

    def __call__(self, unit: Unit) -> Iterator[Counters]:
        tally = Counters()
        left_out: list[tuple[str, str, str]] = []
        groups = self._groups(unit, _source(self._rules.inputs), tally, left_out)
        tables.write(storage.join(self._folder, unit.file), SCHEMA, groups)
        columns = list(zip(*left_out, strict=True)) or [(), (), ()]
        table = pa.table([pa.array(column, pa.string()) for column in columns], LEFT_OUT)
        tables.write(storage.join(self._folder, f"left-out-{unit.file}"), LEFT_OUT, [table])
        yield tally

    def _groups(
        self, unit: Unit, source: Source, tally: Counters, left_out: list[tuple[str, str, str]]
    ) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        number = size = 0
        for piece in range(unit.begin, unit.end):
            for block in source.read(piece):
                for reason, place in block.left_out:
                    # str() of a place in a file of lines would count the lines before it
                    left_out.append((place.path if isinstance(place, RecordLocation) else str(place), reason, ""))
                    tally.count(f"left_out/{reason}")
                for document in block.items:
                    try:
                        rows.append(row := self._row(document, number, tally))
                    except LeftOut as refusal:
                        left_out.append((document.path, refusal.reason, ""))
                        tally.count(f"left_out/{refusal.reason}")
                        continue
                    number += 1
                    size += row["bytes"]
                    if size >= tables.GROUP_BYTES:
                        yield pa.Table.from_pylist(rows, SCHEMA)
                        rows, size = [], 0
        yield pa.Table.from_pylist(rows, SCHEMA)

    def _row(self, document: Document, number: int, tally: Counters) -> dict[str, Any]:
        """Raises LeftOut."""
        text, language = document.text, document.language
        licence = licences.licence_of(document, self._rules.inputs.folders)
        quality.check_document(text, licence, self._rules.quality)
        if self._rules.inputs.stream in CODE_STREAMS:
            quality.check_code(text, language, self._rules.quality)
            if self._rules.quality.content_language:
                language = quality.language_of(text, language)
                wanted = self._rules.inputs.filters.languages
                if wanted is not None and language not in map(languages.canonical_name, wanted):
                    raise LeftOut("language")
        text = self._redacted(text, tally)
        tokens, size = len(_encoder(self._rules.tokenizer).encode(text)), len(text.encode())
        for name, count in (("documents", 1), ("tokens", tokens), ("bytes", size)):
            tally.count(f"{name}/read", count)
            tally.count(f"{name}/read/{language or keep_rule.UNKNOWN}", count)
        tally.count(f"length/read/{bucket(tokens)}")
        return {
            "number": number,
            "text": text,
            "path": document.path,
            "language": language,
            "repository": document.repository,
            "licence": licence,
            "bytes": size,
            "tokens": tokens,
            "key": bytes.fromhex(minhash.exact_key(text)),
        }

    def _redacted(self, text: str, tally: Counters) -> str:
        tally.count("characters", len(text))
        if not self._rules.redact:
            return text
        result, kinds = redaction.redacted(text, self._rules.redact)
        if kinds:
            placed = sum(len(PLACEHOLDERS[kind]) * count for kind, count in kinds.items())
            tally.count("redacted_characters", len(text) - len(result) + placed)
            tally.count("redacted_documents")
            for kind, count in kinds.items():
                tally.count(f"redacted/{kind}", count)
        return result


@functools.lru_cache(maxsize=1)
def _source(inputs: Inputs) -> Source:
    """Opened once in each worker process: it lists all files."""
    return inputs.open()


@functools.lru_cache(maxsize=1)
def _encoder(model: bytes) -> Tokenizer:
    return Tokenizer(model, infilling=False)
