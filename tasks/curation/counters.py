"""Counts that workers make and Beam adds up: a mapping of names to numbers, and small samples.

Adding is commutative and associative, and a sample is the entries with the smallest keys, so that a tally is the same
whatever the number of workers.
"""

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass
class Counters:
    """Attributes:
    counts: "documents/read", "tokens/read/Python" and so on.
    samples: name -> (key, value as JSON has it) of a few, the smallest keys first.
    rows: name -> (key, value) of all: for what there are few of, such as shards.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    samples: dict[str, list[tuple[Any, Any]]] = dataclasses.field(default_factory=dict)
    rows: dict[str, list[tuple[Any, Any]]] = dataclasses.field(default_factory=dict)

    LARGEST = 50  # of a sample

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a count."""
        self.counts[name] += int(number)

    def sample(self, name: str, key: Any, value: Any) -> None:
        """Offers an entry to a sample."""
        kept = self.samples.setdefault(name, [])
        kept.append((key, value))
        if len(kept) > 4 * self.LARGEST:
            self.samples[name] = heapq.nsmallest(self.LARGEST, kept, key=_key)

    def row(self, name: str, key: Any, value: Any) -> None:
        """Adds an entry."""
        self.rows.setdefault(name, []).append((key, value))

    def as_json(self) -> dict[str, Any]:
        """Sorted, so that the same tally is the same text."""
        return {
            "counts": dict(sorted(self.counts.items())),
            "samples": {n: heapq.nsmallest(self.LARGEST, kept, key=_key) for n, kept in sorted(self.samples.items())},
            "rows": {name: sorted(kept, key=_key) for name, kept in sorted(self.rows.items())},
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> "Counters":
        """What as_json gave."""
        tally = cls(Counter(value["counts"]))
        tally.samples = {name: [(key, entry) for key, entry in kept] for name, kept in value["samples"].items()}
        tally.rows = {name: [(key, entry) for key, entry in kept] for name, kept in value["rows"].items()}
        return tally


def added(tallies: Iterable[Counters]) -> Counters:
    """The sum."""
    total = Counters()
    for tally in tallies:
        total.counts.update(tally.counts)
        for name, kept in tally.samples.items():
            merged = total.samples.get(name, []) + kept
            total.samples[name] = heapq.nsmallest(Counters.LARGEST, merged, key=_key)
        for name, kept in tally.rows.items():
            total.rows.setdefault(name, []).extend(kept)
    return total


def _key(entry: tuple[Any, Any]) -> Any:
    return entry[0]


def bucket(value: int) -> int:
    """The power of two from which on a histogram counts it: 0, 1, 2, 4, 8, ..."""
    return 1 << (value.bit_length() - 1) if value > 0 else 0
