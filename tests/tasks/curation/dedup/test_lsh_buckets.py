"""LSH buckets: documents that share one are found, and large buckets are split."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")

from tasks.curation.counters import Counters
from tasks.curation.dedup import lsh_buckets


def test_a_large_bucket_is_split_into_parts_that_contain_its_first_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsh_buckets, "MAX_BUCKET", 10)
    keys = np.concatenate([np.full(95, 5), np.full(10, 6), [7], np.full(11, 8)]).astype(np.uint64)
    table = pa.table([pa.array(keys), pa.array(np.arange(len(keys), dtype=np.uint64))], lsh_buckets.KEYS)
    order = np.random.default_rng(0).permutation(len(keys))
    results = list(lsh_buckets.shared_buckets(0, table.take(pa.array(order))))
    blocks = [pa.ipc.open_stream(result[1]).read_all() for result in results if not isinstance(result, Counters)]
    columns = (np.concatenate([block[name] for block in blocks]).tolist() for name in ("key", "number"))
    parts: dict[int, list[int]] = {}
    for part, number in zip(*columns, strict=True):
        parts.setdefault(part, []).append(number)
    assert all(2 <= len(members) <= 11 for members in parts.values())
    assert set(itertools.chain(*parts.values())) == set(range(len(keys))) - {105}
    for first, last in ((0, 95), (95, 105), (106, 117)):
        assert all(first in members for members in parts.values() if set(members) & set(range(first, last)))
