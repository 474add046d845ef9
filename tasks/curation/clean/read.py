"""Step 1: reads the source, filters its documents, redacts secrets, counts tokens and hashes the content.

Output: for each unit, a file of its documents in the order of the source, and a file of the documents that filters
removed.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from codellama_jax.config.curation import PLACEHOLDERS, Quality
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer, from_files
from tasks.curation import storage, tables
from tasks.curation.clean import licences, quality, redaction
from tasks.curation.clean.content_hash import content_hash
from tasks.curation.counters import Counters, histogram_bin
from tasks.curation.inputs import Inputs
from tasks.curation.ledger import Ledger
from tasks.curation.units import Unit
from tasks.sources import languages
from tasks.sources.base import CODE_STREAMS, Document, Source
from tasks.sources.filters import BINDINGS, LeftOut, format_counts
from tasks.sources.records.record_file import RecordLocation

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
        pa.field("key", pa.binary(16), False),  # content hash
    ]
)
_PLACE = "place"  # in the names of counts: what is read, and left out, of each path of the source
LEFT_OUT = pa.schema([pa.field(name, pa.string(), False) for name in ("path", "reason", "detail")])


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is read, and how.

    Attributes:
        inputs: the source.
        quality: settings of the quality filters.
        redact: kinds of secrets that are replaced.
        tokenizer: the names and contents of its files.
    """

    inputs: Inputs
    quality: Quality
    redact: tuple[str, ...]
    tokenizer: tuple[tuple[str, bytes], ...]


def run(ledger: Ledger, folder: str, rules: Rules) -> Counters:
    """Reads the source.

    Raises:
        UserError: the filters remove all documents of one of the source's paths.
    """
    counters = ledger.engine.run("read", folder, ledger.units, _ReadUnit(folder, rules), size=1 << 40)
    for place in rules.inputs.places:
        if not counters.counts[f"{_PLACE}/{place}"]:
            prefix = f"{_PLACE}-left-out/{place}/"
            reasons = {name.removeprefix(prefix): n for name, n in counters.counts.items() if name.startswith(prefix)}
            left_out = format_counts(reasons, BINDINGS | quality.BINDINGS) or "it is empty"
            fix = "change these settings, or remove it from the list, and use a new --out"
            raise UserError(f"no document of {place} is left: {left_out}; {fix}")
    return counters


class _ReadUnit:
    """Mapper: writes the files of a unit, and yields its counters."""

    def __init__(self, folder: str, rules: Rules):
        self._folder, self._rules = folder, rules

    def __call__(self, unit: Unit) -> Iterator[Counters]:
        counters = Counters()
        left_out: list[tuple[str, str, str]] = []
        groups = self._groups(unit, _source(self._rules.inputs), counters, left_out)
        tables.write(storage.join(self._folder, unit.file), SCHEMA, groups)
        columns = list(zip(*left_out, strict=True)) or [(), (), ()]
        table = pa.table([pa.array(column, pa.string()) for column in columns], LEFT_OUT)
        tables.write(storage.join(self._folder, f"left-out-{unit.file}"), LEFT_OUT, [table])
        yield counters

    def _groups(
        self, unit: Unit, source: Source, counters: Counters, left_out: list[tuple[str, str, str]]
    ) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        number = size = 0
        for shard in range(unit.begin, unit.end):
            place = self._rules.inputs.place(source, shard)
            for block in source.read(shard):
                for reason, location in block.left_out:
                    # str() of a location in a file of lines would count the lines before it
                    path = location.path if isinstance(location, RecordLocation) else str(location)
                    left_out.append((path, reason, ""))
                    _count_left_out(counters, place, reason)
                for rule, _ in block.changed:
                    counters.add(f"changed/{rule}")
                for document in block.items:
                    try:
                        rows.append(row := self._row(document, number, counters))
                    except LeftOut as error:
                        left_out.append((document.path, error.reason, ""))
                        _count_left_out(counters, place, error.reason)
                        continue
                    counters.add(f"{_PLACE}/{place}")
                    number += 1
                    size += row["bytes"]
                    if size >= tables.GROUP_BYTES:
                        yield pa.Table.from_pylist(rows, SCHEMA)
                        rows, size = [], 0
        yield pa.Table.from_pylist(rows, SCHEMA)

    def _row(self, document: Document, number: int, counters: Counters) -> dict[str, Any]:
        """The row of a document. Raises LeftOut."""
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
        text = self._redact(text, language, counters)
        tokens, size = len(_tokenizer(self._rules.tokenizer).encode(text)), len(text.encode())
        counters.add_document("read", language, tokens, size)
        counters.add(f"length/read/{histogram_bin(tokens)}")
        return {
            "number": number,
            "text": text,
            "path": document.path,
            "language": language,
            "repository": document.repository,
            "licence": licence,
            "bytes": size,
            "tokens": tokens,
            "key": bytes.fromhex(content_hash(text)),
        }

    def _redact(self, text: str, language: str, counters: Counters) -> str:
        counters.add("characters", len(text))
        if not self._rules.redact:
            return text
        result, kinds = redaction.redact(text, self._rules.redact, language)
        if kinds:
            inserted = sum(len(PLACEHOLDERS[kind]) * count for kind, count in kinds.items())
            counters.add("redacted_characters", len(text) - len(result) + inserted)
            counters.add("redacted_documents")
            for kind, count in kinds.items():
                counters.add(f"redacted/{kind}", count)
        return result


def _count_left_out(counters: Counters, place: str, reason: str) -> None:
    counters.add(f"left_out/{reason}")
    counters.add(f"{_PLACE}-left-out/{place}/{reason}")


@functools.lru_cache(maxsize=1)
def _source(inputs: Inputs) -> Source:
    """Opened once in each worker process, because opening lists all files."""
    return inputs.open()


@functools.lru_cache(maxsize=1)
def _tokenizer(files: tuple[tuple[str, bytes], ...]) -> Tokenizer:
    return from_files(dict(files), infilling=False)
