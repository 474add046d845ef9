"""Records that are repositories, as in The Stack v2."""

from pathlib import Path

import pytest
from written_records import blocks, everything, left_out, one_line, opened, packed, write

from codellama_jax.errors import UserError


def repositories(text: str = "content") -> list[dict]:
    return [
        {
            "repo_name": f"o/r{number}",
            "star_events_count": number,
            "files": [
                {
                    "path": f"/src/f{index}.{'py' if index else 'c'}",
                    text: f"x = {number}{index}\n",
                    "language": language,
                }
                for index, language in enumerate(("C", "Python", None))
            ],
        }
        for number in range(20)
    ]


@pytest.mark.parametrize("text", ["content", "text"])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "parquet", "arrow"])
def test_each_file_of_a_repository_is_a_document(tmp_path: Path, form: str, text: str):
    write(tmp_path / f"a.{form}", packed(form, repositories(text)))
    path = tmp_path / f"a.{form}"
    documents = everything(opened(path, validation_share=0.0))
    assert [document.text for document in documents] == [f"x = {n}{i}\n" for n in range(20) for i in range(3)]
    assert [(d.path, d.repository, d.language) for d in documents[:3]] == [
        ("o/r0/src/f0.c", "o/r0", "C"),
        ("o/r0/src/f1.py", "o/r0", "Python"),
        ("o/r0/src/f2.py", "o/r0", "Python"),
    ]
    assert len(everything(opened(path, name="python", validation_share=0.0))) == 40
    splits = [{d.repository for d in everything(opened(path, split))} for split in ("train", "validation")]
    assert all(splits) and not splits[0] & splits[1] and len(splits[0] | splits[1]) == 20
    joined = everything(opened(path, validation_share=0.0, group_by_repository=True))
    assert len(joined) == 20 and joined[0].text.startswith("# src/f0.c\nx = 00\n# src/f1.py\n")
    source = opened(path, validation_share=0.0, shuffle_bytes=100)
    complete = blocks(source)
    assert [block for shard in range(len(source)) for block in source.read(shard, 0)] == complete


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("in_files", [True, False])
def test_ids_without_content_are_refused_with_the_remedy(tmp_path: Path, form: str, in_files: bool):
    ids = [{"blob_id": "0123", "path": "/a.py", "language": "Python"}]
    records = [{"repo_name": "o/r", "files": ids}] if in_files else ids
    write(tmp_path / f"a.{form}", packed(form, records))
    with pytest.raises(UserError, match="blob_id") as error:
        opened(tmp_path / f"a.{form}", validation_share=0.0)
    one_line(error)
    assert "download each file from s3://softwareheritage/content/BLOB_ID" in str(error.value)
    for name, settings in (("source_code", {}), ("src", {"text_field": "src"})):  # the content has another name
        ids[0] = {"blob_id": "0123", "path": "/a.py", name: "x = 1\n"}
        write(tmp_path / f"a.{form}", packed(form, [{"repo_name": "o/r", "files": ids}] if in_files else ids))
        (document,) = everything(opened(tmp_path / f"a.{form}", validation_share=0.0, **settings))
        assert document.text == "x = 1\n"


def test_a_record_with_its_own_text_is_not_a_repository(tmp_path: Path):
    records = [{"content": "a", "files": [{"content": "b"}]}, {"files": ["a.py"]}, {"files": []}]
    write(tmp_path / "a.jsonl", packed("jsonl", records))
    source = opened(tmp_path, validation_share=0.0, on_damage="skip")
    assert [document.text for document in everything(source)] == ["a"]
    assert left_out(source) == {"damaged": 1}  # an empty repository has no files, and is no damage
