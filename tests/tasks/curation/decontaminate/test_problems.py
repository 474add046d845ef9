"""Evaluation problems are read from every format of records, and what has none is named."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from codellama_jax.errors import UserError
from tasks.curation.decontaminate.index import Index
from tasks.curation.decontaminate.problems import read_problems

PROMPT = 'def rotate_left(values, by):\n    """Rotates a list of whole numbers to the left by some places."""\n'
SOLUTION = "    cut = by % len(values)\n    head, tail = values[:cut], values[cut:]\n    return tail + head\n"
TESTS = "def check(candidate):\n    assert candidate([5, 6, 7], 4) == [6, 7, 5]\n    assert candidate([], 9) == []\n"
RECORDS = [
    {"task_id": "X/1", "prompt": PROMPT, "canonical_solution": SOLUTION, "test_list": TESTS.splitlines()},
    {"task_id": "X/2", "prompt": "Ein zweites Beispiel, für das es keine Lösung gibt.", "canonical_solution": ""},
]
EXPECTED = [
    ("X/1", {"prompt": PROMPT, "canonical_solution": SOLUTION, "test_list": TESTS.rstrip("\n")}),
    ("X/2", {"prompt": RECORDS[1]["prompt"]}),
]


def write_records(path: Path, records: list[dict]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_the_fields_of_known_benchmarks_are_read(tmp_path: Path):
    def texts(record: dict) -> dict[str, str]:
        (problem,) = read_problems([write_records(tmp_path / "a.jsonl", [record])])
        return dict(problem.texts)

    code = {"prompt": "p", "canonical_solution": "c", "test": "t"}
    assert texts({"task_id": "HumanEval/0", "entry_point": "f", **code}) == code
    mbpp = {
        "task_id": 7,
        "text": "w",
        "code": "d",
        "test_list": ["a", "b"],
        "challenge_test_list": [],
        "test_setup_code": "",
    }
    assert texts(mbpp) == {"text": "w", "code": "d", "test_list": "a\nb"}
    assert texts({"question": "q", "solutions": json.dumps(["x", "y"]), "input_output": "{}", "url": "u"}) == {
        "question": "q", "solutions[0]": "x", "solutions[1]": "y"
    }  # fmt: skip
    assert texts({"description": "q", "solutions": {"language": [1], "solution": ["z"]}}) == {
        "description": "q", "solutions[0]": "z"
    }  # fmt: skip
    assert texts({"name": "n", "language": "java", "prompt": "p", "tests": "t", "stop_tokens": ["\n"]}) == {
        "prompt": "p", "tests": "t"
    }  # fmt: skip
    long = "some text of a benchmark that nobody here has heard of"
    assert texts({"id": 3, "what": long, "licence": "MIT", "size": 12}) == {"what": long}


def test_problems_are_read_from_several_formats(tmp_path: Path):
    records = [{"task_id": "X/1", "prompt": PROMPT}, {"id": 2, "prompt": SOLUTION}, {"prompt": TESTS}, {"url": "-"}]
    write_records(tmp_path / "Own.jsonl", records)
    write_records(tmp_path / "Zipped.jsonl.gz", records)
    (tmp_path / "List.json").write_text(json.dumps(records))
    (tmp_path / "notes.txt").write_text("not this")
    assert [problem.name for problem in read_problems([tmp_path / "Zipped.jsonl.gz"])] == [
        "Zipped:X/1",
        "Zipped:2",
        "Zipped:#3",
    ]
    everything = read_problems([tmp_path])
    assert len(everything) == 9 and everything == read_problems([str(tmp_path / "*.json*")])
    assert len(Index(everything)) == len(Index(everything[:3]))


def test_a_file_without_problems_is_an_error(tmp_path: Path):
    for name, data in [
        ("a.jsonl", b"{"),
        ("b.json.gz", b"\x1f\x8b no"),
        ("c.jsonl", b"\xff"),
        ("d.json", b'[{"url": "-"}]'),
        ("e.jsonl", b'[{"prompt": "p"}]'),  # an array is named .json
        ("f.json", b'[{"prompt": "p"}, "not an object"]'),
        ("g.json", b'[{"prompt": "p"}'),
        ("h.jsonl.gz", b'{"prompt": "not compressed"}'),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name) as error:
            read_problems([tmp_path / name])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no file of evaluation problems"):
        read_problems([tmp_path / "none.jsonl"])


def lines(path: Path) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def write_zstandard(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.CompressedOutputStream(file, "zstd") as stream:
        stream.write(lines(path))


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist(RECORDS), path, row_group_size=1)


def write_tfrecord(path: Path) -> None:
    tf = pytest.importorskip("tensorflow")

    def feature(value: str | list[str]):
        values = [value] if isinstance(value, str) else value
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in values]))

    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            features = {name: feature(value) for name, value in record.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


WRITERS: dict[str, Callable[[Path], object]] = {
    "own.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines(path)),
    "own.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines(path))),
    "own.jsonl.zst": write_zstandard,
    "own.ndjson.xz": lambda path: path.write_bytes(lzma.compress(lines(path))),
    "own.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(lines(path))),
    "own.json": lambda path: path.write_text(json.dumps(RECORDS, indent=2)),
    "own.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(RECORDS).encode())),
    "own.parquet": write_parquet,
    "own.tfrecord": write_tfrecord,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_of_records_gives_the_same_problems(tmp_path: Path, name: str):
    WRITERS[name](tmp_path / name)
    (tmp_path / "README.md").write_text("# Problems\n")
    for path in (tmp_path / name, tmp_path, f"{tmp_path}/*"):
        problems = read_problems([path])
        assert [(problem.name.removeprefix("own:"), dict(problem.texts)) for problem in problems] == EXPECTED


def test_the_clone_of_a_data_set_and_a_folder_that_spark_wrote_are_read(tmp_path: Path):
    clone = tmp_path / "openai_humaneval"
    (clone / "data").mkdir(parents=True)
    write_parquet(clone / "test-00000-of-00001.parquet")
    write_parquet(clone / "data/train-00000-of-00002-ab12cd34.parquet")
    (clone / "dataset_infos.json").write_text(json.dumps({"openai_humaneval": {"features": {}}}))
    (clone / "results.csv").write_text("model,score\na,0.5\n")
    (clone / "README.md").write_text("# Data\n")
    names = {problem.name for problem in read_problems([clone])}
    assert {"openai_humaneval/test:X/1", "openai_humaneval/test:X/2"} < names and len(names) == 4
    (tmp_path / "out.parquet").mkdir()
    write_parquet(tmp_path / "out.parquet/part-00000.parquet")
    (tmp_path / "out.parquet/_SUCCESS").touch()
    assert len(read_problems([tmp_path / "out.parquet"])) == len(read_problems([f"{tmp_path}/*.parquet"])) == 2


def test_a_place_without_problems_is_an_error_with_its_name_and_the_reason(tmp_path: Path):
    write_parquet(tmp_path / "good.parquet")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("# Problems\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/a.json").write_text('{"version": 1}')
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"id": 7, "url": "-"}\n')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more, longer than any pointer" * 40)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 83920\n"
    (tmp_path / "pointer.parquet").write_text(pointer)
    (tmp_path / "pointer.jsonl").write_text(pointer)
    pyarrow.parquet.write_table(pa.table({"id": [1], "score": [0.5]}), tmp_path / "scores.parquet")
    for name, reason in (
        ("docs", "no file of evaluation problems below the folder"),
        ("configs", "no file of evaluation problems below the folder"),
        ("nothing", "no file of evaluation problems"),
        ("*.csv.none", "no file of evaluation problems"),
        ("empty.jsonl", "it is empty"),
        ("other.jsonl", "its fields are id, url"),
        ("scores.parquet", "its fields are id, score"),
        ("broken.parquet", "is damaged: it is not a Parquet file"),
        ("pointer.parquet", "run `git lfs pull` in its clone"),
        ("pointer.jsonl", "run `git lfs pull` in its clone"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            read_problems([tmp_path / "good.parquet", tmp_path / name])
        assert name in str(error.value) and "\n" not in str(error.value)
