"""Folders as sources: what is taken, what belongs together, how it is split, how long files are cut."""

import functools
import itertools
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from codellama_jax.config.data import SPLITS, Corpus, Filters
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.console import quiet_stderr
from tasks.sources import files
from tasks.sources.folder import (
    ConcatenatedSource,
    Document,
    File,
    Folder,
    Source,
    TextFiles,
    cut,
    grouped,
    items,
)
from tasks.sources.languages import LANGUAGES
from tasks.sources.splits import chosen, share_of

ALL = Corpus(validation_share=0.0)
USUAL = Filters()
TOGETHER = Corpus(validation_share=0.0, group_by_repository=True)


def write(root: Path, contents: dict[str, str | bytes]) -> Path:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def everything(source: Source) -> list:
    return [item for piece in range(len(source)) for item in items(source, piece)]


def paths(source: Source) -> list[str]:
    return [item.path for item in everything(source)]


def folder(root: Path | str, split: str = "train", name: str = "code", corpus: Corpus = ALL, **settings) -> Folder:
    return Folder(root, split, name=name, corpus=corpus, settings=Filters(**settings))


def many(root: Path, number: int = 200) -> Path:
    return write(root, {f"pkg{i % 7}/m{i}.py": f"x = {i}\n" for i in range(number)})


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_only_readable_source_code_is_taken(tmp_path: Path):
    write(
        tmp_path,
        {
            "a.py": "a = 1\n",
            "deep/er/B.RS": "fn main() {}\n",
            "crlf.c": "int a;\r\nint b;\r\n",
            "bom.ts": "\ufeffexport {}\n",
            "odd.js": "let s = '\u2028\x0c\x85'\n",
            "binary.py": b"a\0b",
            "latin.py": "é = 1\n".encode("latin-1"),
            "surrogate.py": b"'\xed\xa0\x80'",
            "empty.py": "",
            "blank.py": " \n\n",
            "photo.png": b"\x89PNG",
            "notes.txt": "no code",
            "Makefile": "all:\n",
            ".git/hook.py": "no\n",
            ".hidden.py": "no\n",
            "node_modules/x/index.js": "no\n",
            "deep/__pycache__/c.py": "no\n",
        },
    )
    (tmp_path / "nowhere.py").symlink_to("gone.py")
    os.mkfifo(tmp_path / "pipe.py")
    source = folder(tmp_path)
    documents = {document.path: document.text for document in everything(source)}
    assert documents == {
        "a.py": "a = 1\n",
        "deep/er/B.RS": "fn main() {}\n",
        "crlf.c": "int a;\r\nint b;\r\n",
        "bom.ts": "\ufeffexport {}\n",
        "odd.js": "let s = '\u2028\x0c\x85'\n",
    }
    assert len(source) == 10  # the five that are left out are listed, and read as nothing
    assert [len(list(source.read(piece))) for piece in range(10)] == [1] * 10  # a file is a block
    assert [list(source.read(piece, 1)) for piece in range(10)] == [[]] * 10


