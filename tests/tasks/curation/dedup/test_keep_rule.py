"""The rule that decides which of several duplicates is kept."""

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")

from tasks.curation.dedup import keep_rule


def test_prefers_a_licence_then_a_short_path_then_path_order_then_the_first() -> None:
    documents = pa.table(
        {
            "number": pa.array(range(6), pa.uint32()),
            "path": ["z.py", "b/a.py", "a/a.py", "a/b/c.py", "a/a.py", "other.py"],
            "licence": ["", "MIT", "MIT", "MIT", "MIT", ""],
            "tokens": pa.array([1] * 6, pa.uint32()),
            "bytes": pa.array([1] * 6, pa.uint32()),
            "language": [""] * 6,
        }
    )
    groups = pa.array([1, 1, 1, 1, 1, 2], pa.uint64())
    for seed in range(5):
        order = pa.array(np.random.default_rng(seed).permutation(6))
        table, kept_index = keep_rule.select_kept(keep_rule.candidates(documents, 3, groups).take(order))
        kept = table["id"].to_numpy()[kept_index].tolist()
        assert set(zip(table["group"].to_pylist(), kept, strict=True)) == {(1, 3 << 32 | 2), (2, 3 << 32 | 5)}
