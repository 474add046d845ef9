"""Step 8: removes documents that contain evaluation problems (tasks/curation/decontaminate/index.py).

Output: for each unit, the table of its removed documents, with the names of the problems (tasks/curation/removals.py).
"""

import functools
import pickle
from collections.abc import Iterator, Sequence

import pyarrow as pa

from tasks.curation import removals, storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.decontaminate.index import Hit, Index
from tasks.curation.decontaminate.problems import Problem
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger
from tasks.curation.units import Unit

NAME = "contaminated"
REASON = "contaminated"
COLUMNS = ("number", "path", "tokens", "bytes", "language", "text")


def run(ledger: Ledger, folder: str, removed: removals.Removals, problems: Sequence[Problem]) -> Counters:
    """Searches all documents that earlier steps have not removed."""
    index = storage.join(folder, "index.pickle")
    with storage.open_output(index) as file:
        file.write(pickle.dumps(Index(problems, ledger.decontamination)))
    size = ledger.counters[read.NAME].counts["bytes/read"]
    mapper = _Search(ledger.folder(read.NAME), removed, storage.join(folder, "pass-000"), index)
    counters = ledger.engine.run("contaminated", folder, ledger.units, mapper, size=size)
    counters.add("problems", len(problems))
    return counters


class _Search:
    """Mapper: writes the file of a unit."""

    def __init__(self, documents: str, removed: removals.Removals, folder: str, index: str):
        self._documents, self._removed, self._folder, self._index = documents, removed, folder, index

    def __call__(self, unit: Unit) -> Iterator[Result]:
        counters = Counters()
        index = _load(self._index)
        removed = removals.removed_documents(self._removed, unit)
        rows: list[tuple[int, int, str]] = []
        for group in tables.read(storage.join(self._documents, unit.file), COLUMNS):
            contaminated = []
            for row, (number, text) in enumerate(zip(*(group[c].to_pylist() for c in ("number", "text")), strict=True)):
                if number not in removed and (hits := index.hits(text)):
                    contaminated.append(row)
                    rows.append((number, 0, ", ".join(dict.fromkeys(hit.problem for hit in hits))))
                    _count_hits(counters, group["path"][row].as_py(), hits)
            removals.count_removed(counters, group.take(pa.array(contaminated, pa.int64())), REASON)
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        arrays = [pa.array(column, kind) for column, kind in zip(columns, removals.SCHEMA.types, strict=True)]
        table = pa.table(arrays, removals.SCHEMA)
        tables.write(storage.join(self._folder, unit.file), removals.SCHEMA, [table])
        yield counters


def _count_hits(counters: Counters, path: str, hits: Sequence[Hit]) -> None:
    """Counts the problems that a document contains by benchmark, and adds the best hit to the sample."""
    for problem in dict.fromkeys(hit.problem for hit in hits):
        counters.add(f"problems/hit/{problem.partition(':')[0]}")
    best = max(hits, key=lambda hit: hit.overlap)
    entry = {"path": path, "problem": best.problem, "part": best.part, "overlap": round(best.overlap, 3)}
    entry |= {"excerpt": best.excerpt, "renamed": best.renamed}
    counters.add_sample("contaminated", removals.sample_key(path), entry)


@functools.lru_cache(maxsize=1)
def _load(path: str) -> Index:
    with storage.open_input(path) as file:
        return pickle.load(file)
