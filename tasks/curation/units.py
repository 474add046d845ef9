"""Units of the input, and the ids of documents.

A unit is a range of the source's shards that one worker reads at a time. Every step writes one file for each unit. The
id of a document is the number of its unit in the high 32 bits and its number within the unit in the low 32 bits; it is
valid within one build only.
"""

import dataclasses

import numpy as np
import pyarrow as pa

from tasks.curation import tables

MIN_UNITS = 64  # if the source has that many shards
MAX_SHARDS = 256  # of a unit


@dataclasses.dataclass(frozen=True)
class Unit:
    """Consecutive shards of the source, from `begin` to `end` (exclusive)."""

    number: int
    begin: int
    end: int

    @property
    def file(self) -> str:
        """The name of its file in a step's folder."""
        return unit_file(self.number)


def unit_file(number: int) -> str:
    """The name of a unit's file in a step's folder."""
    return f"unit-{number:06d}.parquet"


def split_into_units(shards: int) -> list[Unit]:
    """The units of a source with this many shards."""
    count = min(shards, max(MIN_UNITS, -(-shards // MAX_SHARDS)))
    return [Unit(n, shards * n // count, shards * (n + 1) // count) for n in range(count)]


def document_ids(numbers: pa.ChunkedArray, unit: int) -> np.ndarray:
    """The ids of documents of a unit, from a column of their numbers: uint64 [documents]."""
    return tables.to_numpy(numbers).astype(np.uint64) | np.uint64(unit << 32)


def unit_of(ids: np.ndarray) -> np.ndarray:
    """The number of each document's unit: int64 [documents]."""
    return (ids >> np.uint64(32)).astype(np.int64)


def number_in_unit(ids: np.ndarray) -> np.ndarray:
    """The number of each document within its unit: uint32 [documents]."""
    return (ids & np.uint64(0xFFFFFFFF)).astype(np.uint32)
