"""Documents that have evaluation problems in them (tasks/curation/decontaminate/index.py) are left out.

Out: for each unit those documents, with the names of the problems.
"""

import functools
import pickle
from collections.abc import Iterator, Sequence

import pyarrow as pa

from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.counters import Counters
from tasks.curation.decontaminate.index import Hit, Index
from tasks.curation.decontaminate.problems import Problem
from tasks.curation.dedup import keep_rule
from tasks.curation.engine import Result
from tasks.curation.ledger import Ledger, Unit

NAME = "contaminated"
REASON = "contaminated"


def run(job: Ledger, folder: str, removals: keep_rule.Removals, problems: Sequence[Problem]) -> Counters:
    """Looks for the problems in all documents that are left."""
    index = storage.join(folder, "index.pickle")
    with storage.open_output(index) as file:
        file.write(pickle.dumps(Index(problems, job.decontamination)))
    size = job.tallies["read"].counts["bytes/read"]
    work = _Look(job.folder(read.NAME), removals, storage.join(folder, "pass-000"), index)
    tally = job.engine.run("contaminated", folder, job.units, work, size=size)
    tally.count("problems", len(problems))
    return tally


class _Look:
    """Work: a unit in, its file out."""

    def __init__(self, documents: str, removals: keep_rule.Removals, folder: str, index: str):
        self._documents, self._removals, self._folder, self._index = documents, removals, folder, index

    def __call__(self, unit: Unit) -> Iterator[Result]:
        tally = Counters()
        index = _index(self._index)
        removed = keep_rule.removed(self._removals, unit)
        rows: list[tuple[int, int, str]] = []
        for group in tables.read(storage.join(self._documents, unit.file), [*keep_rule.COLUMNS, "text"]):
            found = []
            for row, (number, text) in enumerate(zip(*(group[c].to_pylist() for c in ("number", "text")), strict=True)):
                if number not in removed and (hits := index.hits(text)):
                    found.append(row)
                    rows.append((number, 0, ", ".join(dict.fromkeys(hit.problem for hit in hits))))
                    _tell(tally, group["path"][row].as_py(), hits)
            keep_rule.count_left_out(tally, group.take(pa.array(found, pa.int64())), REASON)
        columns = zip(*rows, strict=True) if rows else ((), (), ())
        arrays = [pa.array(column, kind) for column, kind in zip(columns, keep_rule.VERDICTS.types, strict=True)]
        table = pa.table(arrays, keep_rule.VERDICTS)
        tables.write(storage.join(self._folder, unit.file), keep_rule.VERDICTS, [table])
        yield tally


def _tell(tally: Counters, path: str, hits: Sequence[Hit]) -> None:
    for problem in dict.fromkeys(hit.problem for hit in hits):
        tally.count(f"problems/hit/{problem.partition(':')[0]}")
    best = max(hits, key=lambda hit: hit.overlap)
    told = {"path": path, "problem": best.problem, "part": best.part, "overlap": round(best.overlap, 3)}
    tally.sample("contaminated", keep_rule.spread(path), told | {"excerpt": best.excerpt, "renamed": best.renamed})


@functools.lru_cache(maxsize=1)
def _index(path: str) -> Index:
    with storage.open_input(path) as file:
        return pickle.load(file)
