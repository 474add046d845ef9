"""Merge conflicts, and texts that only look like one."""

import json
from pathlib import Path

import pytest
from written_folders import ALL, USUAL, everything, folder, write

from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources.merge_conflicts import has_conflict

CONFLICT = "a = 1\n<<<<<<< HEAD\nb = 2\n=======\nb = 3\n>>>>>>> theirs\nc = 4\n"


@pytest.mark.parametrize(
    "text",
    [
        CONFLICT,
        CONFLICT.replace("\n", "\r\n"),
        CONFLICT.replace("\n", "\r"),
        "<<<<<<< HEAD\n||||||| base\nb\n=======\n>>>>>>> x",
        "<<<<<<<\n=======\n>>>>>>>",
        "<<<<<<< a\n<<<<<<< b\n=======\n>>>>>>> b\n=======\n>>>>>>> a\n",
    ],
)
def test_conflicts_are_found(text: str):
    assert has_conflict(text) and has_conflict(text, prose=True)


@pytest.mark.parametrize(
    "text",
    [
        "Title\n=======\n\ntext\n",
        "<<<<<<< HEAD\nno end\n=======\n",
        ">>>>>>> a\n=======\n<<<<<<< b\n",
        "    <<<<<<< HEAD\n    =======\n    >>>>>>> b\n",
        '"<<<<<<< a"\n"======="\n">>>>>>> b"\n',
        "<<<<<<<< a\n========\n>>>>>>>> b\n",
        "<<<<<<< a\n======= x\n>>>>>>> b\n",
        "x <<<<<<< y\n=======\nz >>>>>>> w\n",
    ],
)
def test_other_texts_are_not(text: str):
    assert not has_conflict(text)


def test_an_example_in_a_document_is_not_a_conflict():
    for fence in ("```", "~~~~", "------------", "...."):
        for example in (f"text\n{fence}\n{CONFLICT}{fence}\n", f"{fence}\nx\n{fence}\n{fence}\n{CONFLICT}{fence}\n"):
            assert not has_conflict(example, prose=True) and has_conflict(example)
        assert has_conflict(f"{fence}\nx\n{fence}\n{CONFLICT}", prose=True)


def test_files_with_conflicts_are_left_out_and_counted(tmp_path: Path):
    write(tmp_path, {"a.py": CONFLICT, "b.py": "b\n", "c.md": CONFLICT, "d.md": f"```\n{CONFLICT}```\n"})
    for name, left, read in (("code", "a.py", "b.py"), ("nl", "c.md", "d.md")):
        source = folder(tmp_path, name=name)
        assert [document.path for document in everything(source)] == [read]
        blocks = [block for shard in range(len(source)) for block in source.read(shard)]
        assert [entry for block in blocks for entry in block.left_out] == [("merge_conflict", left)]


@pytest.mark.parametrize("stream", ["code", "nl"])
def test_records_with_conflicts_are_left_out_and_counted(tmp_path: Path, stream: str):
    texts = [CONFLICT, f"text\n{CONFLICT}", "a\n"]
    write(tmp_path, {"a.jsonl": "".join(json.dumps({"content": text}) + "\n" for text in texts)})
    source = sources.open(str(tmp_path), stream, "train", ALL, USUAL)
    assert [document.text for document in everything(source)] == ["a\n"]
    (block,) = source.read(0)
    assert [reason for reason, _ in block.left_out] == ["merge_conflict"] * 2


def test_pointers_of_git_lfs_are_left_out_and_named(tmp_path: Path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
    write(tmp_path, {"a.py": pointer, "b.ipynb": pointer})
    with pytest.raises(UserError, match=r"left out: 2 lfs_pointer \(run `git lfs pull` in its clone\)"):
        folder(tmp_path)
    write(tmp_path, {"c.py": "x\n"})
    assert [document.path for document in everything(folder(tmp_path))] == ["c.py"]
