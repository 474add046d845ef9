"""Concatenated sources."""

from pathlib import Path

from written_folders import everything, folder, many

from tasks.sources.base import ConcatenatedSource


def test_concatenated_sources_follow_each_other(tmp_path: Path):
    roots = [many(tmp_path / str(number), number) for number in (5, 1, 8)]
    sources = [folder(root) for root in roots]
    concatenated = ConcatenatedSource(sources)
    assert concatenated.name == "code" and len(concatenated) == 14
    assert everything(concatenated) == [document for source in sources for document in everything(source)]
    shards = [(source, shard) for source in sources for shard in range(len(source))]
    for number, (source, shard) in enumerate(shards):
        for skip in (0, 1):
            assert list(concatenated.read(number, skip)) == list(source.read(shard, skip))


def test_the_fingerprint_of_concatenated_sources_depends_on_the_sources_and_their_order(tmp_path: Path):
    first, second = (folder(many(tmp_path / str(number), number)) for number in (3, 4))
    combinations = [[first, second], [second, first], [first], [first, first]]
    prints = [ConcatenatedSource(sources).fingerprint() for sources in combinations]
    assert len({*prints, first.fingerprint()}) == 5
    assert ConcatenatedSource([first, second]).fingerprint() == prints[0]
