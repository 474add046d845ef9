"""A build as the trainer's source: its own split, and the stream of windows from it."""

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


def read(place: object, split: str = "train", **settings: object) -> list[Document]:
    source = sources.open(str(place), "code", split, Corpus(), Filters(**settings))  # type: ignore[arg-type]
    return [document for piece in range(len(source)) for document in items(source, piece)]


def test_the_split_is_the_builds_own(built: Path) -> None:
    there = json.loads((built / "manifest.json").read_text())
    for split in ("train", "validation"):
        documents = read(built, split)
        assert len(documents) == sum(shard["documents"] for shard in there["shards"] if shard["split"] == split)
        assert documents == read(built / "manifest.json", split)
        assert all(document.language == "Python" and document.repository for document in documents)


def test_what_is_built_is_not_filtered_again_but_for_languages(built: Path) -> None:
    documents = read(built)
    assert read(built, longest_line=10, longest_bytes=100_000) == documents
    with pytest.raises(Exception, match="no usable document"):
        read(built, languages=("Rust",))


def test_its_fingerprint_is_of_what_it_holds(built: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(built, tmp_path / "moved"))

    def fingerprint(place: Path) -> str:
        return sources.open(str(place), "code", "train", Corpus(), Filters()).fingerprint()

    assert fingerprint(moved) == fingerprint(built / "manifest.json")
    record = json.loads((moved / "manifest.json").read_text())
    record["digest"] = "0" * 64
    (moved / "manifest.json").write_text(json.dumps(record))
    assert fingerprint(moved) != fingerprint(built)


def test_beside_other_places(built: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for number in range(30):
        (tmp_path / f"more/file{number}.py").write_text(f"def more(): return {number}\n")
    paths = (str(built), str(tmp_path / "more"))
    source = sources.open(paths, "code", "train", Corpus(), Filters())
    documents = [document for piece in range(len(source)) for document in items(source, piece)]
    assert {document.path for document in read(built)} < {document.path for document in documents}


def test_training_windows_are_drawn_from_it(
    built: Path, inputs: list[str], capsys: pytest.CaptureFixture[str], small_tokenizer: Tokenizer
) -> None:
    model = next(flag for flag in inputs if flag.startswith("--tokenizer")).partition("=")[2]
    arguments = ["--task=code", "--json", "--num_examples=25", f"--gin.CODE_CORPUS={built}", f"--gin.TOKENIZER={model}"]
    assert inspection.main(arguments) == 0
    texts = {document.path: document.text for document in read(built)}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 25 and all(texts[line["path"]] == line["text"] for line in lines)


def test_another_folder_with_a_manifest_is_no_build(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "an extension of a browser"}))
    for number in range(9):
        (tmp_path / f"file{number}.py").write_text(f"value = {number}\n")
    assert len(read(tmp_path)) == 8


def test_nothing_is_left_of_the_steps(built: Path) -> None:
    assert sorted(path.name for path in (built / ".steps").iterdir()) == ["build.json", "lock"]
    names = {name for name in contents(built) if "/" not in name and not name.endswith(".tfrecord")}
    assert names == {"manifest.json", "report.html"}
