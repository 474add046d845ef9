"""Folders as sources, local and remote: which files are read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from written_folders import ALL, REPOSITORIES, everything, folder, paths, write

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.console import quiet_stderr
from tasks.sources import files
from tasks.sources.base import Document
from tasks.sources.folder import Folder
from tasks.sources.languages import LANGUAGES


def test_only_text_files_with_an_extension_of_the_stream_are_read(tmp_path: Path):
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
            "Makefile.rst": "no code",
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
    assert len(source) == 10  # filters remove five of them
    assert [len(list(source.read(shard))) for shard in range(10)] == [1] * 10  # a file is a block
    assert [list(source.read(shard, 1)) for shard in range(10)] == [[]] * 10


def test_the_stream_decides_which_extensions_are_read(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.c": "b\n", "c.md": "c\n", "d.log": "d\n"})
    read = {stream: paths(folder(tmp_path, name=stream)) for stream in ("code", "python", "nl_code", "nl")}
    assert read == {"code": ["a.py", "b.c"], "python": ["a.py"], "nl_code": ["c.md"], "nl": ["c.md"]}
    assert paths(Folder(tmp_path, "train", corpus=ALL, extensions=frozenset((".log",)))) == ["d.log"]


def test_the_extension_decides_the_language(tmp_path: Path):
    """Case does not matter. No extension belongs to two languages, and prose has no language."""
    assert len(LANGUAGES) >= 25
    every = [extension for extensions in LANGUAGES.values() for extension in extensions]
    assert len(every) == len(set(every))
    write(tmp_path, {f"{index}{extension.upper()}": "x\n" for index, extension in enumerate(every)})
    for language, extensions in LANGUAGES.items():
        if not extensions:  # the text decides (test_languages.py)
            continue
        source = folder(tmp_path, languages=(language,))
        assert sorted(os.path.splitext(path)[1].lower() for path in paths(source)) == sorted(extensions)
        assert {document.language for document in everything(source)} == {language}
    two = everything(folder(tmp_path, languages=["C", "Go"]))
    assert {document.language for document in two} == {"C", "Go"}
    write(tmp_path, {"a.md": "x\n"})
    assert [document.language for document in everything(folder(tmp_path, name="nl"))] == [""]


def test_ignored_paths_are_not_listed(tmp_path: Path):
    """Patterns match the complete path below the corpus, and a star also matches slashes."""
    names = ["a.min.js", "b.js", "vendor/c.js", "x/vendor/d.js", "x/vendors/e.js", "x/y/third_party/z/f.js"]
    names += ["third_party.js", "x/G.MIN.js", "deep/er/h.min.css.js"]
    write(tmp_path, dict.fromkeys(names, "x\n"))
    assert paths(folder(tmp_path)) == sorted(names[i] for i in (1, 4, 6, 7, 8))
    assert paths(folder(tmp_path, ignore=())) == sorted(names)
    assert paths(folder(tmp_path, ignore=["*/x/*", "/b.js"])) == sorted(names[i] for i in (0, 2, 6, 8))
    assert paths(folder(tmp_path, ignore=("*/[a-h].*",))) == ["third_party.js", "x/G.MIN.js"]
    assert len(folder(tmp_path)) == 5  # ignored files are not opened


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
def test_a_folder_without_usable_files_is_rejected(tmp_path: Path, content: dict, why: str):
    write(tmp_path, content)
    with pytest.raises(UserError, match=r"Corpus.code / --gin.CODE_CORPUS=.*no usable file for train") as error:
        folder(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value) and why in str(error.value)


def test_a_missing_folder_is_rejected(tmp_path: Path):
    write(tmp_path, {"file.py": "x"})
    for root, reason in ((tmp_path / "none", "no such folder"), (tmp_path / "file.py", "not a folder")):
        with pytest.raises(UserError, match=f"--gin.NL_CORPUS=.*{reason}"):
            folder(root, name="nl")


def test_a_file_that_was_deleted_is_an_error(tmp_path: Path):
    source = folder(write(tmp_path, {"a.py": "a\n"}))
    (tmp_path / "a.py").unlink()
    with pytest.raises(UserError, match=r"a.py cannot be read"):
        list(source.read(0))


# --- remote folders ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ram() -> Iterator[str]:
    """A folder in TensorFlow's in-memory file system, which has the interface of an object store."""
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


@pytest.mark.parametrize("grouped", [False, True], ids=["files", "repositories"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_remote_folder_is_read_like_a_local_one(tmp_path: Path, ram: str, split: str, grouped: bool):
    """The same documents are read, left out and grouped."""
    local, remote = write(tmp_path, REMOTE), upload(f"{ram}/{split}{grouped}", REMOTE)
    corpus = Corpus(validation_share=0.6, group_by_repository=grouped, shuffle_bytes=300)
    one, other = (folder(root, split, corpus=corpus, longest_bytes=350) for root in (local, remote))
    assert everything(one) == everything(other) != []
    left_out = [
        [left_out for shard in range(len(source)) for block in source.read(shard) for left_out in block.left_out]
        for source in (one, other)
    ]
    assert left_out[0] == left_out[1]
    assert paths(folder(f"{remote}/", split, corpus=corpus)) == paths(folder(local, split, corpus=corpus))
    assert other.fingerprint() == folder(remote, split, corpus=corpus, longest_bytes=350).fingerprint()


def test_a_remote_file_belongs_to_the_same_repository_as_a_local_one(tmp_path: Path, ram: str):
    local, remote = write(tmp_path, REPOSITORIES), upload(f"{ram}/repositories", REPOSITORIES)
    one, other = (
        files.list_files(str(root), lambda name: name.endswith((".py", ".c"))).found for root in (local, remote)
    )
    assert [(entry.path, entry.size, entry.repository) for entry in one] == [
        (entry.path, entry.size, entry.repository) for entry in other
    ]


def test_a_missing_or_empty_remote_folder_is_rejected(ram: str):
    upload(f"{ram}/wrong", {"a.txt": "x"})
    for root, reason in ((f"{ram}/none", "no such folder"), (f"{ram}/wrong/a.txt", "not a folder")):
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS={root}: {reason}"):
            folder(root)
    with pytest.raises(UserError, match="no usable file for train"):
        folder(f"{ram}/wrong")


def test_a_remote_file_that_was_deleted_is_an_error(ram: str):
    source = folder(upload(f"{ram}/vanishing", {"a.py": "a\n", "b.py": "b\n"}))
    filesystem.gfile().remove(f"{ram}/vanishing/b.py")
    with pytest.raises(UserError, match=r"sources/vanishing/b.py cannot be read \(.+\): fix or remove it") as error:
        everything(source)
    assert "\n" not in str(error.value)


def test_locations_with_a_scheme_are_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert all(map(filesystem.is_remote, ("gs://bucket/path", "ram://x", "s3://a", "GS://b")))
    assert not any(map(filesystem.is_remote, ("/data/x", "relative", "C:\\x", "~/x", "a/b://c", "", "x:/y")))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert filesystem.expand_home("~/x") == str(tmp_path / "x") and filesystem.expand_home("gs://~/x") == "gs://~/x"
    assert paths(folder(write(tmp_path / "corpus", {"a.py": "x\n"}))) == paths(folder("~/corpus")) == ["a.py"]
