"""Damaged and unreadable record files."""

import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
import tensorflow as tf
from written_records import (
    FILE_FORMATS,
    FORMATS,
    RECORDS,
    TEXTS,
    blocks,
    everything,
    example,
    framed,
    left_out,
    one_line,
    opened,
    packed,
    talks,
    write,
    written,
)

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from tasks.sources.records.record_formats import is_record_file


def with_line(line: bytes, form: str = "jsonl") -> bytes:
    """All records, with a bad line as the 31st."""
    lines = packed("jsonl", RECORDS).splitlines(keepends=True)
    data = b"".join([*lines[:30], line + b"\n", *lines[30:]])
    if form == "jsonl":
        return data
    return gzip.compress(data) if form == "jsonl.gz" else pa.Codec("zstd").compress(data, asbytes=True)


def with_example(extra: bytes) -> bytes:
    """All records, with a bad one as the 31st."""
    examples = [example(record) for record in RECORDS]
    return framed([*examples[:30], extra, *examples[30:]])


def flipped(data: bytes, share: float) -> bytes:
    position = int(len(data) * share)
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def shortened(form: str, share: float) -> bytes:
    data = packed(form, RECORDS)
    return data[: int(len(data) * share)]


def zeroed(data: bytes) -> bytes:
    """Parquet whose first row group is overwritten with zeros."""
    return data[:4] + bytes(200) + data[204:]


