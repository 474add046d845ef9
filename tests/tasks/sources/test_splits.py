"""Train and validation, and fingerprints."""

from pathlib import Path

import pytest
from written_folders import ALL, USUAL, folder, many, paths, write

from codellama_jax.config.data import SPLITS, Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources.folder import File, Folder
from tasks.sources.splits import hash_fraction, select_split


def test_splits_are_a_partition_that_depends_only_on_paths(tmp_path: Path):
    many(tmp_path / "one")
    corpus = Corpus(validation_share=0.2)
    train, validation = (set(paths(folder(tmp_path / "one", split, corpus=corpus))) for split in SPLITS)
    assert not train & validation and len(train | validation) == 200
    assert 20 < len(validation) < 60
    # In another folder with more files, the files of the first keep their split.
    many(tmp_path / "two", 300)
    more = set(paths(folder(tmp_path / "two", "validation", corpus=corpus)))
    assert more & (train | validation) == validation


def test_neither_split_of_two_files_is_empty(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.py": "b\n"})
    for share in (1e-9, 0.5, 1 - 1e-9):
        splits = [paths(folder(tmp_path, split, corpus=Corpus(validation_share=share))) for split in SPLITS]
        assert sorted(path for names in splits for path in names) == ["a.py", "b.py"]
        assert len(splits[0]) == len(splits[1]) == 1


def test_a_single_file_is_in_train_and_validation_is_rejected(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n"})
    for share in (0.05, 1 - 1e-9):
        assert len(folder(tmp_path, corpus=Corpus(validation_share=share))) == 1
        with pytest.raises(UserError, match="there is only one file"):
            folder(tmp_path, "validation", corpus=Corpus(validation_share=share))
    with pytest.raises(UserError, match="validation_share is 0"):
        folder(tmp_path, "validation", corpus=ALL)
    with pytest.raises(UserError, match=r"validation_share=1.5"):
        folder(tmp_path, corpus=Corpus(validation_share=1.5))
    with pytest.raises(ValueError, match="train, validation"):
        folder(tmp_path, "test")


def test_hash_fractions_of_two_purposes_are_independent():
    paths = [f"{i}.py" for i in range(3000)]
    both = sum(hash_fraction(path, "split") < 0.5 and hash_fraction(path, "python") < 0.5 for path in paths)
    assert 0.21 < both / 3000 < 0.29


def test_fingerprints_of_different_corpora_differ(tmp_path: Path):
    many(tmp_path / "one")
    many(tmp_path / "two")

    def fingerprint(root: str, split: str = "train", name: str = "code", settings: Filters = USUAL, **corpus) -> str:
        return Folder(tmp_path / root, split, name=name, corpus=Corpus(**corpus), settings=settings).fingerprint()

    first = fingerprint("one")
    assert first == fingerprint("two") == fingerprint("one", shuffle_bytes=9)  # shuffle_bytes affects repositories only
    grouped = fingerprint("one", group_by_repository=True)
    different = {first, grouped, fingerprint("one", "validation"), fingerprint("one", document_characters=9)}
    different |= {fingerprint("one", validation_share=0.5), fingerprint("one", name="python")}
    different |= {fingerprint("one", group_by_repository=True, shuffle_bytes=9)}
    for field, value in (("longest_bytes", 9), ("longest_line", 9), ("generated", False), ("languages", ("Python",))):
        different.add(fingerprint("one", settings=Filters(**{field: value})))
    write(tmp_path / "two", {"pkg0/m0.py": "x = 10\n"})
    different.add(fingerprint("two"))
    assert len(different) == 12


def test_select_split_keeps_the_order():
    entries = [File(f"{i}", 1, lambda: "") for i in range(50)]
    train = select_split(entries, "train", Corpus(validation_share=0.3), "here")
    assert train == [entry for entry in entries if entry in train]
