"""Connected components by large-star and small-star operations, against union-find."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")

from tasks.curation import storage, tables
from tasks.curation.counters import Counters
from tasks.curation.dedup import components, similar_pairs
from tasks.curation.engine import Engine


def union_find(pairs: np.ndarray) -> dict[int, int]:
    """Node -> smallest node of its component."""
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


def graphs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    path = rng.permutation(250)
    return {
        "a path in random order": np.stack([path[:-1], path[1:]], axis=1),
        "sparse": rng.integers(0, 600, (480, 2)),
        "a star around the largest": np.stack([np.full(300, 10_000), np.arange(300)], axis=1),
        "dense": rng.integers(0, 40, (500, 2)),
        "no edge": np.zeros((0, 2), np.int64),
    }


@pytest.mark.parametrize("name", graphs())
def test_components_equal_those_of_union_find(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = graphs()[name]
    pairs = pairs[pairs[:, 0] != pairs[:, 1]] + (np.int64(1) << 33)  # ids of later units
    out = f"{tmp_path}/out"
    edges = {tuple(sorted(pair)) for pair in pairs.tolist()}
    similar_pairs.write(storage.join(out, similar_pairs.NAME, "part-0.parquet"), edges)
    monkeypatch.setattr(components, "PARTITION_BYTES", 4_000)  # several partitions
    counters = Counters()
    counters.add("edges", len(pairs))
    ledger: Any = SimpleNamespace(engine=Engine(1, [], 40_000), counters={similar_pairs.NAME: counters})
    ledger.folder = lambda step: storage.join(out, step)
    ledger.counters[components.NAME] = components.run(ledger, ledger.folder(components.NAME))
    table = tables.read_all(components.edge_files(components.last_round(ledger)), similar_pairs.EDGES)
    actual = dict(zip(table["larger"].to_pylist(), table["smaller"].to_pylist(), strict=True))
    assert actual == {node: root for node, root in union_find(pairs).items() if node != root}
    assert ledger.counters[components.NAME].counts[components.ROUNDS] <= 12