def test_the_stream_decides_which_files_count(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.c": "b\n", "c.md": "c\n", "d.log": "d\n"})
    taken = {stream: paths(folder(tmp_path, name=stream)) for stream in ("code", "python", "nl_code", "nl")}
    assert taken == {"code": ["a.py", "b.c"], "python": ["a.py"], "nl_code": ["c.md"], "nl": ["c.md"]}
    assert paths(Folder(tmp_path, "train", corpus=ALL, extensions=frozenset((".log",)))) == ["d.log"]


def test_a_languages_files_are_known_by_their_extensions(tmp_path: Path):
    """Each extension is one language's; case does not matter; files of no language have none."""
    assert len(LANGUAGES) >= 25
    every = [extension for extensions in LANGUAGES.values() for extension in extensions]
    assert len(every) == len(set(every))
    write(tmp_path, {f"{index}{extension.upper()}": "x\n" for index, extension in enumerate(every)})
    for language, extensions in LANGUAGES.items():
        source = folder(tmp_path, languages=(language,))
        assert sorted(os.path.splitext(path)[1].lower() for path in paths(source)) == sorted(extensions)
        assert {document.language for document in everything(source)} == {language}
    two = everything(folder(tmp_path, languages=["C", "Go"]))
    assert {document.language for document in two} == {"C", "Go"}
    write(tmp_path, {"a.md": "x\n"})
    assert [document.language for document in everything(folder(tmp_path, name="nl"))] == [""]


def test_what_is_to_be_ignored_is_not_listed(tmp_path: Path):
    """Patterns are of the whole path below the corpus, and a star takes slashes as well."""
    names = ["a.min.js", "b.js", "vendor/c.js", "x/vendor/d.js", "x/vendors/e.js", "x/y/third_party/z/f.js"]
    names += ["third_party.js", "x/G.MIN.js", "deep/er/h.min.css.js"]
    write(tmp_path, dict.fromkeys(names, "x\n"))
    assert paths(folder(tmp_path)) == sorted(names[i] for i in (1, 4, 6, 7, 8))
    assert paths(folder(tmp_path, ignore=())) == sorted(names)
    assert paths(folder(tmp_path, ignore=["*/x/*", "/b.js"])) == sorted(names[i] for i in (0, 2, 6, 8))
    assert paths(folder(tmp_path, ignore=("*/[a-h].*",))) == ["third_party.js", "x/G.MIN.js"]
    assert len(folder(tmp_path)) == 5  # and so not opened


def test_links_are_followed_once(tmp_path: Path):
    write(tmp_path, {"corpus/a/x.py": "x\n", "elsewhere/y.py": "y\n"})
    corpus = tmp_path / "corpus"
    (corpus / "a/loop").symlink_to(corpus)
    (corpus / "again").symlink_to(corpus / "a")
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    assert paths(folder(corpus)) == ["a/x.py", "linked/y.py"]


def test_names_that_are_not_utf8_can_be_read_and_written(tmp_path: Path):
    with open(os.fsencode(tmp_path) + b"/\xff.py", "wb") as file:
        file.write(b"x\n")
    (document,) = everything(folder(tmp_path))
    assert document == Document("x\n", "\ufffd.py", "Python")


@pytest.mark.parametrize(
    "content, why",
    [
        ({}, ""),
        ({"a.txt": "text"}, ""),
        ({"a.py": b"\0", "b.py": "", "c.py": ""}, "; left out: 2 blank, 1 binary"),
        ({"vendor/a.py": "x\n"}, ""),
    ],
)
def test_a_folder_without_usable_files_says_so(tmp_path: Path, content: dict, why: str):
    write(tmp_path, content)
    with pytest.raises(UserError, match=r"Corpus.code / --gin.CODE_CORPUS=.*no usable file for train") as refusal:
        folder(tmp_path)
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value) and why in str(refusal.value)


def test_a_missing_folder_says_so(tmp_path: Path):
    write(tmp_path, {"file.py": "x"})
    for root, reason in ((tmp_path / "none", "no such folder"), (tmp_path / "file.py", "not a folder")):
        with pytest.raises(UserError, match=f"--gin.NL_CORPUS=.*{reason}"):
            folder(root, name="nl")


def test_a_file_that_vanishes_says_so(tmp_path: Path):
    source = folder(write(tmp_path, {"a.py": "a\n"}))
    (tmp_path / "a.py").unlink()
    with pytest.raises(UserError, match=r"a.py cannot be read"):
        list(source.read(0))


# --- repositories -----------------------------------------------------------------------------------------------------

