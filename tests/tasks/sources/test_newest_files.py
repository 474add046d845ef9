"""Held-out files are those of each repository that changed last, and nothing similar to them is trained on."""

import os
import subprocess
from pathlib import Path

import pytest
from written_folders import everything, write

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks.sources import git_history
from tasks.sources.folder import Folder
from tasks.sources.similar_files import similar_files

NEWEST = Corpus(held_out="newest", validation_share=0.25)
DAY = 86_400


def text(number: int) -> str:
    """A file of lines that no other number has."""
    return "".join(f"value_{number}_{line} = {number * line}\n" for line in range(6))


def git(folder: Path, *arguments: str, day: int = 1) -> None:
    date = f"{1_700_000_000 + day * DAY} +0000"
    environment = os.environ | {"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date, "GIT_CONFIG_GLOBAL": "/dev/null"}
    identity = ["-c", "user.name=n", "-c", "user.email=e@e"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, env=environment, capture_output=True)


def repository(folder: Path, *days: dict[str, str]) -> Path:
    """A checkout with a commit for each day, which writes files."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    for day, files in enumerate(days, 1):
        write(folder, files)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", str(day), day=day)
    return folder


def both(root: Path, corpus: Corpus = NEWEST) -> tuple[set[str], set[str]]:
    """The paths of training and of validation."""
    train, validation = (
        {document.path for document in everything(Folder(root, split, corpus=corpus))}
        for split in ("train", "validation")
    )
    return train, validation


def notes(root: Path, split: str = "train") -> str:
    (place,) = Folder(root, split, corpus=NEWEST).inventory()
    return f"{place.split_by}\n" + "\n".join(place.notes)


def test_the_files_that_changed_last_in_git_are_held_out(tmp_path: Path):
    first = {f"a/{number}.py": text(number) for number in range(6)}
    root = repository(tmp_path / "r", first, {"b/6.py": text(6), "7.py": text(7)}, {"a/0.py": text(10)})
    # the times of modification say the opposite
    for age, path in enumerate(sorted(root.rglob("*.py"), reverse=True)):
        os.utime(path, (1e9 + age * DAY, 1e9 + age * DAY))
    train, validation = both(root)
    assert "a/0.py" in validation and len(validation) == 2 and validation <= {"a/0.py", "b/6.py", "7.py"}
    assert train == {*first, "b/6.py", "7.py"} - validation
    assert both(root) == (train, validation)
    told = notes(root)
    assert told.startswith("the last change in git\n") and "held out: 2 of 8 files of " in told
    assert "since 2023-11-16 22:13 UTC" in told


def test_changes_that_are_not_committed_are_the_newest(tmp_path: Path):
    root = repository(tmp_path / "r", {f"{n}.py": text(n) for n in range(6)}, {"6.py": text(6), "7.py": text(7)})
    write(root, {"ü new.py": text(8), "2.py": text(9)})
    assert both(root)[1] == {"ü new.py", "2.py"}


def test_each_repository_has_its_own_newest_files(tmp_path: Path):
    repository(tmp_path / "old", {f"{n}.py": text(n) for n in range(7)}, {"7.py": text(7)})
    repository(tmp_path / "new", *({f"{n}.py": text(20 + n)} for n in range(8)))
    train, validation = both(tmp_path)
    assert {path.split("/")[0] for path in validation} == {"old", "new"}
    assert {"old/7.py", "new/7.py", "new/6.py"} < validation and len(validation) == 4 and not train & validation
    assert both(tmp_path / "new")[1] == {"7.py", "6.py"}, "a checkout is the same one below another folder"


def test_a_part_of_a_checkout_has_its_history(tmp_path: Path):
    root = repository(tmp_path, {f"src/{n}.py": text(n) for n in range(7)}, {"src/7.py": text(7), "x.py": text(9)})
    assert "7.py" in both(root / "src")[1]


def test_without_differences_in_time_a_hash_decides(tmp_path: Path):
    one = repository(tmp_path / "one", {f"{n}.py": text(n) for n in range(8)})
    copied = tmp_path / "copied"
    write(copied, {f"{n}.py": text(n) for n in range(8)})
    assert both(one) == both(copied) and len(both(one)[1]) == 2
    assert "the hash of a file's path" in notes(one) and "in the same commit" in notes(one)
    assert "their times of modification are the same" in notes(copied)


def test_without_git_the_time_of_modification_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = repository(tmp_path, {f"{n}.py": text(n) for n in range(7)}, {"7.py": text(7)})
    for number in range(8):
        os.utime(root / f"{number}.py", (1e9, 1e9 - number * DAY))
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert both(root)[1] == {"0.py", "1.py"}
    assert "the time of modification" in notes(root) and "git cannot be run" in notes(root)


def test_one_file_cannot_be_divided(tmp_path: Path):
    write(tmp_path, {"a.py": text(1)})
    with pytest.raises(UserError, match=r"no file is held out, since there is only one file: name a folder with more"):
        Folder(tmp_path, "validation", corpus=NEWEST)
    write(tmp_path, {"b.py": text(2)})
    train, validation = both(tmp_path)
    assert len(train) == len(validation) == 1


def test_a_file_that_is_similar_to_a_held_out_one_is_not_trained_on(tmp_path: Path):
    files = {f"{n}.py": text(n) for n in range(8)}
    copy = text(99).replace("value_99_0 = 0", "changed = 1")
    root = repository(tmp_path, files | {"copy.py": copy, "other.py": text(50)}, {"held.py": text(99)})
    train, validation = both(root)
    assert "held.py" in validation
    assert validation.isdisjoint(train) and "copy.py" not in train
    if "copy.py" not in validation:
        assert "left out: 1 near_duplicate of a held-out file: copy.py of held.py" in notes(root)
    (place,) = Folder(root, "train", corpus=NEWEST).inventory()
    assert place.splits == {"train": len(train), "validation": len(validation)}


def test_similarity_is_of_the_lines_of_both_files():
    held = {"h": "\n".join(f"line {n}" for n in range(10))}

    def shared(count: int) -> str:
        return "\n".join([*(f"  line {n}" for n in range(count)), *(f"other {n}" for n in range(10 - count)), "}", "}"])

    assert similar_files(held, [("a", shared(7))]) == {"a": "h"}  # 7 of 13
    assert similar_files(held, [("a", shared(6))]) == {}  # 6 of 14
    assert similar_files(held | {"i": shared(9)}, [("a", shared(10))]) == {"a": "h"}
    assert similar_files({"h": ""}, [("a", ""), ("b", "x\n")]) == {}


def test_files_that_git_ignores_are_not_read_if_asked(tmp_path: Path):
    root = repository(tmp_path, {f"{n}.py": text(n) for n in range(8)} | {".gitignore": "venv/\n"})
    write(root, {"venv/lib/x.py": text(50), "untracked.py": text(51)})
    assert "venv/lib/x.py" in {path for paths in both(root) for path in paths}
    corpus = Corpus(held_out="newest", ignored_by_git=False)
    read = {path for paths in both(root, corpus) for path in paths}
    assert read == {*(f"{n}.py" for n in range(8)), "untracked.py"}
    (place,) = Folder(root, "train", corpus=corpus).inventory()
    assert "not read: 1 files that git ignores (Corpus.ignored_by_git)" in place.notes


def test_a_folder_below_a_checkout_that_ignores_it_is_read(tmp_path: Path):
    repository(tmp_path, {".gitignore": "code/\n", "setup.py": "x = 1\n"})
    write(tmp_path, {f"code/{n}.py": text(n) for n in range(8)})
    for number in range(8):
        os.utime(tmp_path / f"code/{number}.py", (1e9, 1e9 - number * DAY))
    corpus = Corpus(held_out="newest", validation_share=0.25, ignored_by_git=False)
    train, validation = both(tmp_path / "code", corpus)
    assert len(train) == 6 and validation == {"0.py", "1.py"}
    assert "git has no history of these files" in notes(tmp_path / "code")


def test_a_long_history_is_read_only_as_far_as_needed(tmp_path: Path):
    root = repository(tmp_path, *({f"{n}.py": text(n)} for n in range(9)))
    paths = [f"{n}.py" for n in range(9)]
    assert list(git_history.last_changes(str(root), paths, 3)) == ["8.py", "7.py", "6.py"]
    assert len(git_history.last_changes(str(root), paths, 100)) == 9


def test_neighbours_stay_together_in_the_order_of_folders(tmp_path: Path):
    names = ["b/2.py", "a.py", "b/1.py", "b/c/3.py", "b/4.py", "z.py"]
    write(tmp_path, {name: "x = 1\n" * 10 for name in names})
    corpus = Corpus(validation_share=0.0, neighbour_bytes=130)
    source = Folder(tmp_path, "train", corpus=corpus)
    blocks = [block for shard in range(len(source)) for block in source.read(shard)]
    assert all(block.in_order for block in blocks)
    runs = [[document.path for document in block.items] for block in blocks]
    assert runs == [["a.py", "z.py"], ["b/1.py", "b/2.py"], ["b/4.py", "b/c/3.py"]]
    assert source.fingerprint() != Folder(tmp_path, "train", corpus=Corpus(validation_share=0.0)).fingerprint()
