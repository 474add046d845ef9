"""Record files as sources: the properties of every format, and splits."""

from pathlib import Path

import pytest
from written_records import (
    FILE_FORMATS,
    FORMATS,
    LIMIT,
    blocks,
    codes,
    everything,
    one_line,
    opened,
    packed,
    talks,
    write,
    written,
)

from codellama_jax.config.data import Filters
from codellama_jax.errors import UserError
from tasks.sources.base import Dialogue


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("form", FORMATS)
def test_splits_are_a_partition_and_a_repository_is_in_one_split(corpora: dict, form: str):
    splits = [everything(opened(corpora[form], split)) for split in ("train", "validation")]
    texts = [document.text for documents in splits for document in documents]
    assert sorted(texts) == sorted(record["content"] for record in codes())
    repositories = [{document.repository for document in documents} for documents in splits]
    assert not repositories[0] & repositories[1] and len(repositories[0] | repositories[1]) == 60
    assert 5 < len(repositories[1]) < 35
    # the hash of the repository decides, independently of the file and its format
    assert repositories[1] == {d.repository for d in everything(opened(corpora["jsonl"], "validation"))}


@pytest.mark.parametrize("form", FORMATS)
def test_blocks_can_be_skipped_and_have_about_the_configured_size(corpora: dict, form: str):
    source = opened(corpora[form], validation_share=0.0)
    for shard in range(len(source)):
        complete = list(source.read(shard))
        for skip in range(len(complete) + 2):
            assert list(source.read(shard, skip)) == complete[skip:]
    sizes = [sum(len(document.text.encode()) for document in block.items) for block in blocks(source)]
    assert max(sizes) < 2 * LIMIT
    assert len(sizes) < 3 * sum(sizes) / LIMIT
    assert len(source) == {"jsonl": len(sizes), "parquet": 9}.get(form, 3)


@pytest.mark.parametrize("form", FORMATS)
def test_the_fingerprint_covers_everything_that_decides_the_documents(corpora: dict, form: str):
    one, two = opened(corpora[form]), opened(corpora[form])
    assert blocks(one) == blocks(two)
    fingerprints = [one.fingerprint()]
    assert fingerprints == [two.fingerprint()]
    changes = [{"split": "validation"}, {"name": "nl"}, {"settings": Filters()}, {"validation_share": 0.5}]
    changes += [{"shuffle_bytes": 99}, {"document_characters": 9}, {"group_by_repository": True}]
    fingerprints += [opened(corpora[form], **change).fingerprint() for change in changes]
    assert len(set(fingerprints)) == 8
    # a run that stopped at damage resumes with "skip"
    assert opened(corpora[form], on_damage="skip").fingerprint() == fingerprints[0]


@pytest.mark.parametrize("form", FILE_FORMATS)
def test_remote_files_are_read_like_local_ones(corpora: dict, form: str):
    folder = f"ram://remote_{form}"
    written(form, folder, codes())
    local = opened(corpora[form])
    for path in (folder, f"{folder}/", f"{folder}/part*.{form}"):
        remote = opened(path)
        assert everything(remote) == everything(local)
        assert remote.fingerprint() == local.fingerprint()
    alone = everything(opened(f"{folder}/part1.{form}"))
    assert alone and alone == everything(opened(f"{corpora[form]}/part1.{form}"))


@pytest.mark.parametrize("form", FORMATS)
def test_dialogues_are_messages_or_prompt_and_completion(tmp_path: Path, form: str):
    messages = talks()
    pairs = [{"prompt": f"How é {i}?", "completion": "So."} for i in range(40)]
    for number, records in enumerate((messages, pairs)):
        path = written(form, tmp_path / f"talks{number}", records)
        splits = [everything(opened(path, split, "instruct")) for split in ("train", "validation")]
        assert all(splits) and all(isinstance(dialogue, Dialogue) for dialogue in splits[0])
        read = sorted((dialogue.messages for dialogues in splits for dialogue in dialogues), key=str)
        assert read == sorted((m["messages"][: 2 + 2 * (number == 0)] for m in messages), key=str)
        assert len({dialogue.path for dialogues in splits for dialogue in dialogues}) == 40


@pytest.mark.parametrize("form", FORMATS)
def test_a_corpus_of_blank_records_is_rejected(tmp_path: Path, form: str):
    path = written(form, tmp_path / "blank", [{"content": " \n"}] * 7)
    with pytest.raises(UserError, match=r"no usable document for train in 3 files; left out: \d blank") as error:
        opened(path)
    assert f"Corpus.code / --gin.CODE_CORPUS={path}" in one_line(error)


def test_repositories_are_grouped_and_documents_are_cut(tmp_path: Path):
    named = [("r", "a.py", "a = 1\n"), ("r", "b.c", "int b;"), ("", "", "alone"), ("s", "c.py", "c = 1\n")]
    write(tmp_path / "a.jsonl", packed("jsonl", [{"repo": r, "path": p, "text": t} for r, p, t in named]))
    grouped = everything(opened(tmp_path, validation_share=0.0, group_by_repository=True))
    assert [document.text for document in grouped] == ["# a.py\na = 1\n# b.c\nint b;\n", "alone", "# c.py\nc = 1\n"]
    assert [(document.path, document.language) for document in grouped[::2]] == [("r/a.py", ""), ("s/c.py", "Python")]
    cut = everything(opened(tmp_path, validation_share=0.0, group_by_repository=True, document_characters=12))
    assert "".join(d.text for d in cut) == "".join(d.text for d in grouped) and cut[0].path == "r/a.py#1"
    with pytest.raises(UserError, match="document_characters=0"):
        opened(tmp_path, document_characters=0)


# --- splits -----------------------------------------------------------------------------------------------------------


def test_neither_split_of_a_small_corpus_is_empty(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": "a"}, {"text": " "}, {"text": "b"}]))
    for share in (1e-9, 0.5, 1 - 1e-9):
        splits = [everything(opened(tmp_path, split, validation_share=share)) for split in ("train", "validation")]
        assert sorted(document.text for documents in splits for document in documents) == ["a", "b"]
        assert len(splits[0]) == 1


@pytest.mark.parametrize(
    "records, share, reason",
    [
        ([{"text": "a"}], 0.5, "there is only one file or record"),
        ([{"text": "a", "repo": "r"}, {"text": "b", "repo": "r"}], 0.5, "there is only one repository"),
        ([{"text": "a"}, {"text": "b"}], 0.0, "Corpus.validation_share is 0"),
    ],
)
def test_an_empty_validation_split_names_the_reason(tmp_path: Path, records: list, share: float, reason: str):
    write(tmp_path / "a.jsonl", packed("jsonl", records))
    assert len(everything(opened(tmp_path, validation_share=share))) == len(records)
    with pytest.raises(UserError, match=f"validation is empty, since {reason}") as error:
        opened(tmp_path, "validation", validation_share=share)
    assert f"--gin.CODE_CORPUS={tmp_path}" in one_line(error)


def test_unknown_splits_and_invalid_shares_are_rejected(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": "a"}, {"text": "b"}]))
    with pytest.raises(ValueError, match="train, validation"):
        opened(tmp_path, "test")
    with pytest.raises(UserError, match=r"validation_share=1.5"):
        opened(tmp_path, validation_share=1.5)
