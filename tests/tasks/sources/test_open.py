"""Opening a corpus by the form of its path."""

import subprocess
import sys
from pathlib import Path

import pytest
from written_folders import USUAL, everything

from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources.base import ConcatenatedSource, Document
from tasks.sources.folder import Folder

ALL = Corpus(validation_share=0.0)


def test_a_path_replaces_the_embedded_stream(tmp_path: Path):
    (tmp_path / "a.md").write_text("# A\n" * 30)
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    assert everything(sources.open(str(tmp_path), "nl", "train", ALL, USUAL)) == [Document("# A\n" * 30, "a.md")]
    (dialogue,) = everything(sources.open(str(tmp_path), "instruct", "train", ALL, USUAL))
    assert dialogue.messages == [{"role": "user", "content": "hello"}]
    assert len(sources.open(None, "code", "train", ALL, USUAL)) > 100
    with pytest.raises(UserError, match=r"--gin.PYTHON_CORPUS=.*no such f"):
        sources.open(str(tmp_path / "none"), "python", "train", Corpus(), USUAL)


def test_a_corpus_has_paths_for_each_stream():
    corpus = Corpus(nl="/data/nl", code=["/data/a", "/data/b"])
    assert corpus.paths("nl") == "/data/nl" and corpus.paths("code") == ["/data/a", "/data/b"]
    assert corpus.paths("python") is None
    with pytest.raises(ValueError, match="code, python, nl_code, nl, instruct"):
        corpus.paths("validation_share")


def test_a_list_may_contain_paths_without_documents_for_validation(tmp_path: Path):
    for name, documents in (("one", 1), ("many", 40)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(documents)))
    paths = [str(tmp_path / f"{name}.jsonl") for name in ("one", "many")]
    with pytest.raises(UserError, match="only one file or record"):
        sources.open(paths[0], "nl", "validation", Corpus(), USUAL)
    validation = everything(sources.open(paths, "nl", "validation", Corpus(), USUAL))
    train = everything(sources.open(paths, "nl", "train", Corpus(), USUAL))
    assert validation and len(train) + len(validation) == 41
    with pytest.raises(UserError, match="only one file or record"):
        sources.open(paths[:1], "nl", "validation", Corpus(), USUAL)


def test_a_folder_is_read_as_text_files_or_records(tmp_path: Path):
    """The files with more bytes in total are read, so that a README.md does not hide the data beside it."""
    for path, text in (
        ("mixed/a.c", "int a = 1000000;\n"),
        ("mixed/b.jsonl", '{"text": "b"}\n'),
        ("c/c.jsonl", '{"text": "c"}\n'),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    def texts(stream: str, *folders: str) -> list[str]:
        paths = [str(tmp_path / folder) for folder in folders]
        return [document.text for document in everything(sources.open(paths, stream, "train", ALL, USUAL))]

    assert texts("code", "mixed") == ["int a = 1000000;\n"]
    assert texts("nl", "mixed") == ["b"] and texts("code", "c") == ["c"]
    (tmp_path / "mixed/README.md").write_text("#\n")
    (tmp_path / "mixed/package.json").write_text("{}")
    assert texts("nl", "mixed") == ["b"]
    (place,) = sources.open(str(tmp_path / "mixed"), "nl", "train", ALL, USUAL).inventory()
    assert place.kind == "records" and place.not_read == {".c": 1, ".md": 1, ".json": 1}
    (place,) = sources.open(str(tmp_path / "mixed"), "code", "train", ALL, USUAL).inventory()
    assert place.kind == "text files" and place.not_read == {".jsonl": 1, ".md": 1, ".json": 1}
    assert texts("code", "c", "mixed") == ["c", "int a = 1000000;\n"]  # one after the other
    with pytest.raises(UserError, match="no usable file"):
        (tmp_path / "empty").mkdir()
        texts("code", "empty")


def test_several_paths_are_concatenated(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(f"{name}\n")
    paths = tuple(str(tmp_path / name) for name in "ab")
    source = sources.open(paths, "code", "train", ALL, USUAL)
    assert isinstance(source, ConcatenatedSource)
    assert [document.path for document in everything(source)] == ["a.py", "b.py"]
    assert isinstance(sources.open(paths[:1], "code", "train", ALL, USUAL), Folder)


def test_an_empty_list_of_paths_is_rejected():
    with pytest.raises(UserError, match=r"--gin.CODE_CORPUS=\(\) names no path"):
        sources.open((), "code", "train", Corpus(), USUAL)


OPENED = """if True:
    import sys
    from codellama_jax.config.data import SPLITS, STREAMS, Corpus, Filters
    from tasks import sources
    for split in SPLITS:
        for stream in STREAMS:
            assert list(sources.open(None, stream, split, Corpus(), Filters()).read(0))
        for path in sys.argv[1:]:
            assert list(sources.open(path, "code", split, Corpus(), Filters()).read(0))
    print({"tensorflow", "tensorflow_datasets", "seqio"} & set(sys.modules))"""


def test_sources_that_do_not_need_tensorflow_do_not_import_it(tmp_path: Path):
    """These are the embedded corpus, a folder, JSON lines and Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "folder").mkdir()
    for number in range(5):
        (tmp_path / f"folder/{number}.py").write_text(f"x = {number}\n")
    (tmp_path / "lines.jsonl").write_text("".join(f'{{"text": "{number}"}}\n' for number in range(5)))
    pq.write_table(pa.table({"text": [str(number) for number in range(5)]}), tmp_path / "table.parquet")
    paths = [str(tmp_path / name) for name in ("folder", "lines.jsonl", "table.parquet")]
    command = [sys.executable, "-c", OPENED, *paths]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "set()\n"
