"""The record files that a path names."""

from pathlib import Path

import pytest
from written_records import (
    everything,
    one_line,
    opened,
    packed,
    prepare,
    write,
)

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from tasks.sources.records.record_formats import is_record_file


def test_names_of_record_files():
    good = "a.jsonl a.json a.NDJSON a.json.gz a.jsonl.zst a.jsonl.zstd a.parquet a.tfrecord a-b.tfrecord-00003-of-00010"
    good += " a.jsonl.xz a.json.bz2 a.csv a.TSV.gz a.arrow a.feather"
    bad = "a.py a.gz jsonl a.jsonl.lz4 a.arrow.gz a.tfrecord.gz a.tfrecord-00003 a.jsonl.bak a.tfrecord-1-of-2.tmp"
    assert all(map(is_record_file, good.split())) and not any(map(is_record_file, bad.split()))


def test_folders_and_patterns_name_record_files(tmp_path: Path):
    for path in ("a.jsonl", "deep/er/b.json", "deep/c.txt", ".hidden.jsonl", "min/d.jsonl", "[x].jsonl"):
        write(tmp_path / path, packed("jsonl", [{"text": path}]))
    write(tmp_path / "e.parquet", packed("parquet", [{"text": "e.parquet"}]))

    def paths(path: str, **options) -> list[str]:
        return [document.path for document in everything(opened(tmp_path / path, validation_share=0.0, **options))]

    assert paths("") == ["[x].jsonl:1", "a.jsonl:1", "e.parquet#1", "min/d.jsonl:1"]  # .json is excluded
    assert paths("", settings=Filters(ignore=("*/min/*",))) == paths("")[:-1]
    assert paths("**/*.json*") == ["[x].jsonl:1", "a.jsonl:1", "deep/er/b.json:1", "min/d.jsonl:1"]
    assert paths("d*/*/*") == ["deep/er/b.json:1"]
    assert paths("[x].jsonl") == ["[x].jsonl:1"]  # the name of an existing file, not a pattern
    for path, reason in {
        "none": "no such file or folder",
        "deep/c.txt": "has no extension of a record file",
        "*.txt": "the pattern matches no record file",
        "none/*": "the pattern matches no record file",
    }.items():
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS=.*{reason}") as error:
            paths(path)
        assert str(tmp_path) in one_line(error)
    write(tmp_path / "f" / "a.txt", b"no")
    with pytest.raises(UserError, match="no record file below the folder"):
        paths("f")


def test_prepared_tfds_datasets_are_read_and_others_not_downloaded(corpora: dict, tmp_path: Path, monkeypatch):
    path = corpora["tfds"]
    test = opened(f"{path}&split=test", validation_share=0.0)
    assert len(everything(test)) == 150 and everything(test)[0].path.startswith("org")
    assert test.fingerprint() != opened(path, validation_share=0.0).fingerprint()
    for name in ("recorded:1.2.0", "recorded:1.*.*"):
        assert len(everything(opened(path.replace("recorded", name, 1), validation_share=0.0))) == 150
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for wrong, reason in {
        "tfds:mnist": "has not prepared mnist",
        "tfds:": "write tfds:NAME",
        "tfds:recorded": "has not prepared recorded",
        "tfds:huggingface:mnist": "has not prepared",
        "tfds:no name": "has not prepared no name",
        f"{path}&split=train[:9]": "has no split 'train\\[:9\\]'; name one of its splits, &split=test or &split=train",
        f"{path}&split=dev": "has no split 'dev'",
        f"{path}&splat=dev": "write tfds:NAME",
        path.replace("recorded", "recorded:3.0.0", 1): "has not prepared recorded:3.0.0",
        path.replace("recorded", "recorded/odd", 1): "has not prepared recorded/odd",
    }.items():
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS=tfds:.*{reason}") as error:
            opened(wrong)
        one_line(error)
    prepare(tmp_path / "rec", [{"text": f"text {i}"} for i in range(9)], file_format="array_record")
    with pytest.raises(UserError, match=r"prepared as array_record; prepare it with .*--file_format=tfrecord"):
        opened(f"tfds:recorded?data_dir={tmp_path}/rec")
