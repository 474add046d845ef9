"""Step 3: computes the MinHash signatures of the documents that are not exact duplicates.

Output: for each unit, a file of signatures.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from codellama_jax.config.curation import Build
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.dedup import remove_exact
from tasks.curation.dedup.minhash import MinHash, band_keys, bands_and_rows, shingles_of
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.removals import Removals, removed_documents
from tasks.curation.splitmix64 import mix
from tasks.curation.units import Unit

NAME = "signatures"


def schema(settings: Build) -> pa.Schema:
    """The schema of the files: a document's number, and its signature as bytes."""
    signature = pa.binary(4 * settings.permutations)
    return pa.schema([pa.field("number", pa.uint32(), False), pa.field("signature", signature, False)])


def run(ledger: Ledger, folder: str) -> Counters:
    """Computes the signatures."""
    size = ledger.counters[read.NAME].counts["bytes/read"]
    removals = {remove_exact.REASON: tuple(ledger.pass_folders(remove_exact.NAME))}
    mapper = _ComputeSignatures(ledger.folder(read.NAME), removals, folder, ledger.settings)
    return ledger.engine.run("signatures", folder, ledger.units, mapper, size=size)


class _ComputeSignatures:
    """Mapper: writes the file of a unit."""

    def __init__(self, documents: str, removals: Removals, folder: str, settings: Build):
        self._documents, self._removals, self._folder, self._settings = documents, removals, folder, settings

    def __call__(self, unit: Unit) -> Iterator[Result]:
        counters = Counters()
        tables.write(storage.join(self._folder, unit.file), schema(self._settings), self._groups(unit, counters))
        yield counters

    def _groups(self, unit: Unit, counters: Counters) -> Iterator[pa.Table]:
        removed = removed_documents(self._removals, unit)
        minhash = MinHash(self._settings.permutations, self._settings.seed)
        fields = schema(self._settings)
        for group in tables.read(storage.join(self._documents, unit.file), ["number", "text"]):
            pairs = zip(group["number"].to_pylist(), group["text"].to_pylist(), strict=True)
            remaining = [(number, text) for number, text in pairs if number not in removed]
            sets = shingles_of((text for _, text in remaining), self._settings.ngram)
            signatures = [minhash.signature(shingles).astype("<u4").tobytes() for shingles in sets]
            counters.add("documents/signed", len(remaining))
            columns = [[number for number, _ in remaining], signatures]
            yield pa.table([pa.array(c, kind) for c, kind in zip(columns, fields.types, strict=True)], fields)


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """The signatures of a column: uint32 [documents, permutations]."""
    array = column.combine_chunks()
    width = array.type.byte_width
    data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    return data.reshape(len(array), width).view("<u4")


def buckets(signatures: np.ndarray, settings: Build) -> np.ndarray:
    """The LSH buckets of documents: uint64 [documents, bands]. Collisions are harmless, because pairs are verified."""
    bands, rows = bands_and_rows(settings.threshold, settings.permutations)
    keys = b"".join(key for signature in signatures for key in band_keys(signature, bands, rows))
    parts = np.frombuffer(keys, np.dtype([("band", ">u2"), ("rows", ">u8")]))
    mixed = mix(parts["rows"].astype(np.uint64) + mix(parts["band"].astype(np.uint64)))
    return mixed.reshape(len(signatures), bands)
