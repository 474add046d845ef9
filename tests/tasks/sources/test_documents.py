"""Documents: the files of a repository are joined, and long files are cut."""

import functools
import itertools
import random
import re
from pathlib import Path

import pytest
from written_folders import GROUPS, REPOSITORIES, TOGETHER, USUAL, everything, folder, write

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks.sources import files
from tasks.sources.base import Document
from tasks.sources.documents import cut, grouped
from tasks.sources.folder import File, TextFiles


def test_files_belong_to_the_nearest_repository_or_else_to_the_first_folder(tmp_path: Path):
    found = files.list_files(str(write(tmp_path, REPOSITORIES)), lambda name: name.endswith((".py", ".c"))).found
    assert [entry.path for entry in found] == sorted(path for path in REPOSITORIES if ".git" not in path)
    expected = {path: repository for repository, members in GROUPS.items() for path in members}
    assert {entry.path: entry.repository for entry in found} == expected | {"root.py": "", "also.py": ""}
    assert {document.path: document.repository for document in everything(folder(tmp_path))} == {
        entry.path: entry.repository for entry in found
    }


def test_the_files_of_a_repository_become_one_document(tmp_path: Path):
    """The files are in the order of their paths, each below a line with its path. A missing line end is added.

    Files outside a repository are separate documents.
    """
    source = folder(write(tmp_path, REPOSITORIES), corpus=TOGETHER)
    documents = {document.path: document for document in everything(source)}
    assert len(documents) == len(GROUPS) + 2
    assert documents["one/a.py"].text == "# a.py\na = 1\n# b.py\nb = 1\n# sub/c.c\nint c;\r\n"
    assert documents["two/inner/deep/f.py"].text == "# deep/f.py\nf\n# e.py\ne\n"
    for repository, (first, *_) in GROUPS.items():
        assert documents[first].repository == repository
    languages = {path: document.language for path, document in documents.items()}
    assert (languages["one/a.py"], languages["two/inner/deep/f.py"], languages["org/three/g.c"]) == ("", "Python", "C")
    for path, text in (("root.py", "r\n"), ("also.py", "s\n")):
        assert documents[path] == Document(text, path, "Python")


def test_filtered_files_do_not_remove_the_rest_of_their_repository(tmp_path: Path):
    write(tmp_path, {"a/1.py": "x\n", "a/2.py": b"\0", "a/3.py": "y\n", "a/vendor/4.py": "z\n", "b/1.py": ""})
    source = folder(tmp_path, corpus=TOGETHER)
    blocks = [block for shard in range(len(source)) for block in source.read(shard)]
    assert [document.text for block in blocks for document in block.items] == ["# 1.py\nx\n# 3.py\ny\n"]
    assert [left_out for block in blocks for left_out in block.left_out] == [("binary", "a/2.py"), ("blank", "b/1.py")]


@pytest.mark.parametrize("limit", [1, 50, 200, 10_000])
def test_a_document_of_a_repository_is_limited_by_shuffle_bytes(tmp_path: Path, limit: int):
    """A single longer file exceeds it. Documents are as long as the limit allows; each file is in exactly one."""
    rng = random.Random(3)
    sizes = {f"r{rng.randrange(4)}/{i:03d}.py": rng.randrange(1, 90) for i in range(120)}
    write(tmp_path, {path: f"#{'x' * size}\n" for path, size in sizes.items()})
    source = folder(tmp_path, corpus=Corpus(validation_share=0.0, group_by_repository=True, shuffle_bytes=limit))
    seen: list[str] = []
    sizes_of_documents = []
    for document in everything(source):
        members = [
            f"{document.repository}/{name}" for name in re.findall(r"^# (\d+\.py)$", document.text, re.MULTILINE)
        ]
        sizes_of_documents.append((document.repository, [sizes[path] + 2 for path in members]))
        assert members == sorted(members) and members[0] == document.path
        seen += members
    assert sorted(seen) == sorted(sizes)
    assert all(sum(members) <= limit or len(members) == 1 for _, members in sizes_of_documents)
    for (repository, members), (following, after) in itertools.pairwise(sizes_of_documents):
        assert repository != following or sum(members) + after[0] > limit


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_repository_is_in_one_split(tmp_path: Path, share: float):
    """Without grouping, its files are split one by one."""
    write(tmp_path, {f"r{i % 40}/f{i}.py": f"x = {i}\n" for i in range(200)})

    def repositories(group: bool) -> list[set[str]]:
        corpus = Corpus(validation_share=share, group_by_repository=group)
        sources = [folder(tmp_path, split, corpus=corpus) for split in ("train", "validation")]
        return [{document.repository for document in everything(source)} for source in sources]

    train, validation = repositories(True)
    assert not train & validation and len(train | validation) == 40
    assert 0 < len(validation) < 20
    train, validation = repositories(False)
    assert train & validation


