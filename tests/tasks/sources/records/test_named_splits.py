"""Splits that the names of record files, or a column of the records, give."""

import json
from pathlib import Path

import pytest
from written_records import everything, opened, packed

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources.named_splits import divide

T, V, X = "train", "validation", "test"


@pytest.mark.parametrize(
    "paths, splits",
    [
        ("train.jsonl test.jsonl", [T, X]),
        ("Train.jsonl.gz VALID.jsonl.gz dev.jsonl eval.ndjson", [T, V, V, X]),
        ("data/train-00000-of-00004.parquet data/test-00000-of-00001-a09b74b3ef9c3b56.parquet", [T, X]),
        ("default-train-00000-of-00001.parquet default-test-00000-of-00001.parquet", [T, X]),
        ("train/data-00000-of-00001.arrow validation/data-00000-of-00001.arrow", [T, V]),
        ("python/python_train_0.jsonl.gz python/python_test_0.jsonl.gz", [T, X]),
        ("set-train.tfrecord-00000-of-00002 set-test.tfrecord-00000-of-00001", [T, X]),
        ("corpus.jsonl test.jsonl", ["", X]),
        ("train/test_generation.jsonl test/train_utils.jsonl", [T, X]),
        ("test.jsonl", [X]),
        ("trainset.jsonl testset.jsonl devset.jsonl", [T, X, V]),
        ("train.jsonl holdout.jsonl", [T, X]),
        ("a.jsonl b.jsonl", None),
        ("train_0.jsonl train_1.jsonl", None),
        ("code.jsonl unit_test_generation.jsonl", None),
        ("pytest.jsonl latest.jsonl contest.jsonl", None),
    ],
)
def test_names_of_files_and_folders(paths: str, splits: list[str] | None):
    assert divide(paths.split()) == splits


def write(root: Path, form: str, counts: dict[str, int]) -> Path:
    """Writes files with records that say which file they are from."""
    for path, count in counts.items():
        at = root / f"{path}.{form}"
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(packed(form, [{"content": f"{path} {i}", "id": i} for i in range(count)]))
    return root


def origins(path: Path, split: str, **options) -> set[str]:
    return {document.text.split()[0] for document in everything(opened(path, split, **options))}


@pytest.mark.parametrize("form", ["jsonl", "parquet", "jsonl.gz"])
def test_named_splits_are_honoured(tmp_path: Path, form: str):
    write(tmp_path, form, {"data/train-00000-of-00001": 40, "data/validation-00000-of-00001": 20, "data/test": 20})
    for path in (tmp_path, tmp_path / "data" / "*"):
        assert {name[5:9] if "/" in name else name for name in origins(path, "train")} == {"trai"}
        assert {name[5:9] if "/" in name else name for name in origins(path, "validation")} == {"vali"}
        assert len(everything(opened(path, "train"))) == 40  # no hash divides them
        (place,) = opened(path).inventory()
        assert place.splits == {T: 1, V: 1, X: 1} and place.split_by == "the names of the files"
        assert len({split: opened(path, split).fingerprint() for split in (T, V)}) == 2
    assert len(origins(tmp_path, "train", splits="hash")) == 3
    (place,) = opened(tmp_path, splits="hash").inventory()
    assert "read in spite of their names" in place.notes[0]


def test_without_a_file_for_validation_train_is_divided(tmp_path: Path):
    write(tmp_path, "jsonl", {"train": 60, "test": 20, "more": 20})
    train, validation = ({d.text for d in everything(opened(tmp_path, split))} for split in (T, V))
    assert not train & validation and len(train | validation) == 80 and train and validation
    assert origins(tmp_path, "train") | origins(tmp_path, "validation") == {"train", "more"}
    assert "for train, because their names give no split: 1" in opened(tmp_path).inventory()[0].notes


def test_what_the_user_names_is_read(tmp_path: Path):
    write(tmp_path, "jsonl", {"train": 20, "test": 20, "test-more": 20})
    for name in ("test.jsonl", "test*.jsonl"):
        assert origins(tmp_path / name, "train") <= {"test", "test-more"}
    assert opened(tmp_path / "test.jsonl").inventory()[0].notes == (
        "named for test, and read because you name it: test.jsonl",
    )
    write(tmp_path, "jsonl", {"valid/a": 20})
    for folder in ("valid", "valid/"):
        assert opened(f"{tmp_path}/{folder}").inventory()[0].notes == (
            "named for validation, and read because you name it: valid",
        )
    with pytest.raises(UserError, match="it has only files for testing"):
        opened(write(tmp_path / "only", "jsonl", {"test": 9}))


def test_a_folder_of_source_code_has_no_named_splits(tmp_path: Path):
    for folder in ("train", "test", "src"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(f"{folder} = 1\n")
    source = sources.open(str(tmp_path), "code", "train", Corpus(validation_share=0.0), Filters())
    assert len(everything(source)) == 3


def records(splits: list[str], column: str = "split", repeat: int = 20, size: int = 1) -> str:
    rows = [{"text": f"{split or 'none'} {i} " + "x" * size, column: split} for i in range(repeat) for split in splits]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("size", [1, 20_000], ids=["small", "large"])
@pytest.mark.parametrize("column, names", [("split", (T, V, X)), ("partition", (T, "valid", X))])
def test_a_column_names_the_split(tmp_path: Path, size: int, column: str, names: tuple[str, ...]):
    path = tmp_path / "a.jsonl"
    path.write_text(records(list(names), column, repeat=100, size=size))
    block = {"shuffle_bytes": 100_000}
    assert origins(path, "train", **block) == {T} and origins(path, "validation", **block) == {names[1]}
    source = opened(path, **block)
    assert len(everything(source)) == 100
    left_out = [reason for shard in range(len(source)) for block in source.read(shard) for reason, _ in block.left_out]
    assert left_out == ["test_split"] * 100
    (place,) = source.inventory()
    assert place.split_by == "a column of the records" and place.fields["split"] == column
    assert origins(path, "train", splits="hash", **block) == set(names)
    assert source.fingerprint() != opened(path, splits="hash", **block).fingerprint()


def test_a_column_without_validation_leaves_the_hash(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text(records([T, X], repeat=60))
    train, validation = ({document.text for document in everything(opened(path, split))} for split in (T, V))
    assert train and validation and not train & validation and len(train | validation) == 60
    path.write_text(records(["north", "south"], repeat=60))  # another meaning
    assert len(everything(opened(path, validation_share=0.0))) == 120
    assert opened(path).fingerprint() == opened(path, splits="hash").fingerprint()
