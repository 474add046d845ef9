"""A curated dataset as a source: its own split, filters, fingerprint and training windows."""

import json
import shutil
from pathlib import Path

import pytest
from planted import contents

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.tokenizer import Tokenizer
from tasks import inspect as inspection
from tasks import sources
from tasks.sources.base import Document, items


def read(path: object, split: str = "train", **settings: object) -> list[Document]:
    source = sources.open(str(path), "code", split, Corpus(), Filters(**settings))  # type: ignore[arg-type]
    return [document for shard in range(len(source)) for document in items(source, shard)]


def test_the_dataset_keeps_its_own_split(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    for split in ("train", "validation"):
        documents = read(built, split)
        assert len(documents) == sum(shard["documents"] for shard in manifest["shards"] if shard["split"] == split)
        assert documents == read(built / "manifest.json", split)
        assert all(document.language == "Python" and document.repository for document in documents)


def test_only_the_filter_for_languages_applies_again(built: Path) -> None:
    documents = read(built)
    assert read(built, longest_line=10, longest_bytes=100_000) == documents
    with pytest.raises(Exception, match="no usable document"):
        read(built, languages=("Rust",))


def test_the_fingerprint_depends_on_the_content_and_not_on_the_folder(built: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))

    def fingerprint(path: Path) -> str:
        return sources.open(str(path), "code", "train", Corpus(), Filters()).fingerprint()

    assert fingerprint(moved) == fingerprint(built / "manifest.json")
    record = json.loads((moved / "manifest.json").read_text())
    record["digest"] = "0" * 64
    (moved / "manifest.json").write_text(json.dumps(record))
    assert fingerprint(moved) != fingerprint(built)


def test_a_dataset_is_concatenated_with_another_path(built: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for number in range(30):
        (tmp_path / f"more/file{number}.py").write_text(f"def more(): return {number}\n")
    paths = (str(built), str(tmp_path / "more"))
    source = sources.open(paths, "code", "train", Corpus(), Filters())
    documents = [document for shard in range(len(source)) for document in items(source, shard)]
    assert {document.path for document in read(built)} < {document.path for document in documents}


def test_training_windows_contain_its_documents(
    built: Path, inputs: list[str], capsys: pytest.CaptureFixture[str], small_tokenizer: Tokenizer
) -> None:
    model = next(flag for flag in inputs if flag.startswith("--tokenizer")).partition("=")[2]
    arguments = ["--task=code", "--json", "--num_examples=25", f"--gin.CODE_CORPUS={built}", f"--gin.TOKENIZER={model}"]
    assert inspection.main(arguments) == 0
    texts = {document.path: document.text for document in read(built)}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 25 and all(texts[line["path"]] == line["text"] for line in lines)


def test_a_folder_with_an_unrelated_manifest_is_read_as_text_files(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "an extension of a browser"}))
    for number in range(9):
        (tmp_path / f"file{number}.py").write_text(f"value = {number}\n")
    assert len(read(tmp_path)) == 8


def test_intermediate_files_are_removed(built: Path) -> None:
    assert sorted(path.name for path in (built / ".steps").iterdir()) == ["build.json", "lock"]
    names = {name for name in contents(built) if "/" not in name and not name.endswith(".tfrecord")}
    assert names == {"manifest.json", "report.html"}
