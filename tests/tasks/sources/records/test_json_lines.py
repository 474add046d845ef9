"""Plain JSON lines: ranges of bytes as shards, and the locations of records."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from written_records import (
    blocks,
    codes,
    everything,
    opened,
    packed,
    write,
)


def test_every_line_is_read_once_for_any_shard_boundaries(tmp_path: Path):
    random_ = random.Random(3)
    for trial in range(60):
        texts = [f"{i} " + "x" * random_.choice((0, 3, 30, 300)) for i in range(random_.randrange(1, 12))]
        ends = [random_.choice(("\n", "\r\n", "\n\n", "\n  \n")) for _ in texts]
        ends[-1] = random_.choice(("", "\n", "\n\n\n"))
        data = random_.choice(("", "\ufeff", "\n"))
        data += "".join(json.dumps({"text": text}) + end for text, end in zip(texts, ends, strict=True))
        write(tmp_path / f"{trial}.jsonl", data.encode())
        limit = random_.randrange(1, 400)
        source = opened(tmp_path / f"{trial}.jsonl", validation_share=0.0, shuffle_bytes=limit)
        assert [document.text for document in everything(source)] == texts
        assert len(source) == -(-len(data.encode()) // limit)
        assert all(len(list(source.read(shard))) <= 1 for shard in range(len(source)))


@pytest.mark.usefixtures("size")
def test_the_split_does_not_depend_on_the_shards(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": f"text {i}"} for i in range(200)]))
    splits = [{d.text for d in everything(opened(tmp_path, "validation", shuffle_bytes=n))} for n in (7, 100, 1 << 20)]
    assert splits[0] == splits[1] == splits[2] and 20 < len(splits[0]) < 100


def test_documents_are_named_by_line_or_offset_and_messages_have_the_line(tmp_path: Path):
    lines = packed("jsonl", [{"text": f"text {i}"} for i in range(8)] + [{"text": " "}])
    write(tmp_path / "a" / "b.jsonl", lines)
    begins = [i for i in range(len(lines)) if i == 0 or lines[i - 1 : i] == b"\n"]
    source = opened(tmp_path, validation_share=0.0, shuffle_bytes=begins[3])
    paths = [document.path for document in everything(source)]
    assert paths == [f"a/b.jsonl:{i}" for i in (1, 2, 3)] + [f"a/b.jsonl@{begin}" for begin in begins[3:8]]
    ((reason, location),) = [entry for block in blocks(source) for entry in block.left_out]
    assert (reason, str(location)) == ("blank", "a/b.jsonl:9")
    (tmp_path / "a" / "b.jsonl").unlink()
    assert str(location) == f"a/b.jsonl@{begins[8]}"


def test_a_large_file_is_opened_without_being_read(tmp_path: Path):
    with open(tmp_path / "large.jsonl", "wb") as file:
        file.write(packed("jsonl", codes(30)))
        file.truncate(1 << 40)  # a sparse file: larger than the disk, and more shards than a list could hold
    source = opened(tmp_path / "large.jsonl", validation_share=0.0, shuffle_bytes=1 << 10)
    assert len(source) == 1 << 30
    assert list(source.read(0)) and not list(source.read(1 << 29))


def test_plain_lines_import_neither_tensorflow_nor_arrow(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", codes(5)))
    program = """if True:
        import sys
        from codellama_jax.config.data import Corpus, Filters
        from tasks.sources.records.record_source import open_records
        source = open_records(sys.argv[1], "train", name="code", corpus=Corpus(), settings=Filters())
        assert list(source.read(0))
        print({"tensorflow", "tensorflow_datasets", "pyarrow"} & set(sys.modules))"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4])
    assert ran.stdout == "set()\n"


def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path):
    """As on the old Macintosh, and mixed. Texts keep theirs."""
    records = [{"text": f"a\r{i}\rb"} for i in range(9)]
    lines = [json.dumps(record) for record in records]
    for name, data in (("a", "\r".join(lines)), ("b", "\r".join(lines[:4]) + "\r\n" + " \r\r".join(lines[4:]) + "\r")):
        write(tmp_path / f"{name}.jsonl", data.encode())
        write(tmp_path / f"{name}.jsonl.gz", gzip.compress(data.encode()))
        for path in (f"{name}.jsonl", f"{name}.jsonl.gz"):
            for limit in (7, 100, 1 << 20):
                documents = everything(opened(tmp_path / path, validation_share=0.0, shuffle_bytes=limit))
                assert [document.text for document in documents] == [record["text"] for record in records]
                assert len({document.path for document in documents}) == 9
    write(tmp_path / "c.jsonl", b'{"text":\r"white space"\r}\n')
    assert [document.text for document in everything(opened(tmp_path / "c.jsonl", validation_share=0.0))] == [
        "white space"
    ]
