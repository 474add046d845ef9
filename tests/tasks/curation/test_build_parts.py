"""The parts of a build: connected components, buckets, tables, tallies, records, the order of a repository's files."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("apache_beam", reason="the extra `build` is not installed")

from tasks.curation import storage, tables
from tasks.curation.clean import licences
from tasks.curation.counters import Counters, added, bucket
from tasks.curation.dedup import components, keep_rule, lsh_buckets, similar_pairs
from tasks.curation.engine import Engine
from tasks.curation.write.repositories import ordered
from tasks.curation.write.tfrecord import example
from tasks.sources.base import Document
from tasks.sources.tf_examples import tensorflow


def united(pairs: np.ndarray) -> dict[int, int]:
    """Node -> smallest of its component, by union-find."""
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
def test_components_are_those_of_union_find(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = graphs()[name]
    pairs = pairs[pairs[:, 0] != pairs[:, 1]] + (np.int64(1) << 33)  # ids of later units
    out = f"{tmp_path}/out"
    similar_pairs.write(
        storage.join(out, similar_pairs.NAME, "part-0.parquet"), {tuple(sorted(pair)) for pair in pairs.tolist()}
    )
    monkeypatch.setattr(components, "PARTITION", 4_000)  # several partitions
    tally = Counters()
    tally.count("edges", len(pairs))
    job: Any = SimpleNamespace(engine=Engine(1, [], 40_000), tallies={"edges": tally})
    job.folder = lambda step: storage.join(out, step)
    job.tallies["components"] = components.run(job, job.folder(components.NAME))
    table = tables.whole(components.parts(components.last_round(job)), similar_pairs.EDGES)
    found = dict(zip(table["larger"].to_pylist(), table["smaller"].to_pylist(), strict=True))
    wanted = united(pairs)
    assert found == {node: root for node, root in wanted.items() if node != root}
    assert job.tallies["components"].counts[components.ROUNDS] <= 12


def test_a_hot_bucket_is_cut_and_its_first_is_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsh_buckets, "LARGEST", 10)
    key = np.concatenate([np.full(95, 5), np.full(10, 6), [7], np.full(11, 8)]).astype(np.uint64)
    table = pa.table([pa.array(key), pa.array(np.arange(len(key), dtype=np.uint64))], lsh_buckets.ROWS)
    order = np.random.default_rng(0).permutation(len(key))
    results = list(lsh_buckets._meet(0, table.take(pa.array(order))))
    blocks = [pa.ipc.open_stream(result[1]).read_all() for result in results if not isinstance(result, Counters)]
    members: dict[int, list[int]] = {}
    for part, number in zip(*(np.concatenate([b[c] for b in blocks]).tolist() for c in ("key", "number")), strict=True):
        members.setdefault(part, []).append(number)
    assert all(2 <= len(of) <= 11 for of in members.values())
    assert set(itertools.chain(*members.values())) == set(range(len(key))) - {105}
    for first, last in ((0, 95), (95, 105), (106, 117)):
        assert all(first in of for of in members.values() if set(of) & set(range(first, last)))


def test_blocks_hold_the_rows_of_their_partition() -> None:
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 2**63, 500).astype(np.uint64)
    table = pa.table({"number": numbers, "text": [str(number) for number in numbers]})
    partitions = tables.share(tables.hashed(numbers), 7)
    found = dict(tables.partitioned(table, partitions))
    assert set(found) == set(range(7))  # spread
    rows = {number: tables.joined([data])["number"].to_pylist() for number, data in found.items()}
    assert rows == {p: numbers[partitions == p].tolist() for p in range(7)}
    assert dict(tables.partitioned(table, partitions, range(2, 4))) == {p: found[p] for p in (2, 3)}
    assert not list(tables.partitioned(table.slice(0, 0), partitions[:0]))


def test_shares_are_equal_and_in_order() -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, 10_000, dtype=np.uint64))
    parts = tables.share(hashes, 9)
    assert (np.diff(parts) >= 0).all() and np.bincount(parts, minlength=9).min() > 900 and parts.max() == 8
    assert len(np.unique(tables.hashed(np.arange(10_000)))) == 10_000


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = f"{tmp_path}/a/b"
    with pytest.raises(ValueError, match="half way"), storage.writing(path) as file:
        file.write(b"half")
        raise ValueError("half way")
    assert not storage.exists(path) and storage.names(f"{tmp_path}/a") == []


def test_tallies_add_in_any_order() -> None:
    rng = np.random.default_rng(1)
    tallies = []
    for _ in range(40):
        tally = Counters()
        for value in rng.integers(0, 10**9, 30).tolist():
            tally.count(f"{value % 5}", value)
            tally.sample("few", value, str(value))
            tally.row("all", value, None)
        tallies.append(tally)
    whole = added(tallies).as_json()
    halves = [added(part) for part in (tallies[::-1][:13], tallies[::-1][13:])]
    assert added(halves).as_json() == whole == added([Counters(), *tallies]).as_json()
    assert Counters.of_json(whole).as_json() == whole and len(whole["samples"]["few"]) == Counters.LARGEST
    assert [bucket(n) for n in (0, 1, 2, 3, 4, 1023, 1024)] == [0, 1, 2, 2, 4, 512, 1024]


def test_the_rule_of_choice() -> None:
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
        table, first = keep_rule.chosen(keep_rule.candidates(documents, 3, groups).take(order))
        kept = table["id"].to_numpy()[first].tolist()
        assert set(zip(table["group"].to_pylist(), kept, strict=True)) == {(1, 3 << 32 | 2), (2, 3 << 32 | 5)}


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**31, 2**40])
def test_an_example_is_protobufs(value: int) -> None:
    message = tensorflow().train.Example.FromString(
        example({"text": "né\0\n" * value if value < 400 else "", "n": value})
    )
    features = message.features.feature
    assert list(features["n"].int64_list.value) == [value]
    assert features["text"].bytes_list.value[0].decode() == ("né\0\n" * value if value < 400 else "")


def test_files_come_after_those_that_they_import() -> None:
    texts = {
        "r/app/main.py": "import os\nfrom . import views, models\nimport r_tools.strings as s\n",
        "r/app/views.py": "from .models import (\n    Thing)\nfrom ..app import settings\n",
        "r/app/models.py": "from app.settings import *\n",
        "r/app/settings.py": "import sys\n",
        "r/r_tools/strings.py": "",
        "r/web/a.ts": "import { b } from './lib/b'\nconst c = require('./c.js')\n",
        "r/web/lib/b.ts": "export const b = 1\n",
        "r/web/c.js": "",
        "r/src/x.c": '#include "x.h"\n#include <stdio.h>\n#include "deep/y.h"\n',
        "r/src/x.h": "",
        "r/include/deep/y.h": "",
    }
    order = ordered(texts)
    assert sorted(order) == sorted(texts)
    place = {path.removeprefix("r/"): number for number, path in enumerate(order)}
    for before, after in [
        ("app/views.py", "app/main.py"),
        ("app/models.py", "app/views.py"),
        ("app/settings.py", "app/models.py"),
        ("app/settings.py", "app/views.py"),
        ("r_tools/strings.py", "app/main.py"),
        ("web/lib/b.ts", "web/a.ts"),
        ("web/c.js", "web/a.ts"),
        ("src/x.h", "src/x.c"),
        ("include/deep/y.h", "src/x.c"),
    ]:
        assert place[before] < place[after], (before, after)


def test_without_imports_the_order_is_that_of_paths_and_circles_end() -> None:
    assert ordered({"b.py": "", "a/z.py": "", "a.py": ""}) == ["a.py", "a/z.py", "b.py"]
    assert ordered({"a.py": "import b", "b.py": "import c", "c.py": "import a", "d.py": "import a"}) == [
        "a.py",
        "c.py",
        "b.py",
        "d.py",
    ]


def test_licences_of_checkouts(tmp_path: Path) -> None:
    for name, repository, text in [
        ("LICENSE.txt", "one", "Permission is hereby granted, free\n of charge, to any person obtaining a copy"),
        ("COPYING", "two/deep", "GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007\n"),
        ("LICENSE", "three", "You may look, but not touch."),
    ]:
        (tmp_path / repository).mkdir(parents=True)
        (tmp_path / repository / name).write_text(text)
    wanted = {"one": "MIT", "two/deep": "GPL-3.0", "three": "", "one/vendor": "MIT", "": ""}
    roots = ["/nowhere", str(tmp_path)]
    for repository, licence in wanted.items():
        assert licences.licence_of(Document("x = 1", "x.py", repository=repository), roots) == licence
    line = "# SPDX-License-Identifier: Apache-2.0 OR  MIT\n"
    assert licences.licence_of(Document(line, "x.py", repository="one"), roots) == "Apache-2.0 OR MIT"
    assert licences.licence_of(Document(line, "x.py", licence="ISC"), roots) == "ISC"
