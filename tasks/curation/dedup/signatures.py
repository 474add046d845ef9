"""The signatures of what is left (tasks/curation/dedup/minhash.py), by unit."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.dedup import exact, keep_rule
from tasks.curation.dedup.minhash import MinHash, band_keys, bands_and_rows, shingles_of
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "signatures"


def schema(settings: Build) -> pa.Schema:
    """Of the files: a document's number, and its signature as bytes."""
    signature = pa.binary(4 * settings.permutations)
    return pa.schema([pa.field("number", pa.uint32(), False), pa.field("signature", signature, False)])


def run(job: Ledger, folder: str) -> Counters:
    """Signs the documents that are no exact duplicates."""
    size = job.tallies["read"].counts["bytes/read"]
    work = _Sign(job.folder(read.NAME), {exact.REASON: tuple(job.passes(exact.NAME))}, folder, job.settings)
    return job.engine.run("signatures", folder, job.units, work, size=size)


class _Sign:
    """Work: a unit in, its file out."""

    def __init__(self, documents: str, removals: keep_rule.Removals, folder: str, settings: Build):
        self._documents, self._removals, self._folder, self._settings = documents, removals, folder, settings

    def __call__(self, unit: Unit) -> Iterator[Result]:
        tally = Counters()
        removed = keep_rule.removed(self._removals, unit)
        minhash = MinHash(self._settings.permutations, self._settings.seed)

        def groups() -> Iterator[pa.Table]:
            for group in tables.read(storage.join(self._documents, unit.file), ["number", "text"]):
                pairs = zip(group["number"].to_pylist(), group["text"].to_pylist(), strict=True)
                left = [(number, text) for number, text in pairs if number not in removed]
                shingles = shingles_of((text for _, text in left), self._settings.ngram)
                signatures = [minhash.signature(found).astype("<u4").tobytes() for found in shingles]
                tally.count("documents/signed", len(left))
                columns = [[number for number, _ in left], signatures]
                fields = schema(self._settings)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, fields.types, strict=True)]
                yield pa.table(arrays, fields)

        tables.write(storage.join(self._folder, unit.file), schema(self._settings), groups())
        yield tally


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Signatures of a column: uint32 [documents, permutations]."""
    array = column.combine_chunks()
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    return data.reshape(len(array), width).view("<u4")


def buckets(signatures: np.ndarray, settings: Build) -> np.ndarray:
    """The buckets of documents: uint64 [documents, bands]. That some are equal by chance does no harm: pairs are
    verified."""
    bands, rows = bands_and_rows(settings.threshold, settings.permutations)
    keys = b"".join(key for signature in signatures for key in band_keys(signature, bands, rows))
    parts = np.frombuffer(keys, np.dtype([("band", ">u2"), ("rows", ">u8")]))
    mixed = tables.hashed(parts["rows"].astype(np.uint64) + tables.hashed(parts["band"]))
    return mixed.reshape(len(signatures), bands)
