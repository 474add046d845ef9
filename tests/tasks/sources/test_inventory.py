"""The places of a corpus: one that yields nothing ends the run, and the inventory says what is read of the others."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from written_folders import USUAL, everything, write

from codellama_jax.config.data import STREAMS, Corpus, Filters
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources import inventory

CORPUS = Corpus(on_damage="skip")
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
GOOD = "".join(json.dumps({"content": f"x = {i}\n", "id": i, "repo": "r", "stars": 1}) + "\n" for i in range(40))


@pytest.mark.parametrize(
    "content, path, reason",
    [
        ({"a/b.pdf": "{}", "a/c.pdf": "{}", "d.vue2": "x"}, "place", "it holds 2 .pdf, 1 .vue2"),
        ({"a.x": "x", "notes": "x"}, "place", "it holds 1 .x, 1 no extension"),
        ({"a.ipynb": "{}"}, "place", "no usable file for train; left out: 1 damaged"),
        ({"a.json": "{}"}, "place", "no usable document for train in 1 file; left out: 1 damaged"),
        ({}, "place", "it is empty"),
        ({".a.py": "x\n"}, "place", "it is empty"),
        ({"vendor/a.py": "x\n"}, "place", r"it holds 1 ignored \(Filters.ignore\)"),
        ({"a.py": " \n", "b.py": " "}, "place", "no usable file for train; left out: 1 blank"),
        ({"a.py": "# " + "x" * 2000}, "place", r"left out: 1 long_line \(Filters.longest_line\)"),
        ({"a.jsonl": '{"text": " "}\n' * 3}, "place/a.jsonl", "no usable document for train in 1 file; left out: 3"),
        ({"a.jsonl": ""}, "place/a.jsonl", "no usable document for train in 1 file; there are no records"),
        ({"a.json": "[]"}, "place/a.json", "no usable document for train in 1 file; there are no records"),
        ({"a.csv": "content,id\n"}, "place", "no usable document for train in 1 file; there are no records"),
        ({"a.jsonl": '{"content": null, "code": "x"}\n'}, "place/a.jsonl", "1 blank; the text is the field content"),
        ({"a.jsonl": POINTER, "b.jsonl": POINTER}, "place", r"left out: 2 lfs_pointer \(run `git lfs pull`"),
        ({"a.jsonl": '{"content": {"a": "b"}}\n', "b.jsonl": ""}, "place", "left out: 1 damaged"),
        ({"a.jsonl": "no\n" * 3}, "place/*.jsonl", "left out: 3 damaged"),
        ({"a.parquet": "no"}, "place/a.parquet", "left out: 1 damaged"),
        ({"a.py": "x\n"}, "place/*.py", "the pattern matches no record file .*; it matches 1 .py"),
        ({"a.py": "x\n"}, "place/a.py", "the file name has no extension of a record file"),
        ({"validation.jsonl": GOOD}, "place", "no file for train: all of its files are for validation"),
        ({"test.jsonl": GOOD}, "place", "it has only files for testing"),
        ({"a.jsonl": GOOD.replace('"repo"', '"split": "test", "x"')}, "place", "left out: 40 test_split"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_place_without_documents_ends_the_run_with_its_name_and_the_reason(
    tmp_path: Path, content: dict, path: str, reason: str, first: bool
):
    write(tmp_path, {"good/a.py": "x = 1\n", "good/b.py": "y = 1\n"} | {f"place/{at}": c for at, c in content.items()})
    (tmp_path / "place").mkdir(exist_ok=True)
    places = [str(tmp_path / path), str(tmp_path / "good")]
    with pytest.raises(UserError, match=reason) as error:
        sources.open(places if first else places[::-1], "code", "train", CORPUS, USUAL)
    assert f"CODE_CORPUS={tmp_path}/{path}" in str(error.value) and "\n" not in str(error.value)


def test_the_inventory_of_a_folder(tmp_path: Path):
    files = {f"{i}.py": f"x = {i}\n" for i in range(60)} | {f"c/{i}.c": "int a;\n" for i in range(3)}
    files |= {"a.pdf": "{}", "b.PDF": "{}", "x.tar.gz": "", "README.md": "#\n", "vendor/a.py": "x\n"}
    write(tmp_path, files)
    (tmp_path / "gone.py").symlink_to("nowhere")
    (place,) = sources.open(str(tmp_path), "code", "train", Corpus(validation_share=0.3), USUAL).inventory()
    (other,) = sources.open(str(tmp_path), "code", "validation", Corpus(validation_share=0.3), USUAL).inventory()
    assert (place.stream, place.place, place.kind) == ("code", str(tmp_path), "text files")
    assert place.read == {".py": 60, ".c": 3} and place.bytes == sum(map(len, list(files.values())[:63]))
    assert place.not_read == {".pdf": 2, ".tar.gz": 1, ".md": 1} and place.left_out == {"ignored": 1}
    assert place.splits == other.splits and sum(place.splits.values()) == 63
    assert place.documents == 1 and "links to nothing: gone.py" in place.notes
    lines = inventory.lines(place)
    assert lines[0].startswith(f"code: {tmp_path}: text files; 63 files (60 .py, 3 .c), ")
    assert "  not read: 2 .pdf, 1 .md, 1 .tar.gz" in lines
    assert "  left out: 1 ignored (Filters.ignore)" in lines
    assert json.loads(json.dumps(place.as_json()))["lines"] == lines


def test_the_inventory_of_records_names_the_columns(tmp_path: Path):
    write(tmp_path, {"a.jsonl": GOOD, "b.jsonl": "", "notes.txt": "x\n", "c.csv2": "x"})
    (place,) = sources.open(str(tmp_path), "code", "train", Corpus(), USUAL).inventory()
    assert place.kind == "records" and place.read == {".jsonl": 2} and place.bytes == len(GOOD)
    assert place.fields == {"text": "content", "repository": "repo"} and place.ignored_fields == ("id", "stars")
    assert (place.documents, place.scope) == (40, "in both splits")
    assert place.not_read == {".txt": 1, ".csv2": 1} and place.notes == ("empty: b.jsonl",)
    assert "  fields: text from content, repository from repo; ignored: id, stars" in inventory.lines(place)


@pytest.mark.parametrize(
    "content, taken, ignored",
    [
        ({"a.csv": "id,content,lang\n1,x,C\n"}, {"text": "content", "language": "lang"}, ("id",)),
        ({"a.jsonl": '{"code": "x", "n": 1}\n{"text": "y"}\n'}, {"text": "code or text"}, ("n",)),
        ({"a.jsonl": '{"code": "x"}\n', "b.csv": "body,code,text\ny,,\n"}, {"text": "code"}, ("body", "text")),
        (
            {"a.jsonl": '{"repo": "r", "files": [{"path": "a.c", "content": "x"}, {"path": "b.c", "text": "y"}]}\n'},
            {"text": "content or text", "path": "path", "repository": "repo"},
            (),
        ),
    ],
)
def test_the_inventory_names_every_field_that_a_text_is_taken_from(
    tmp_path: Path, content: dict, taken: dict, ignored: tuple
):
    write(tmp_path, content)
    corpus = Corpus(validation_share=0.0)
    (place,) = sources.open(f"{tmp_path}/*", "code", "train", corpus, USUAL).inventory()
    assert (place.fields, place.ignored_fields) == (taken, ignored)


@pytest.mark.parametrize("extension", ["csv", "csv.gz", "parquet", "arrow"])
def test_the_inventory_names_columns_that_are_not_selected(tmp_path: Path, extension: str):
    """Tables are read by column, so that their records have only those that are read."""
    file = tmp_path / f"a.{extension}"
    table = pa.table({"code": ["x = 1"] * 9, "lang": ["Python"] * 9, "stars": [3] * 9})
    if extension == "parquet":
        pq.write_table(table, file)
    elif extension == "arrow":
        feather.write_feather(table, file, compression="uncompressed")
    else:
        with pa.output_stream(str(file)) as stream:  # compressed by its extension
            pacsv.write_csv(table, stream)
    (place,) = sources.open(str(file), "code", "train", Corpus(), USUAL).inventory()
    assert place.fields == {"text": "code", "language": "lang"} and place.ignored_fields == ("stars",)


def test_the_inventory_of_a_list_has_each_place_and_maps_shards_to_them(tmp_path: Path):
    write(tmp_path, {"one/a.py": "a\n", "one/b.py": "b\n", "two/c.py": "c\n"})
    paths = [str(tmp_path / name) for name in ("one", "two")]
    source = sources.open(paths, "code", "train", Corpus(validation_share=0.0), USUAL)
    assert [place.place for place in source.inventory()] == paths
    assert [source.place(shard) for shard in range(len(source))] == [0, 0, 1]
    assert [document.path for document in everything(source)] == ["a.py", "b.py", "c.py"]


def test_the_embedded_corpus_takes_one_line_for_each_stream():
    for stream in STREAMS:
        (place,) = sources.open(None, stream, "train", Corpus(), Filters()).inventory()
        (line,) = inventory.lines(place)
        assert line.startswith(f"{stream}: None: text that comes with Python 3") and place.files > 1


def test_lines_are_short_however_much_there_is():
    place = inventory.PlaceInventory("code", "here", "records", not_read={f".{i}": 1 for i in range(40)})
    place = dataclasses.replace(place, fields={"text": "text"}, ignored_fields=tuple(f"column{i}" for i in range(40)))
    first, fields, not_read = inventory.lines(place)
    assert first == "code: here: records" and fields.endswith("column11 and 28 more")
    assert not_read.endswith("1 .19, 28 others")
