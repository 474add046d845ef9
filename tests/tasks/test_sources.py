"""Folders and JSON lines as sources: what is taken, how it is split, how long files are cut."""

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from codellama_jax.errors import UserError
from tasks.sources import LANGUAGES, Dialogues, Document, File, Folder, Texts, chosen, cut, share_of


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def everything(source) -> list:
    return [item for index in range(len(source)) for item in source.read(index)]


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
    source = Folder(tmp_path, "train", validation_share=0.0)
    documents = {document.path: document.text for document in everything(source)}
    assert documents == {
        "a.py": "a = 1\n",
        "deep/er/B.RS": "fn main() {}\n",
        "crlf.c": "int a;\r\nint b;\r\n",
        "bom.ts": "\ufeffexport {}\n",
        "odd.js": "let s = '\u2028\x0c\x85'\n",
    }
    assert len(source) == 10  # the five that are left out are listed, and read as nothing


def test_the_stream_decides_which_files_count(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.c": "b\n", "c.md": "c\n", "d.log": "d\n"})
    taken = {
        stream: [document.path for document in everything(Folder(tmp_path, "train", name=stream, validation_share=0))]
        for stream in ("code", "python", "nl_code", "nl")
    }
    assert taken == {"code": ["a.py", "b.c"], "python": ["a.py"], "nl_code": ["c.md"], "nl": ["c.md"]}
    chosen_extension = Folder(tmp_path, "train", extensions=frozenset((".log",)), validation_share=0)
    assert [document.path for document in everything(chosen_extension)] == ["d.log"]
    assert len(LANGUAGES) >= 25


def test_links_are_followed_once(tmp_path: Path):
    write(tmp_path, {"corpus/a/x.py": "x\n", "elsewhere/y.py": "y\n"})
    corpus = tmp_path / "corpus"
    (corpus / "a/loop").symlink_to(corpus)
    (corpus / "again").symlink_to(corpus / "a")
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    source = Folder(corpus, "train", validation_share=0)
    assert [document.path for document in everything(source)] == ["a/x.py", "linked/y.py"]


def test_names_that_are_not_utf8_can_be_read_and_written(tmp_path: Path):
    with open(os.fsencode(tmp_path) + b"/\xff.py", "wb") as file:
        file.write(b"x\n")
    (document,) = everything(Folder(tmp_path, "train", validation_share=0))
    assert document == Document("x\n", "\ufffd.py")


@pytest.mark.parametrize("content", [{}, {"a.txt": "text"}, {"a.py": b"\0", "b.py": ""}])
def test_a_folder_without_usable_files_says_so(tmp_path: Path, content: dict):
    write(tmp_path, content)
    with pytest.raises(UserError, match=r"Corpus.code / --gin.CODE_CORPUS=.*no usable file for train") as refusal:
        Folder(tmp_path, "train", validation_share=0.0)
    assert str(tmp_path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_folder_says_so(tmp_path: Path):
    write(tmp_path, {"file.py": "x"})
    for root, reason in ((tmp_path / "none", "no such folder"), (tmp_path / "file.py", "not a folder")):
        with pytest.raises(UserError, match=f"--gin.NL_CORPUS=.*{reason}"):
            Folder(root, "train", name="nl")


def test_a_file_that_vanishes_says_so(tmp_path: Path):
    source = Folder(write(tmp_path, {"a.py": "a\n"}), "train")
    (tmp_path / "a.py").unlink()
    with pytest.raises(UserError, match=r"a.py cannot be read"):
        source.read(0)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_a_partition_that_depends_on_paths_alone(tmp_path: Path):
    many(tmp_path / "one")
    train, validation = (Folder(tmp_path / "one", split, validation_share=0.2) for split in ("train", "validation"))
    paths = [{document.path for document in everything(source)} for source in (train, validation)]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 200
    assert 20 < len(paths[1]) < 60
    # Another place and more files: those that were there stay on their side.
    many(tmp_path / "two", 300)
    more = {document.path for document in everything(Folder(tmp_path / "two", "validation", validation_share=0.2))}
    assert more & (paths[0] | paths[1]) == paths[1]


def test_no_side_is_empty_where_there_are_two_files(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n", "b.py": "b\n"})
    for share in (1e-9, 0.5, 1 - 1e-9):
        sides = [everything(Folder(tmp_path, split, validation_share=share)) for split in ("train", "validation")]
        assert sorted(document.path for side in sides for document in side) == ["a.py", "b.py"]
        assert len(sides[0]) == len(sides[1]) == 1


def test_one_file_is_for_training_and_says_so(tmp_path: Path):
    write(tmp_path, {"a.py": "a\n"})
    for share in (0.05, 1 - 1e-9):
        assert len(Folder(tmp_path, "train", validation_share=share)) == 1
        with pytest.raises(UserError, match="there is only one file"):
            Folder(tmp_path, "validation", validation_share=share)
    with pytest.raises(UserError, match="validation_share is 0"):
        Folder(tmp_path, "validation", validation_share=0)
    with pytest.raises(UserError, match=r"validation_share=1.5"):
        Folder(tmp_path, "train", validation_share=1.5)
    with pytest.raises(ValueError, match="train, validation"):
        Folder(tmp_path, "test")


def test_shares_of_two_purposes_are_independent():
    paths = [f"{i}.py" for i in range(3000)]
    both = sum(share_of(path, "split") < 0.5 and share_of(path, "python") < 0.5 for path in paths)
    assert 0.21 < both / 3000 < 0.29


def test_fingerprints_tell_corpora_apart(tmp_path: Path):
    many(tmp_path / "one")
    many(tmp_path / "two")

    def fingerprint(folder: str, split: str = "train", **settings) -> str:
        return Folder(tmp_path / folder, split, **settings).fingerprint()

    first = fingerprint("one")
    assert first == fingerprint("two")
    different = {first, fingerprint("one", "validation"), fingerprint("one", document_characters=9)}
    different |= {fingerprint("one", validation_share=0.5), fingerprint("one", name="python")}
    write(tmp_path / "two", {"pkg0/m0.py": "x = 10\n"})
    different.add(fingerprint("two"))
    assert len(different) == 6


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
    documents = everything(Folder(tmp_path, "train", validation_share=0, document_characters=200))
    assert [document.path for document in documents] == [*(f"a.py#{i}" for i in range(1, len(documents))), "b.py"]
    assert "".join(document.text for document in documents[:-1]) == text
    assert all(document.text.startswith("def ") for document in documents[:-1])
    with pytest.raises(UserError, match="document_characters=0"):
        Texts("code", [File("a", 1, lambda: "a")], 0)


# --- dialogues --------------------------------------------------------------------------------------------------------


def dialogue(number: int) -> str:
    messages = [{"role": "user", "content": f"How? é {number}"}, {"role": "assistant", "content": "So."}]
    return json.dumps({"messages": messages, "more": 1}, ensure_ascii=number % 2 == 0)


def test_dialogues_of_a_file_and_of_a_folder(tmp_path: Path):
    lines = [dialogue(i) for i in range(100)]
    write(tmp_path, {"all.jsonl": "\n".join(lines), "folder/a.jsonl": "\r\n\n".join(lines[:50]) + "\n"})
    write(tmp_path, {"folder/sub/b.jsonl": "\ufeff" + "\n".join(lines[50:]), "folder/readme.md": "no"})
    for root in (tmp_path / "all.jsonl", tmp_path / "folder"):
        train, validation = Dialogues(root, "train", 0.2), Dialogues(root, "validation", 0.2)
        both = everything(train) + everything(validation)
        assert sorted(d.messages[0]["content"] for d in both) == sorted(f"How? é {i}" for i in range(100))
        assert both[0].messages[1] == {"role": "assistant", "content": "So."}
        assert len({d.path for d in both}) == 100
        assert 5 < len(validation) < 40
        assert train.fingerprint() != validation.fingerprint()
    assert everything(Dialogues(tmp_path / "all.jsonl", "train", 0.0))[2].path == "all.jsonl:3"


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        '{"messages": []}',
        '{"messages": "user: hello"}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "human", "content": "hello"}]}',
        '{"messages": [{"role": "user", "content": 5}]}',
        '{"messages": [{"role": "user", "content": "half a pair: \\ud800"}]}',
    ],
)
def test_a_line_that_is_no_dialogue_is_named(tmp_path: Path, line: str):
    write(tmp_path, {"first.jsonl": f"\n{line}\n", "third.jsonl": f"{dialogue(0)}\n{dialogue(1)}\n{line}"})
    with pytest.raises(UserError, match=r"--gin.INSTRUCT_CORPUS: first.jsonl:2 is not a dialogue") as refusal:
        Dialogues(tmp_path / "first.jsonl", "train")
    assert "\n" not in str(refusal.value)
    source = Dialogues(tmp_path / "third.jsonl", "train", 0.0)
    with pytest.raises(UserError, match=r"third.jsonl:3 is not a dialogue"):
        source.read(2)


def test_missing_and_empty_dialogues_are_named(tmp_path: Path):
    write(tmp_path, {"empty.jsonl": "\n\n", "folder/a.txt": "no"})
    for root, reason in (("none.jsonl", "no such file"), ("empty.jsonl", "no dialogue"), ("folder", "no dialogue")):
        with pytest.raises(UserError, match=f"--gin.INSTRUCT_CORPUS=.*{root}.*{reason}"):
            Dialogues(tmp_path / root, "train")


def test_chosen_keeps_order():
    entries = [File(f"{i}", 1, lambda: "") for i in range(50)]
    train = chosen(entries, "train", 0.3, "here")
    assert train == [entry for entry in entries if entry in train]
