"""Which field of a record is its text, and the settings that name fields."""

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from written_records import FILE_FORMATS, everything, packed, write

from codellama_jax.config import gin_files
from codellama_jax.config.data import Corpus
from codellama_jax.errors import UserError
from tasks import sources
from tasks.sources.filters import TEXT_ONLY
from tasks.sources.records.record_fields import choose_fields

MBPP = {"task_id": "1", "text": "Write a function that adds.", "code": "def add(a, b):\n    return a + b\n"}


def texts(path: Path, stream: str, **settings) -> list[str]:
    corpus = Corpus(**{stream: str(path)}, validation_share=0.0, **settings)
    return [document.text for document in everything(sources.open(str(path), stream, "train", corpus, TEXT_ONLY))]


@pytest.mark.parametrize("form", FILE_FORMATS)
def test_a_code_stream_reads_the_code_and_not_its_description(tmp_path: Path, form: str):
    write(tmp_path / f"mbpp.{form}", packed(form, [MBPP, MBPP]))
    assert texts(tmp_path / f"mbpp.{form}", "code") == texts(tmp_path / f"mbpp.{form}", "python") == [MBPP["code"]] * 2
    assert texts(tmp_path / f"mbpp.{form}", "nl") == [MBPP["text"]] * 2


@pytest.mark.parametrize(
    ("names", "stream", "text", "ignored"),
    [
        (["content", "code", "text"], "code", "content", ("code", "text")),
        (["func_documentation_string", "whole_func_string", "func_code_string"], "code", "func_code_string", None),
        (["docstring", "whole_func_string"], "python", "whole_func_string", ("docstring",)),
        (["text", "source_code", "stars"], "code", "source_code", ("text", "stars")),
        (["title", "body"], "code", "body", ("title",)),
        (["problem", "solution", "text"], "code", "solution", ("problem", "text")),
        (["text", "id"], "code", "text", ("id",)),
        (["code", "text", "url"], "nl", "text", ("code", "url")),
        (["code", "content"], "nl_code", "content", ("code",)),
        (["code"], "nl_code", "code", ()),
    ],
)
def test_the_text_is_the_field_that_public_corpora_use(names: list[str], stream: str, text: str, ignored: tuple | None):
    choice = choose_fields(names, stream, Corpus())
    assert choice.taken["text"] == text
    assert ignored is None or choice.ignored == ignored


def test_the_order_of_the_columns_does_not_matter():
    for names in itertools.permutations(["id", "text", "code", "repo", "path", "lang"]):
        choice = choose_fields(names, "code", Corpus())
        assert choice.taken == {"text": "code", "path": "path", "language": "lang", "repository": "repo"}
        assert choice.ignored == tuple(name for name in names if name in ("id", "text"))


def test_a_null_code_is_blank_and_not_replaced_by_the_description(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [MBPP | {"code": None}, MBPP]))
    assert texts(tmp_path / "a.jsonl", "code") == [MBPP["code"]]


def test_settings_name_the_fields(tmp_path: Path):
    record = {"text": "no", "src": "x = 1", "where": "b.rs", "kind": "go", "home": "o/r", "terms": "MIT", "path": "no"}
    write(tmp_path / "a.jsonl", packed("jsonl", [record]))
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    fields = {"path_field": "where", "language_field": "kind", "repository_field": "home", "licence_field": "terms"}
    for name in ("a.jsonl", "a.parquet"):
        corpus = Corpus(validation_share=0.0, text_field={"code": "src", "nl": "text"}, **fields)
        (document,) = everything(sources.open(str(tmp_path / name), "code", "train", corpus, TEXT_ONLY))
        read = (document.text, document.path, document.language, document.repository, document.licence)
        assert read == ("x = 1", "o/r/b.rs", "Go", "o/r", "MIT")
        assert texts(tmp_path / name, "nl", text_field={"code": "src", "nl": "text"}) == ["no"]
        assert texts(tmp_path / name, "nl_code", text_field={"code": "src"}) == ["no"]


@pytest.mark.parametrize("setting", ["text_field", "path_field", "licence_field"])
def test_a_field_that_a_setting_names_must_exist(tmp_path: Path, setting: str):
    write(tmp_path / "a.jsonl", packed("jsonl", [MBPP]))
    pq.write_table(pa.Table.from_pylist([MBPP]), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(UserError, match=rf"it has no field no_such, the value of Corpus.{setting} \(found: .*code"):
            texts(tmp_path / name, "code", **{setting: "no_such"})


def test_field_settings_are_bound_in_gin():
    corpus = gin_files.load([], ["Corpus.text_field={'code': 'src'}", "Corpus.path_field='p'"]).resolve(Corpus).corpus
    assert (corpus.text_field, corpus.path_field, hash(corpus) == hash(Corpus())) == ({"code": "src"}, "p", False)
    with pytest.raises(UserError, match=r"Corpus.text_field = 5 .*expected a string or a dict of strings or None"):
        gin_files.load([], ["Corpus.text_field=5"]).resolve(Corpus)
    with pytest.raises(UserError, match=r"Corpus.text_field names unknown streams \['kode'\]"):
        gin_files.load([], ["Corpus.text_field={'kode': 'src'}"]).resolve(Corpus)


def test_the_fingerprint_covers_the_field_settings(tmp_path: Path):
    write(tmp_path / "a.jsonl", json.dumps({"a": "1", "b": "2", "path": "p"}).encode())
    corpora = [Corpus(validation_share=0.0, text_field="a", **more) for more in ({}, {"path_field": "b"})]
    corpora += [Corpus(validation_share=0.0, text_field="b"), Corpus(validation_share=0.0, text_field={"code": "a"})]
    found = [sources.open(str(tmp_path), "code", "train", corpus, TEXT_ONLY).fingerprint() for corpus in corpora]
    assert len(set(found)) == 3 and found[0] == found[3]
