"""Counters that workers fill and Beam merges: numbers by name, and small samples.

Merging is commutative and associative, and a sample is the entries with the smallest keys, so the result does not
depend on the number of workers.
"""

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any

MEASURES = ("documents", "tokens", "bytes")
UNKNOWN_LANGUAGE = "unknown"  # in the names of counts


@dataclasses.dataclass
class Counters:
    """Counts, samples and rows.

    Attributes:
        counts: by name, such as "documents/read" and "tokens/read/Python".
        samples: name -> a few (key, JSON value), those with the smallest keys first.
        rows: name -> all (key, JSON value), for entries that are few, such as shards.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    samples: dict[str, list[tuple[Any, Any]]] = dataclasses.field(default_factory=dict)
    rows: dict[str, list[tuple[Any, Any]]] = dataclasses.field(default_factory=dict)

    SAMPLE_SIZE = 50

    def add(self, name: str, number: int = 1) -> None:
        """Increments a count."""
        self.counts[name] += int(number)

    def add_document(self, name: str, language: str, tokens: int, size: int) -> None:
        """Increments the documents, tokens and bytes under a name, in total and for the language."""
        for measure, number in zip(MEASURES, (1, tokens, size), strict=True):
            self.add(f"{measure}/{name}", number)
            self.add(f"{measure}/{name}/{language or UNKNOWN_LANGUAGE}", number)

    def add_sample(self, name: str, key: Any, value: Any) -> None:
        """Adds an entry to a sample, which keeps those with the smallest keys."""
        sample = self.samples.setdefault(name, [])
        sample.append((key, value))
        if len(sample) > 4 * self.SAMPLE_SIZE:
            self.samples[name] = heapq.nsmallest(self.SAMPLE_SIZE, sample, key=_key)

    def add_row(self, name: str, key: Any, value: Any) -> None:
        """Adds an entry that is always kept."""
        self.rows.setdefault(name, []).append((key, value))

    def to_json(self) -> dict[str, Any]:
        """Sorted, so that equal counters give equal text."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "samples": {n: heapq.nsmallest(self.SAMPLE_SIZE, s, key=_key) for n, s in sorted(self.samples.items())},
            "rows": {name: sorted(rows, key=_key) for name, rows in sorted(self.rows.items())},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Counters":
        """The inverse of to_json."""
        counters = cls(Counter(value["counts"]))
        counters.samples = {name: [(key, entry) for key, entry in sample] for name, sample in value["samples"].items()}
        counters.rows = {name: [(key, entry) for key, entry in rows] for name, rows in value["rows"].items()}
        return counters


def merge(parts: Iterable[Counters]) -> Counters:
    """The sum of several counters."""
    total = Counters()
    for part in parts:
        total.counts.update(part.counts)
        for name, sample in part.samples.items():
            merged = total.samples.get(name, []) + sample
            total.samples[name] = heapq.nsmallest(Counters.SAMPLE_SIZE, merged, key=_key)
        for name, rows in part.rows.items():
            total.rows.setdefault(name, []).extend(rows)
    return total


def _key(entry: tuple[Any, Any]) -> Any:
    return entry[0]


def histogram_bin(value: int) -> int:
    """The lower bound of the histogram bin of a value: 0, 1, 2, 4, 8, ..."""
    return 1 << (value.bit_length() - 1) if value > 0 else 0
