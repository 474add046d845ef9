"""A file is read once, however often it is reached, and is in one split."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from written_folders import USUAL, everything, write

from codellama_jax.config.data import SPLITS, Corpus
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources.base import Source
from tasks.sources.duplicates import identity_of, shared_files

CORPUS = Corpus(validation_share=0.5)


def opened(places: str | Path | Sequence[str | Path], split: str = "train", stream: str = "code") -> Source:
    paths = [str(places)] if isinstance(places, str | Path) else list(map(str, places))
    return sources.open(paths, stream, split, CORPUS, USUAL)


def texts(places: str | Path | Sequence[str | Path]) -> list[list[str]]:
    """The texts of train and of validation."""
    return [sorted(document.text for document in everything(opened(places, split))) for split in SPLITS]


def once(both: list[list[str]], count: int) -> bool:
    return sorted(itertools.chain(*both)) == sorted(f"x = {i}\n" for i in range(count)) and all(both)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    return write(tmp_path / "code", {f"{'ab'[i % 2]}/m{i}.py": f"x = {i}\n" for i in range(30)})


def test_links_of_both_kinds_in_a_folder(code: Path):
    before = opened(code).fingerprint()
    for i in range(30):
        at = code / "ab"[i % 2] / f"m{i}.py"
        (code / f"link{i}.py").symlink_to(at)
        os.link(at, code / f"z{i}.py")
    (code / "a/again").symlink_to(code / "b")
    (code / "0").symlink_to(code / "b")  # before the folder itself in the order of names
    assert once(texts(code), 30)
    (place,) = opened(code).inventory()
    assert place.duplicates == 60 and place.files == 30
    assert "links to the same file are read once: link0.py is a/m0.py, and 59 more" in place.notes
    assert opened(code).fingerprint() == before  # the paths without a link are kept


def test_the_kept_path_does_not_depend_on_the_order_of_the_listing(code: Path, monkeypatch: pytest.MonkeyPatch):
    os.link(code / "a/m0.py", code / "c.py")
    (code / "aa").symlink_to(code / "b")
    paths = sorted(document.path for split in SPLITS for document in everything(opened(code, split)))
    walk = os.walk

    def reversed_walk(*args, **kwargs):
        for folder, subfolders, names in walk(*args, **kwargs):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(names, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert sorted(document.path for split in SPLITS for document in everything(opened(code, split))) == paths
    assert "a/m0.py" in paths and "c.py" not in paths and "b/m1.py" in paths


def test_overlapping_places(code: Path):
    (code.parent / "linked").symlink_to(code)
    for places in ((code / "a", code), (code, code.parent / "extra"), (code.parent / "linked/b", code)):
        write(code.parent / "extra", {"y.py": "x = 0\n"})
        (code.parent / "extra/m1.py").unlink(missing_ok=True)
        (code.parent / "extra/m1.py").symlink_to(code / "b/m1.py")
        both = list(itertools.chain(*texts(places)))
        assert len(both) == len(set(both)) + ("extra" in str(places[1])) and len(set(both)) == 30
    first, second = opened((code / "a", code)).inventory()
    assert first.files == second.files == 15 and second.duplicates == 15
    assert f"15 files are read as part of {code}/a" in second.notes


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}//", "{}/.", "{}/a/..", "{}/../code", "link"])
@pytest.mark.parametrize("split", SPLITS)
def test_a_place_that_repeats_another_is_rejected(code: Path, spelling: str, split: str):
    (code.parent / "link").symlink_to(code)
    other = spelling.format(code) if spelling != "link" else str(code.parent / "link")
    with pytest.raises(UserError, match=f"CODE_CORPUS={other} repeats {code}, which already reads its files"):
        opened((code, other), split)


def test_record_files_are_read_once(tmp_path: Path):
    lines = [f'{{"text": "x = {i}\\n"}}\n' for i in range(30)]
    write(tmp_path, {"data/a.jsonl": "".join(lines[:15]), "data/deep/b.jsonl": "".join(lines[15:])})
    (tmp_path / "data/0.jsonl").symlink_to("a.jsonl")
    os.link(tmp_path / "data/a.jsonl", tmp_path / "data/c.jsonl")
    data = tmp_path / "data"
    both = texts((data,))
    assert once(both, 30)
    assert texts((data, data / "*.jsonl", data / "deep/b.jsonl")[:1]) == both
    assert once(texts((data / "*.jsonl", data)), 30)
    assert [place.read for place in opened((data / "*.jsonl", data)).inventory()] == [{".jsonl": 1}, {".jsonl": 1}]
    for other in (data / "*.jsonl", data / "deep/b.jsonl", data / "0.jsonl", f"{data}/./c.jsonl"):
        with pytest.raises(UserError, match=r"repeats .*/data, which already reads its files"):
            opened((data, other))


def test_remote_locations_are_compared_as_paths():
    assert identity_of("gs://b/x/a.py") == identity_of("GS://b/x//./y/../a.py") != identity_of("gs://c/x/a.py")
    assert identity_of(f"file://{__file__}") == identity_of(__file__)


def test_files_of_several_streams_are_reported(code: Path):
    def splits(place: Path, stream: str) -> dict:
        return {key: value for split in SPLITS for key, value in opened(place, split, stream).file_splits().items()}

    assert shared_files({"code": splits(code, "code"), "python": splits(code, "python")}) == [
        "code and python both read 30 files"
    ]
    (remark,) = shared_files({"code": splits(code, "code"), "python": splits(code / "a", "python")})
    assert remark.startswith("code and python both read 15 files, of which ") and "name the same folder" in remark
    write(code.parent, {"other/a.py": "x\n", "other/b.py": "x\n"})
    assert not shared_files({"code": splits(code, "code"), "python": splits(code.parent / "other", "python")})
