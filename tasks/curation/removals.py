"""Which documents a step removes: one table for each unit, which the later steps read."""

from collections.abc import Mapping
from hashlib import blake2b

import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.counters import Counters
from tasks.curation.units import Unit

# The number of a removed document in its unit, and the id and path of the document that is kept instead. For a
# contaminated document, these are 0 and the names of the problems.
SCHEMA = pa.schema(
    [
        pa.field("number", pa.uint32(), False),
        pa.field("kept", pa.uint64(), False),
        pa.field("kept_path", pa.string(), False),
    ]
)

Removals = Mapping[str, tuple[str, ...]]  # reason -> folders with the tables of one or more passes


def removed_documents(removals: Removals, unit: Unit) -> dict[int, tuple[str, str]]:
    """The removed documents of a unit: number -> (reason, path of the kept document or names of problems)."""
    removed: dict[int, tuple[str, str]] = {}
    for reason, folders in removals.items():
        table = tables.read_all([storage.join(folder, unit.file) for folder in folders], SCHEMA)
        for number, detail in zip(table["number"].to_pylist(), table["kept_path"].to_pylist(), strict=True):
            removed.setdefault(number, (reason, detail))
    return removed


def count_removed(counters: Counters, documents: pa.Table, reason: str) -> None:
    """Counts documents that a step removes, under the reason."""
    columns = (documents[name].to_pylist() for name in ("language", "tokens", "bytes"))
    for language, tokens, size in zip(*columns, strict=True):
        counters.add_document(reason, language, tokens, size)


def sample_key(text: str) -> str:
    """A hash by which samples are drawn."""
    return blake2b(text.encode(), digest_size=8).hexdigest()
