"""The line of metadata that corpora put before the text of a file."""

from pathlib import Path

import pytest
from written_records import FILE_FORMATS, everything, packed, write

from codellama_jax.config.data import Corpus
from tasks import sources
from tasks.sources import metadata_line
from tasks.sources.base import Source
from tasks.sources.filters import TEXT_ONLY

LINE = "<reponame>a/b<filename>src/m.py<gh_stars>10-100\n"


def opened(path: Path, split: str = "train", stream: str = "code", **settings) -> Source:
    corpus = Corpus(**({"validation_share": 0.0} | settings))
    return sources.open(str(path), stream, split, corpus, TEXT_ONLY)


@pytest.mark.parametrize(
    ("line", "repository", "path"),
    [
        (LINE, "a/b", "src/m.py"),
        ("<reponame>a/b\n", "a/b", ""),
        ("<filename>x y.c\r\n", "", "x y.c"),
        ("<gh_stars>0\n", "", ""),
        ("\ufeff<reponame>a/b<gh_stars>1-10\r", "a/b", ""),
        ("<repo_name>a/b<file_sep>c.go\n", "a/b", "c.go"),
        ("<|repo_name|>a/b<|file_sep|>c.go\n", "a/b", "c.go"),
    ],
)
def test_the_line_is_found_in_text_and_in_bytes(line: str, repository: str, path: str):
    expected = metadata_line.MetadataLine(len(line), repository, path)
    assert metadata_line.find(line + "x = 1\n") == metadata_line.find((line + "x = 1\n").encode()) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<",
        "<filename>",
        "<filename>\nx",  # no value
        "<reponame>a/b",  # no line end: the text may be all there is
        "<reponame>a/b x = <1>\n",
        "x <reponame>a/b\n",
        "\n<reponame>a/b\n",
        "<filename>a.txt</filename>\n",
        "<filename>\n  a.txt\n</filename>\n",
        "<language>en\n</language>\n",
        "<html>\n<body>\n",
        "<?php\n",
        "<T>(a: T) => a\n",
        "<repo_name>a/b<file_sep>c.go\nx\n<file_sep>d.go\ny\n",  # several files
        f"<filename>{'a' * 5000}\n",
    ],
)
def test_other_first_lines_are_text(text: str):
    assert metadata_line.find(text) is None


@pytest.mark.parametrize("form", FILE_FORMATS)
def test_the_line_is_removed_from_records_counted_and_used(tmp_path: Path, form: str):
    records = [{"content": LINE + "x = 1\n"}, {"content": "y = 2\n"}, {"content": LINE}]
    write(tmp_path / f"a.{form}", packed(form, records))
    source = opened(tmp_path / f"a.{form}")
    (block,) = source.read(0)
    found = [(d.text, d.path, d.repository, d.language) for d in block.items]
    assert found[0] == ("x = 1\n", "a/b/src/m.py", "a/b", "Python") and found[1][0] == "y = 2\n"
    assert block.changed == [("metadata_line", "a/b/src/m.py")]
    assert [reason for reason, _ in block.left_out] == ["blank"]
    kept = everything(opened(tmp_path / f"a.{form}", metadata_line=False))
    assert [document.text for document in kept] == [record["content"] for record in records]
    assert opened(tmp_path, metadata_line=False).fingerprint() != source.fingerprint()


def test_columns_come_before_the_line(tmp_path: Path):
    record = {"content": LINE + "x", "max_stars_repo_name": "o/r", "max_stars_repo_path": "k.rs"}
    write(tmp_path / "a.jsonl", packed("jsonl", [record]))
    (document,) = everything(opened(tmp_path))
    assert (document.text, document.path, document.repository) == ("x", "o/r/k.rs", "o/r")


def test_the_line_is_removed_from_files_and_prose(tmp_path: Path):
    (tmp_path / "a.md").write_text(LINE + "# Title\n")
    (tmp_path / "b.py").write_text(LINE + "x = 1\n")
    for stream, text in (("nl", "# Title\n"), ("code", "x = 1\n")):
        (document,) = everything(opened(tmp_path, stream=stream))
        assert (document.text, document.changed, document.repository) == (text, ("metadata_line",), "a/b")


def test_the_repository_of_the_line_keeps_its_documents_in_one_split(tmp_path: Path):
    records = [{"content": f"<reponame>r{n % 7}\nx = {n}\n"} for n in range(200)]
    write(tmp_path / "a.jsonl", packed("jsonl", records))
    splits = [
        {document.repository for document in everything(opened(tmp_path, split, validation_share=0.3))}
        for split in ("train", "validation")
    ]
    assert splits[0] and splits[1] and not splits[0] & splits[1]
