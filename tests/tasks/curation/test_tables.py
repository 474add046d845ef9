"""Tables: partitions, blocks, and files that are written completely or not at all."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation import storage, tables
from tasks.curation.splitmix64 import mix


def test_blocks_contain_the_rows_of_their_partition() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 2**63, 500).astype(np.uint64)
    table = pa.table({"number": numbers, "text": [str(number) for number in numbers]})
    partitions = tables.hash_partition(mix(numbers), 7)
    blocks = dict(tables.partition_blocks(table, partitions))
    assert set(blocks) == set(range(7))  # the hash uses all partitions
    rows = {number: tables.concat_blocks([data])["number"].to_pylist() for number, data in blocks.items()}
    assert rows == {p: numbers[partitions == p].tolist() for p in range(7)}
    assert dict(tables.partition_blocks(table, partitions, range(2, 4))) == {p: blocks[p] for p in (2, 3)}
    assert not list(tables.partition_blocks(table.slice(0, 0), partitions[:0]))


def test_hash_partitions_are_equal_ranges_in_order() -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64))
    partitions = tables.hash_partition(hashes, 9)
    assert (np.diff(partitions) >= 0).all()
    assert np.bincount(partitions, minlength=9).min() > 900 and partitions.max() == 8


def test_mix_is_a_bijection() -> None:
    assert len(np.unique(mix(np.arange(10_000, dtype=np.uint64)))) == 10_000


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/a/b"
    with pytest.raises(ValueError, match="half way"), storage.open_output(path) as file:
        file.write(b"half")
        raise ValueError("half way")
    assert not storage.exists(path) and storage.list_folder(f"{tmp_path}/a") == []