REPOSITORIES = {
    "one/b.py": "b = 1\n",
    "one/a.py": "a = 1",
    "one/sub/c.c": "int c;\r\n",
    "two/.git/config": "",
    "two/d.py": "d\n",
    "two/inner/.git": "gitdir: elsewhere\n",  # as a submodule has it
    "two/inner/e.py": "e\n",
    "two/inner/deep/f.py": "f\n",
    "org/three/.git/config": "",
    "org/three/g.c": "g\n",
    "org/three/h.c": "h\n",
    "org/i.c": "i\n",
    "root.py": "r\n",
    "also.py": "s\n",
}
GROUPS = {
    "one": ["one/a.py", "one/b.py", "one/sub/c.c"],
    "two": ["two/d.py"],
    "two/inner": ["two/inner/deep/f.py", "two/inner/e.py"],
    "org/three": ["org/three/g.c", "org/three/h.c"],
    "org": ["org/i.c"],
}


def test_files_belong_to_the_nearest_repository_or_else_to_the_first_folder(tmp_path: Path):
    found = files.walk(str(write(tmp_path, REPOSITORIES)), lambda name: name.endswith((".py", ".c")))
    assert [entry.path for entry in found] == sorted(path for path in REPOSITORIES if ".git" not in path)
    expected = {path: repository for repository, members in GROUPS.items() for path in members}
    assert {entry.path: entry.repository for entry in found} == expected | {"root.py": "", "also.py": ""}
    assert {document.path: document.repository for document in everything(folder(tmp_path))} == {
        entry.path: entry.repository for entry in found
    }


def test_the_files_of_a_repository_become_one_document(tmp_path: Path):
    """In the order of their paths, which stand before them; a text that does not end a line has its line ended. What
    is in no repository stays by itself."""
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


def test_what_is_left_out_of_a_repository_leaves_the_rest(tmp_path: Path):
    write(tmp_path, {"a/1.py": "x\n", "a/2.py": b"\0", "a/3.py": "y\n", "a/vendor/4.py": "z\n", "b/1.py": ""})
    source = folder(tmp_path, corpus=TOGETHER)
    blocks = [block for piece in range(len(source)) for block in source.read(piece)]
    assert [document.text for block in blocks for document in block.items] == ["# 1.py\nx\n# 3.py\ny\n"]
    assert [left_out for block in blocks for left_out in block.left_out] == [("binary", "a/2.py"), ("blank", "b/1.py")]


@pytest.mark.parametrize("limit", [1, 50, 200, 10_000])
def test_a_stretch_of_a_repository_is_no_longer_than_shuffle_bytes(tmp_path: Path, limit: int):
    """Unless a single file is; and it is as long as it may be. No file is lost, nor in two of them."""
    rng = random.Random(3)
    sizes = {f"r{rng.randrange(4)}/{i:03d}.py": rng.randrange(1, 90) for i in range(120)}
    write(tmp_path, {path: f"#{'x' * size}\n" for path, size in sizes.items()})
    source = folder(tmp_path, corpus=Corpus(validation_share=0.0, group_by_repository=True, shuffle_bytes=limit))
    seen: list[str] = []
    stretches = []
    for document in everything(source):
        members = [
            f"{document.repository}/{name}" for name in re.findall(r"^# (\d+\.py)$", document.text, re.MULTILINE)
        ]
        stretches.append((document.repository, [sizes[path] + 2 for path in members]))
        assert members == sorted(members) and members[0] == document.path
        seen += members
    assert sorted(seen) == sorted(sizes)
    assert all(sum(stretch) <= limit or len(stretch) == 1 for _, stretch in stretches)
    for (one, stretch), (other, after) in itertools.pairwise(stretches):
        assert one != other or sum(stretch) + after[0] > limit


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_repository_is_on_one_side_of_the_split(tmp_path: Path, share: float):
    """All of it; and without grouping its files are split one by one."""
    write(tmp_path, {f"r{i % 40}/f{i}.py": f"x = {i}\n" for i in range(200)})

    def sides(together: bool) -> list[set[str]]:
        corpus = Corpus(validation_share=share, group_by_repository=together)
        sources = [folder(tmp_path, split, corpus=corpus) for split in ("train", "validation")]
        return [{document.repository for document in everything(source)} for source in sources]

    train, validation = sides(True)
    assert not train & validation and len(train | validation) == 40
    assert 0 < len(validation) < 20
    train, validation = sides(False)
    assert train & validation