# name -> the file, its bytes, location and reason of the damage, number of the 40 records that can still be read
DAMAGE = {
    "not JSON": ("a.jsonl", lambda: with_line(b"{'text': 1}"), ":31", "not JSON", 40),
    "not an object": ("a.jsonl", lambda: with_line(b'["text"]'), ":31", "a JSON array; write one object a line", 40),
    "a line that is not UTF-8": ("a.jsonl", lambda: with_line(b'{"text": "\xff"}'), ":31", "not UTF-8", 40),
    "too deep": ("a.jsonl", lambda: with_line(b'{"text":' + b"[" * 10**5), ":31", "not JSON", 40),
    "a number that is too long": (
        "a.jsonl",
        lambda: with_line(b'{"text":' + b"1" * 10**4 + b"}"),
        ":31",
        "not JSON",
        40,
    ),
    "no text": ("a.jsonl", lambda: with_line(b'{"a": 1, "b": 2}'), ":31", "content, code.*found: a, b", 40),
    "no fields": ("a.jsonl", lambda: with_line(b"{}"), ":31", "found: nothing", 40),
    "a number for a text": ("a.jsonl", lambda: with_line(b'{"text": 5}'), ":31", "of type int", 40),
    "an incomplete line": ("a.jsonl", lambda: packed("jsonl", RECORDS)[:-9], ":40", "not JSON", 39),
    "not JSON, in gzip": ("a.jsonl.gz", lambda: with_line(b"{", "jsonl.gz"), ":31", "not JSON", 40),
    "not JSON, in zstd": ("a.json.zst", lambda: with_line(b"{", "jsonl.zst"), ":31", "not JSON", 40),
    "truncated gzip": ("a.jsonl.gz", lambda: shortened("jsonl.gz", 0.75), ":", "ended before", (28, 32)),
    "gzip with junk inside": ("a.jsonl.gz", lambda: packed("jsonl.gz", RECORDS[:20]) + b"junk", ":21", "gzip", 20),
    "gzip without its checksum": ("a.jsonl.gz", lambda: packed("jsonl.gz", RECORDS)[:-4], ":41", "ended before", 40),
    "not gzip": ("a.jsonl.gz", lambda: packed("jsonl", RECORDS), ":1", "[Nn]ot a gzipped file", 0),
    "truncated zstd": ("a.jsonl.zst", lambda: shortened("jsonl.zst", 0.75), ":", "Truncated", (18, 20)),
    "not zstd": ("a.jsonl.zst", lambda: packed("jsonl", RECORDS), ":1", "ZSTD", 0),
    "truncated xz": ("a.jsonl.xz", lambda: shortened("jsonl.xz", 0.75), ":", "Truncated", (18, 32)),
    "xz with junk inside": ("a.jsonl.xz", lambda: packed("jsonl.xz", RECORDS[:20]) + b"junk", ":21", "format", 20),
    "bzip2 with junk inside": ("a.jsonl.bz2", lambda: packed("jsonl.bz2", RECORDS[:20]) + b"junk" * 9, ":21", "", 20),
    "zstd with junk inside": ("a.jsonl.zst", lambda: packed("jsonl.zst", RECORDS[:20]) + b"junk", ":21", "ZSTD", 20),
    "a truncated array": ("a.json", lambda: shortened("json", 0.76), "#31", "Unterminated", 30),
    "an array with a bad element": (
        "a.json",
        lambda: packed("json", RECORDS).replace(b'"text": "text 30', b"text: 'text 30"),
        "#31",
        "not JSON",
        30,
    ),
    "an array with a number": ("a.json", lambda: b"[5,\n" + packed("json", RECORDS)[1:], "#1", "not a JSON object", 40),
    "an array without an end": ("a.json.gz", lambda: gzip.compress(packed("json", RECORDS)[:-2]), "#41", "", 40),
    "CSV without text": ("a.csv", lambda: b"b\nc\nd\n", ":1", "none of content.*found: b", 0),
    "CSV with text twice": ("a.csv", lambda: b"text,text\nc,d\n", ":1", "its header has text twice", 0),
    "CSV with a short row": ("a.csv", lambda: b"n,text\n1\n", "#1", "the row has 1 fields, the header 2", 0),
    "CSV with an open quote": ("a.csv", lambda: packed("csv", RECORDS[:30]) + b'"no end\n', "#31", "not CSV", 30),
    "CSV with a backslash": ("a.csv", lambda: packed("csv", RECORDS[:30]) + b'"a \\"b\\" c"\n', "#31", "not CSV", 30),
    "truncated Arrow": ("a.arrow", lambda: shortened("arrow", 0.8), "#18", "", 17),
    "not Arrow": ("a.arrow", lambda: packed("jsonl", RECORDS), "", "not an Arrow file", 0),
    "empty Arrow": ("a.arrow", bytes, "", "not an Arrow file", 0),
    "Arrow without text": ("a.arrow", lambda: packed("arrow", [{"b": "c"}]), "", "none of content.*found: b", 0),
    "truncated TFRecord": ("a.tfrecord", lambda: shortened("tfrecord", 0.76), "#31", "truncated record", 30),
    "TFRecord truncated in a header": (
        "a.tfrecord",
        lambda: packed("tfrecord", RECORDS[:31])[:-1],
        "#31",
        "truncated",
        30,
    ),
    "TFRecord with half a length": ("a.tfrecord", lambda: packed("tfrecord", RECORDS) + b"abc", "#41", "truncated", 40),
    "TFRecord with a flipped byte": (
        "a.tfrecord",
        lambda: flipped(packed("tfrecord", RECORDS), 0.76),
        "#31",
        "corrupted",
        30,
    ),
    "not TFRecord": ("a.tfrecord", lambda: packed("jsonl", RECORDS), "#1", "corrupted record", 0),
    "not an example": ("a.tfrecord", lambda: with_example(b"\xff" * 50), "#31", "not a tf.train.Example", 40),
    "an example without text": ("a.tfrecord", lambda: with_example(example({"b": "c"})), "#31", "none of content", 40),
    "truncated Parquet": ("a.parquet", lambda: shortened("parquet", 0.9), "", "not a Parquet file", 0),
    "empty Parquet": ("a.parquet", bytes, "", "not a Parquet file", 0),
    "Parquet without text": ("a.parquet", lambda: packed("parquet", [{"b": "c"}]), "", "none of content.*found: b", 0),
    "Parquet with a bad page": ("a.parquet", lambda: zeroed(packed("parquet", RECORDS)), "#1", "", 23),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_stops_the_run_or_is_counted(tmp_path: Path, damage: str):
    path, data, where, reason, readable = DAMAGE[damage]
    write(tmp_path / path, data())
    write(tmp_path / "b.jsonl", packed("jsonl", [{"text": "intact"}]))
    with pytest.raises(
        UserError, match=f"Corpus.code / --gin.CODE_CORPUS=.*: {path}{where}.* is damaged: .*{reason}"
    ) as r:
        everything(opened(tmp_path / "*", validation_share=0.0))
    assert "fix it, or bind Corpus.on_damage='skip' to count it and continue" in one_line(r)

    source = opened(tmp_path / "*", validation_share=0.0, on_damage="skip")
    assert left_out(source) == {"damaged": 1}
    ((_, location),) = [entry for block in blocks(source) for entry in block.left_out]
    assert str(location).startswith(path + where)
    texts = [document.text for document in everything(source)]
    assert texts.pop() == "intact"
    assert texts == (TEXTS[17:] if damage == "Parquet with a bad page" else TEXTS[: len(texts)])
    assert len(texts) == readable if isinstance(readable, int) else readable[0] <= len(texts) <= readable[1]
    for shard in range(len(source)):
        complete = list(source.read(shard))
        assert all(list(source.read(shard, skip)) == complete[skip:] for skip in range(len(complete) + 1))


@pytest.mark.parametrize(
    "record, reason",
    [
        ({}, "neither messages nor prompt and completion .found: nothing"),
        ({"prompt": "p", "text": "t"}, "found: prompt, text"),
        ({"messages": "user: hello"}, "not JSON"),
        ({"messages": {"role": "user"}}, "not a list"),
        ({"messages": ["hello", 5]}, "a message is of type str"),
        ({"messages": [{"role": 5, "content": "hello"}]}, "the role of a message is of type int"),
        ({"messages": [{"content": "hello"}]}, "a message has no role .found: content"),
        ({"messages": [{"role": "user", "content": 5}]}, "of type int"),
    ],
)
def test_a_record_without_a_dialogue_is_damaged(tmp_path: Path, record: dict, reason: str):
    write(tmp_path / "a.jsonl", packed("jsonl", [*talks(3), record, *talks(5)[3:]]))
    with pytest.raises(UserError, match=f"--gin.INSTRUCT_CORPUS=.*: a.jsonl:4 is damaged: .*{reason}") as error:
        opened(tmp_path, name="instruct", validation_share=0.0)
    one_line(error)
    source = opened(tmp_path, name="instruct", validation_share=0.0, on_damage="skip")
    assert left_out(source) == {"damaged": 1}
    assert [dialogue.messages for dialogue in everything(source)] == [talk["messages"] for talk in talks(5)]


def test_dialogues_with_other_roles_are_left_out(tmp_path: Path):
    other = {"messages": [{"role": "critic", "content": "hello"}]}
    write(tmp_path / "a.jsonl", packed("jsonl", [*talks(3), other]))
    source = opened(tmp_path, name="instruct", validation_share=0.0)
    assert len(everything(source)) == 3 and left_out(source) == {"roles": 1}


def test_dialogues_that_are_not_text_are_left_out(tmp_path: Path):
    contents = ("good", "half \ud800", "nul \0", "long" * 100, "")
    lines = [json.dumps({"prompt": content, "completion": " "}) for content in contents]
    write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    source = opened(tmp_path, name="instruct", validation_share=0.0, settings=Filters(longest_bytes=99))
    assert [dialogue.messages[0]["content"] for dialogue in everything(source)] == ["good"]
    assert left_out(source) == {"not_utf8": 1, "binary": 1, "too_large": 1, "blank": 1}


@pytest.mark.usefixtures("size")
def test_damage_is_counted_in_both_splits(tmp_path: Path):
    write(tmp_path / "a.jsonl", with_line(b"no"))
    for split in ("train", "validation"):
        assert left_out(opened(tmp_path, split, on_damage="skip")) == {"damaged": 1}


@pytest.mark.parametrize("on_damage", ["stop", "skip"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_was_deleted_ends_the_run(tmp_path: Path, form: str, on_damage: str):
    source = opened(written(form, tmp_path / "corpus", RECORDS), on_damage=on_damage)
    files = [path for path in sorted((tmp_path / "corpus").rglob("*")) if is_record_file(path.name)]
    for path in files:
        path.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(.*No such file.*\): fix or remove it") as error:
        everything(source)
    assert str(tmp_path) in one_line(error)
    if form in FILE_FORMATS:
        folder = f"ram://vanishing_{form}_{on_damage}"
        source = opened(written(form, folder, RECORDS), on_damage=on_damage)
        tf.io.gfile.rmtree(folder)
        with pytest.raises(UserError, match=r"ram://vanishing.* cannot be read") as error:
            everything(source)
        one_line(error)


@pytest.mark.parametrize("form", [form for form in FILE_FORMATS if form != "tfrecord"])
@pytest.mark.parametrize(
    "error", [OSError(5, "lost the disk"), tf.errors.UnavailableError(None, None, "lost the disk")]
)
def test_a_read_error_is_not_damage(tmp_path: Path, monkeypatch, form: str, error: Exception):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise error

    source = opened(written(form, tmp_path / "corpus", RECORDS), on_damage="skip")
    for shard in range(len(source)):
        monkeypatch.setattr(
            "tasks.sources.filesystem.open_input", lambda location: Failing(Path(location).read_bytes())
        )
        with pytest.raises(UserError, match=rf"part\d.{form} cannot be read \(lost the disk\): fix or remove it"):
            list(source.read(shard))


def test_empty_files_have_no_documents(tmp_path: Path):
    for path in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.tfrecord"):
        write(tmp_path / path, b"")
    with pytest.raises(UserError, match=r"no usable document for train in 4 files; there are no records$"):
        opened(tmp_path)
    write(tmp_path / "b2.jsonl", packed("jsonl", RECORDS))
    assert [document.text for document in everything(opened(tmp_path, validation_share=0.0))] == TEXTS