def test_a_single_repository_is_in_train_and_validation_is_rejected(tmp_path: Path):
    write(tmp_path, {"a/1.py": "x\n", "a/2.py": "y\n"})
    grouping = Corpus(validation_share=0.5, group_by_repository=True)
    assert len(everything(folder(tmp_path, corpus=grouping))) == 1
    with pytest.raises(UserError, match="there is only one repository"):
        folder(tmp_path, "validation", corpus=grouping)


def test_grouping_keeps_common_metadata():
    first, second = (Document("x", f"r/{i}", "C", "r", "MIT") for i in "ab")
    (document,) = grouped([first, second])
    assert document == Document("# a\nx\n# b\nx\n", "r/a", "C", "r", "MIT")
    alone = [Document("y", "1"), Document("z", "2")]
    assert grouped([*alone, first]) == [*alone, Document("# a\nx\n", "r/a", "C", "r", "MIT")]
    apart = grouped([first, Document("w", "q/a", "C", "q"), second])  # only consecutive ones
    assert [document.repository for document in apart] == ["r", "q", "r"]


# --- cutting ----------------------------------------------------------------------------------------------------------


def random_text(random_: random.Random) -> str:
    parts = ["\n", "\r\n", "\n\n", "def f():", "    x = 1", "}", ")", "é", "a" * 30, " ", "\r", "\x0c", "\u2028"]
    return "".join(random_.choices(parts, k=random_.randrange(60)))


def test_parts_concatenate_to_the_text():
    random_ = random.Random(5)
    for _ in range(3000):
        text, limit = random_text(random_), random_.randrange(1, 60)
        parts = cut(text, limit)
        assert "".join(parts) == text
        assert all(len(part) <= limit for part in parts)
        assert len(parts) == 1 or all(parts)
        assert len(parts) == 1 or len(text) > limit
        for before, after in itertools.pairwise(parts):
            line_end = re.search(r"\n|\r(?!\n)", (before + after)[: limit + 1])
            is_long = line_end is None or line_end.end() > limit
            assert before.endswith(("\n", "\r")) or is_long  # only a long line is cut inside
            assert limit == 1 or not (before.endswith("\r") and after.startswith("\n"))
    assert cut("x" * 100, None) == ["x" * 100]
    assert cut("", 10) == [""]


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_cuts_are_the_same_for_every_line_end(end: str):
    text = "x = [\n" + "  1,\n" * 10 + "]\n\n" + "def f():\n    pass\n" * 9
    for limit in (9, 40, 63):
        expected = [part.replace("\n", "\r") for part in cut(text, limit)]
        if end == "\r":
            assert cut(text.replace("\n", end), limit) == expected
        else:
            assert all(part.endswith(end) for part in cut(text.replace("\n", end), limit + 40)[:-1])


def test_cuts_are_before_definitions():
    first = "def f():\n" + "    pass\n" * 6
    second = "@decorated\ndef g():\n" + "    pass\n" * 6
    assert cut(f"{first}\n\n{second}", 100) == [f"{first}\n\n", second]
    assert cut(f"{first}\n\n{second}", len(first) + 2)[0] == f"{first}\n\n"  # exactly at the limit
    # Without a blank line, any line at column 0 that does not close a bracket.
    assert cut("x = [\n" + "  1,\n" * 10 + "]\ny = 2\nz = 3\n", 63) == [
        "x = [\n" + "  1,\n" * 10 + "]\n",
        "y = 2\nz = 3\n",
    ]
    # A cut in the first half of the range would make small parts: the last line end is better.
    assert cut("a\n\nb\n" + "  c\n" * 20, 40) == ["a\n\nb\n" + "  c\n" * 8, "  c\n" * 10, "  c\n" * 2]


def test_a_source_cuts_its_files(tmp_path: Path):
    text = "".join(f"def f{i}():\r\n    return {i}\r\n\r\n" for i in range(50))
    write(tmp_path, {"a.py": text, "b.py": "b\n"})
    corpus = Corpus(validation_share=0.0, document_characters=200)
    documents = everything(folder(tmp_path, corpus=corpus))
    assert [document.path for document in documents] == [*(f"a.py#{i}" for i in range(1, len(documents))), "b.py"]
    assert "".join(document.text for document in documents[:-1]) == text
    assert all(document.text.startswith("def ") for document in documents[:-1])
    with pytest.raises(UserError, match="document_characters=0"):
        TextFiles("code", [File("a", 1, functools.partial(str, "a"))], Corpus(document_characters=0), USUAL)


def test_a_repository_is_cut_like_a_file(tmp_path: Path):
    write(tmp_path, {f"r/{name}.py": f"def {name}():\n    return 1\n\n" * 3 for name in "abc"})
    corpus = Corpus(validation_share=0.0, group_by_repository=True)
    (uncut,) = everything(folder(tmp_path, corpus=corpus))
    cut_corpus = Corpus(validation_share=0.0, group_by_repository=True, document_characters=70)
    documents = everything(folder(tmp_path, corpus=cut_corpus))
    assert [document.path for document in documents] == [f"r/a.py#{i}" for i in range(1, len(documents) + 1)]
    assert "".join(document.text for document in documents) == uncut.text
    assert all(len(document.text) <= 70 and document.repository == "r" for document in documents)
