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

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks import sources
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
        "deep*": "it matches 1 folder; name each folder, or continue the pattern with /\\*",
        "?[ei]*": "it matches 2 folders; name each folder",
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


def test_folders_that_spark_writes_are_read(tmp_path: Path):
    """A pattern matches the folder, or the partitions in it. What Spark writes beside the data is not read."""
    for name in ("out.parquet/part-00000-1f.c000.snappy.parquet", "out.parquet/part-00001-1f.c000.snappy.parquet"):
        write(tmp_path / name, packed("parquet", [{"text": name[12:22]}]))
    for name in ("_SUCCESS", ".part-00000.crc", "_temporary/0/part-9.parquet", "_delta_log/0.checkpoint.parquet"):
        write(tmp_path / "out.parquet" / name, packed("parquet", [{"text": "no"}]))
    write(tmp_path / "lines.jsonl/part-00000.json", packed("jsonl", [{"text": "line"}]))
    write(tmp_path / "lines.jsonl/_SUCCESS", b"")
    write(tmp_path / "one.jsonl", packed("jsonl", [{"text": "one"}]))

    def texts(path: str, **options) -> list[str]:
        return [document.text for document in everything(opened(path, validation_share=0.0, **options))]

    for root in (str(tmp_path), "ram://spark"):
        if root.startswith("ram"):
            for file in tmp_path.rglob("*"):
                if file.is_file():
                    write(f"{root}/{file.relative_to(tmp_path)}", file.read_bytes())
        parts = ["part-00000", "part-00001"]
        assert (
            texts(f"{root}/out.parquet")
            == texts(f"{root}/*.parquet")
            == texts(f"{root}/o*t.parquet/*.parquet")
            == parts
        )
        assert texts(f"{root}/*.jsonl") == ["line", "one"]
    assert texts(f"{tmp_path}/**/*.parquet") == texts(f"{tmp_path}/out.parquet/**") == parts  # each file once


def test_partitions_give_a_field(tmp_path: Path):
    for folder, name in (("lang=Python/date=1", "a"), ("lang=C%23", "b"), ("lang=__HIVE_DEFAULT_PARTITION__", "c")):
        write(tmp_path / "out" / folder / f"{name}.parquet", packed("parquet", [{"content": name}]))
    write(tmp_path / "out/lang=Go/d.jsonl", packed("jsonl", [{"content": "d", "lang": "Rust"}]))
    for path in ("out", "out/lang=*", "out/*/*", "ou*/lang=*"):
        documents = everything(opened(tmp_path / path, validation_share=0.0))
        languages = {document.text: document.language for document in documents}
        if path == "out/*/*":
            assert languages.pop("d") == "Rust" and languages == {"a": "Python", "b": "C#", "c": ""}
        else:
            assert languages == {"a": "Python", "b": "C#", "c": "", "d": "Rust"}
    one = opened(tmp_path / "out/lang=Python", name="python", validation_share=0.0)
    assert [document.language for document in everything(one)] == ["Python"]


def test_tables_and_json_of_a_folder_are_read_if_there_is_nothing_else(tmp_path: Path):
    def paths() -> set[str]:
        source = sources.open(str(tmp_path), "code", "train", Corpus(validation_share=0.0), Filters())
        return {document.path for document in everything(source)}

    write(tmp_path / "a.json", b'[\n{"text": "a"}\n]')
    assert paths() == {"a.json#1"}
    write(tmp_path / "b.csv", b"text\nb\n")
    assert paths() == {"b.csv#1"}
    write(tmp_path / "c.jsonl", b'{"text": "c"}')
    assert paths() == {"c.jsonl:1"}
    write(tmp_path / "d.py", b"d = 1  # more text than in the records beside it\n")
    assert paths() == {"d.py"}


def test_a_readme_does_not_hide_the_tables_of_a_dataset(tmp_path: Path):
    def paths() -> set[str]:
        source = sources.open(str(tmp_path), "nl", "train", Corpus(validation_share=0.0), Filters())
        return {document.path for document in everything(source)}

    write(tmp_path / "README.md", b"# A dataset\n" * 100)
    write(tmp_path / "package.json", b'{"text": "no document"}')
    assert paths() == {"README.md"}
    (tmp_path / "package.json").unlink()
    write(tmp_path / "dataset_infos.json", b"{}")
    write(tmp_path / "data" / "train.json", b'[\n{"text": "a"}\n]')
    write(tmp_path / "data" / "test.json", b'[\n{"text": "b"}\n]')
    assert paths() == {"data/train.json#1"}
    write(tmp_path / "LICENSE.txt", b"MIT\n")
    assert paths() == {"data/train.json#1"}
    write(tmp_path / "guide.md", b"text\n")
    assert paths() == {"README.md", "LICENSE.txt", "guide.md"}


def test_what_datasets_writes_beside_records_is_not_read(tmp_path: Path):
    table = packed("arrow", [{"text": "a"}])
    write(tmp_path / "data-00000-of-00001.arrow", table)
    write(tmp_path / "cache-0123456789abcdef.arrow", packed("arrow", [{"ids": "1"}]))  # a result of map()
    write(tmp_path / "cache-0123456789abcdef_00000_of_00002.arrow", table)
    source = opened(tmp_path, validation_share=0.0)
    assert [document.text for document in everything(source)] == ["a"]
    assert source.inventory()[0].not_read == {".arrow": 2}
    assert len(everything(opened(tmp_path / "cache-*_*.arrow", validation_share=0.0))) == 1  # named by the user


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.arrow", "a.jsonl.gz", "a.csv.xz", "a.tfrecord"])
def test_a_pointer_of_git_lfs_is_named(tmp_path: Path, name: str):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n".encode()
    write(tmp_path / name, pointer)
    with pytest.raises(
        UserError, match=f"{name} is damaged: it is a Git LFS pointer.*run `git lfs pull` in its clone"
    ) as error:
        opened(tmp_path / name)
    one_line(error)
    write(tmp_path / "b.jsonl", packed("jsonl", [{"text": "b"}]))
    source = opened(tmp_path / "*", validation_share=0.0, on_damage="skip")
    assert [document.text for document in everything(source)] == ["b"]