def test_a_single_repository_is_for_training_and_says_so(tmp_path: Path):
    write(tmp_path, {"a/1.py": "x\n", "a/2.py": "y\n"})
    together = Corpus(validation_share=0.5, group_by_repository=True)
    assert len(everything(folder(tmp_path, corpus=together))) == 1
    with pytest.raises(UserError, match="there is only one repository"):
        folder(tmp_path, "validation", corpus=together)


def test_grouping_keeps_what_all_members_share():
    one, other = (Document("x", f"r/{i}", "C", "r", "MIT") for i in "ab")
    (document,) = grouped([one, other])
    assert document == Document("# a\nx\n# b\nx\n", "r/a", "C", "r", "MIT")
    alone = [Document("y", "1"), Document("z", "2")]
    assert grouped([*alone, one]) == [*alone, Document("# a\nx\n", "r/a", "C", "r", "MIT")]
    apart = grouped([one, Document("w", "q/a", "C", "q"), other])  # only those that stand together
    assert [document.repository for document in apart] == ["r", "q", "r"]


# --- remote folders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ram() -> Iterator[str]:
    """A folder of TensorFlow's in-memory file system, which is used as an object store is."""
    with quiet_stderr():
        gfile = filesystem.gfile()
    root = "ram://sources"
    gfile.makedirs(root)
    yield root
    gfile.rmtree(root)


def upload(root: str, contents: dict[str, str | bytes]) -> str:
    for path, content in contents.items():
        location = f"{root}/{path}"
        filesystem.gfile().makedirs(location.rpartition("/")[0])
        with filesystem.gfile().GFile(location, "wb") as file:
            file.write(content)
    return root


REMOTE = {
    "a.py": "a = 1\n",
    "pkg/b.py": "b = 1\r\n",
    "pkg/deep/C.RS": "fn main() {}\n",
    "pkg/binary.py": b"a\0b",
    "pkg/vendor/d.py": "d\n",
    "pkg/.hidden.py": "no\n",
    "node_modules/e.js": "no\n",
    ".cache/f.py": "no\n",
    "other/notes.txt": "no code",
    "other/g.py": "é\n",
    "other/large.py": "x\n" * 200,
    "other/min.min.js": "x",
}


@pytest.mark.parametrize("together", [False, True], ids=["files", "repositories"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_remote_folder_is_read_as_a_local_one(tmp_path: Path, ram: str, split: str, together: bool):
    """The same documents, and the same left out; a stretch of a repository is as long."""
    local, remote = write(tmp_path, REMOTE), upload(f"{ram}/{split}{together}", REMOTE)
    corpus = Corpus(validation_share=0.6, group_by_repository=together, shuffle_bytes=300)
    one, other = (folder(root, split, corpus=corpus, longest_bytes=350) for root in (local, remote))
    assert everything(one) == everything(other) != []
    left_out = [
        [left_out for piece in range(len(source)) for block in source.read(piece) for left_out in block.left_out]
        for source in (one, other)
    ]
    assert left_out[0] == left_out[1]
    assert paths(folder(f"{remote}/", split, corpus=corpus)) == paths(folder(local, split, corpus=corpus))
    assert other.fingerprint() == folder(remote, split, corpus=corpus, longest_bytes=350).fingerprint()


def test_a_remote_file_belongs_to_the_repository_that_it_would_locally(tmp_path: Path, ram: str):
    local, remote = write(tmp_path, REPOSITORIES), upload(f"{ram}/repositories", REPOSITORIES)
    one, other = (files.walk(str(root), lambda name: name.endswith((".py", ".c"))) for root in (local, remote))
    assert [(entry.path, entry.size, entry.repository) for entry in one] == [
        (entry.path, entry.size, entry.repository) for entry in other
    ]


def test_a_remote_folder_that_is_missing_or_empty_says_so(ram: str):
    upload(f"{ram}/wrong", {"a.txt": "x"})
    for root, reason in ((f"{ram}/none", "no such folder"), (f"{ram}/wrong/a.txt", "not a folder")):
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS={root}: {reason}"):
            folder(root)
    with pytest.raises(UserError, match="no usable file for train"):
        folder(f"{ram}/wrong")


def test_a_remote_file_that_vanishes_says_so(ram: str):
    source = folder(upload(f"{ram}/vanishing", {"a.py": "a\n", "b.py": "b\n"}))
    filesystem.gfile().remove(f"{ram}/vanishing/b.py")
    with pytest.raises(UserError, match=r"ram://sources/vanishing/b.py cannot be read \(.+\): fix or remove it") as no:
        everything(source)
    assert "\n" not in str(no.value)


def test_locations_with_a_scheme_are_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert all(map(filesystem.is_remote, ("gs://bucket/path", "ram://x", "s3://a", "GS://b")))
    assert not any(map(filesystem.is_remote, ("/data/x", "relative", "C:\\x", "~/x", "a/b://c", "", "x:/y")))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert filesystem.expand_home("~/x") == str(tmp_path / "x") and filesystem.expand_home("gs://~/x") == "gs://~/x"
    assert paths(folder(write(tmp_path / "there", {"a.py": "x\n"}))) == paths(folder("~/there")) == ["a.py"]


# --- several sources --------------------------------------------------------------------------------------------------


def test_joined_sources_are_one_after_the_other(tmp_path: Path):
    roots = [many(tmp_path / str(number), number) for number in (5, 1, 8)]
    sources = [folder(root) for root in roots]
    joined = ConcatenatedSource(sources)
    assert joined.name == "code" and len(joined) == 14
    assert everything(joined) == [document for source in sources for document in everything(source)]
    pieces = [(source, piece) for source in sources for piece in range(len(source))]
    for number, (source, piece) in enumerate(pieces):
        for skip in (0, 1):
            assert list(joined.read(number, skip)) == list(source.read(piece, skip))


def test_joined_sources_are_told_apart(tmp_path: Path):
    """By what they are made of, and in what order."""
    one, other = (folder(many(tmp_path / str(number), number)) for number in (3, 4))
    prints = [ConcatenatedSource(sources).fingerprint() for sources in ([one, other], [other, one], [one], [one, one])]
    assert len({*prints, one.fingerprint()}) == 5
    assert ConcatenatedSource([one, other]).fingerprint() == prints[0]


# --- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_a_partition_that_depends_on_paths_alone(tmp_path: Path):
    many(tmp_path / "one")
    corpus = Corpus(validation_share=0.2)
    train, validation = (set(paths(folder(tmp_path / "one", split, corpus=corpus))) for split in SPLITS)
    assert not train & validation and len(train | validation) == 200
    assert 20 < len(validation) < 60
    # Another place and more files: those that were there stay on their side.
    many(tmp_path / "two", 300)
    more = set(paths(folder(tmp_path / "two", "validation", corpus=corpus)))
    assert more & (train | validation) == validation


def test_no_side_is_empty_where_there_are_two_files(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.py": "b\n"})
    for share in (1e-9, 0.5, 1 - 1e-9):
        sides = [paths(folder(tmp_path, split, corpus=Corpus(validation_share=share))) for split in SPLITS]
        assert sorted(path for side in sides for path in side) == ["a.py", "b.py"]
        assert len(sides[0]) == len(sides[1]) == 1


def test_one_file_is_for_training_and_says_so(tmp_path: Path):
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


def test_shares_of_two_purposes_are_independent():
    paths = [f"{i}.py" for i in range(3000)]
    both = sum(share_of(path, "split") < 0.5 and share_of(path, "python") < 0.5 for path in paths)
    assert 0.21 < both / 3000 < 0.29


def test_fingerprints_tell_corpora_apart(tmp_path: Path):
    many(tmp_path / "one")
    many(tmp_path / "two")

    def fingerprint(root: str, split: str = "train", name: str = "code", settings: Filters = USUAL, **corpus) -> str:
        return Folder(tmp_path / root, split, name=name, corpus=Corpus(**corpus), settings=settings).fingerprint()

    first = fingerprint("one")
    assert first == fingerprint("two") == fingerprint("one", shuffle_bytes=9)  # which matters to repositories alone
    together = fingerprint("one", group_by_repository=True)
    different = {first, together, fingerprint("one", "validation"), fingerprint("one", document_characters=9)}
    different |= {fingerprint("one", validation_share=0.5), fingerprint("one", name="python")}
    different |= {fingerprint("one", group_by_repository=True, shuffle_bytes=9)}
    for field, value in (("longest_bytes", 9), ("longest_line", 9), ("generated", False), ("languages", ("Python",))):
        different.add(fingerprint("one", settings=Filters(**{field: value})))
    write(tmp_path / "two", {"pkg0/m0.py": "x = 10\n"})
    different.add(fingerprint("two"))
    assert len(different) == 12


# --- cutting ----------------------------------------------------------------------------------------------------------


def random_text(random_: random.Random) -> str:
    parts = ["\n", "\r\n", "\n\n", "def f():", "    x = 1", "}", ")", "é", "a" * 30, " ", "\r", "\x0c", "\u2028"]
    return "".join(random_.choices(parts, k=random_.randrange(60)))


def test_pieces_are_the_text():
    random_ = random.Random(5)
    for _ in range(3000):
        text, limit = random_text(random_), random_.randrange(1, 60)
        pieces = cut(text, limit)
        assert "".join(pieces) == text
        assert all(len(piece) <= limit for piece in pieces)
        assert len(pieces) == 1 or all(pieces)
        assert len(pieces) == 1 or len(text) > limit
        for before, after in itertools.pairwise(pieces):
            assert before.endswith("\n") or "\n" not in (before + after)[:limit]  # only a long line is cut inside
            assert limit == 1 or not (before.endswith("\r") and after.startswith("\n"))
    assert cut("x" * 100, None) == ["x" * 100]
    assert cut("", 10) == [""]


def test_cuts_are_made_before_definitions():
    first = "def f():\n" + "    pass\n" * 6
    second = "@decorated\ndef g():\n" + "    pass\n" * 6
    assert cut(f"{first}\n\n{second}", 100) == [f"{first}\n\n", second]
    assert cut(f"{first}\n\n{second}", len(first) + 2)[0] == f"{first}\n\n"  # exactly at the limit
    # Without a blank line, any line at column 0 that does not close a bracket.
    assert cut("x = [\n" + "  1,\n" * 10 + "]\ny = 2\nz = 3\n", 63) == [
        "x = [\n" + "  1,\n" * 10 + "]\n",
        "y = 2\nz = 3\n",
    ]
    # A definition in the first half would make pieces small: the last line end is better.
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


def test_a_repository_is_cut_as_a_file_is(tmp_path: Path):
    write(tmp_path, {f"r/{name}.py": f"def {name}():\n    return 1\n\n" * 3 for name in "abc"})
    corpus = Corpus(validation_share=0.0, group_by_repository=True)
    (whole,) = everything(folder(tmp_path, corpus=corpus))
    cut_corpus = Corpus(validation_share=0.0, group_by_repository=True, document_characters=70)
    documents = everything(folder(tmp_path, corpus=cut_corpus))
    assert [document.path for document in documents] == [f"r/a.py#{i}" for i in range(1, len(documents) + 1)]
    assert "".join(document.text for document in documents) == whole.text
    assert all(len(document.text) <= 70 and document.repository == "r" for document in documents)


def test_chosen_keeps_order():
    entries = [File(f"{i}", 1, lambda: "") for i in range(50)]
    train = chosen(entries, "train", Corpus(validation_share=0.3), "here")
    assert train == [entry for entry in entries if entry in train]
