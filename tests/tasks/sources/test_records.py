"""Files of records as sources: the same laws for every format, what is recognised in a record, and damage."""

import collections
import gzip
import io
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from codellama_jax.config.data import Corpus, Filters
from codellama_jax.errors import UserError
from tasks.sources import records as records_module
from tasks.sources.folder import ANY, Block, Dialogue, items
from tasks.sources.records import is_record_file, open_records

FILE_FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "tfrecord")
FORMATS = (*FILE_FORMATS, "tfds")
LIMIT = 2000


# --- writing ----------------------------------------------------------------------------------------------------------


def packed(form: str, records: list[dict]) -> bytes:
    """A file of records."""
    if form == "parquet":
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(records), buffer, row_group_size=17, compression="zstd")
        return buffer.getvalue().to_pybytes()
    if form == "tfrecord":
        return framed([example(record) for record in records])
    lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records]
    if form == "jsonl":
        return b"".join(lines)
    # two members or frames, as programs that write in parallel leave them
    halves = b"".join(lines[: len(lines) // 2]), b"".join(lines[len(lines) // 2 :])
    if form == "jsonl.gz":
        return b"".join(gzip.compress(half, mtime=0) for half in halves)
    return b"".join(pa.Codec("zstd").compress(half, asbytes=True) for half in halves)


def example(record: dict) -> bytes:
    features = {}
    for name, value in record.items():
        values = value if isinstance(value, list) and name != "messages" else [value]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text.encode() for text in texts]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def framed(examples: list[bytes]) -> bytes:
    """A file of TFRecord."""
    with tempfile.NamedTemporaryFile() as file:
        with tf.io.TFRecordWriter(file.name) as writer:
            for serialized in examples:
                writer.write(serialized)
        return file.read()


def write(location: str | Path, data: bytes) -> None:
    location = str(location)
    tf.io.gfile.makedirs(location.rpartition("/")[0])
    with tf.io.gfile.GFile(location, "wb") as file:
        file.write(data)


def prepare(folder: Path, records: list[dict], **config) -> str:
    """A dataset that TFDS has prepared, in three shards or so; its place."""

    class Recorded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            kinds = {name: tfds.features.Text() for name in records[0]}
            kinds |= {n: tfds.features.Sequence(kinds[n]) for n, v in records[0].items() if n == "licenses"}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(kinds))

        def _split_generators(self, _):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for number, record in enumerate(records):
                yield number, {n: json.dumps(v) if n == "messages" else v for n, v in record.items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs_utils, "_is_gcs_disabled", True)
        builder = Recorded(data_dir=str(folder), **config)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))
    return f"tfds:recorded?data_dir={folder}"


def written(form: str, folder: str | Path, records: list[dict]) -> str:
    """The records in three files, or prepared by TFDS; the place."""
    if form == "tfds":
        return prepare(Path(folder), records)
    third = -(-len(records) // 3)
    for number in range(3):
        write(f"{folder}/part{number}.{form}", packed(form, records[number * third : (number + 1) * third]))
    return str(folder)


def codes(number: int = 150) -> list[dict]:
    """Files of The Stack, two or three of each repository."""
    random_ = random.Random(7)
    return [
        {
            "content": f"é = {i}\n" + "print('line')\n" * random_.randrange(40),
            "max_stars_repo_path": f"src/m{i}.py",
            "max_stars_repo_name": f"org{i * 2 // 5 % 3}/repo{i * 2 // 5}",
            "licenses": ["MIT", "BSD-3-Clause"],
            "lang": "Python",
        }
        for i in range(number)
    ]


def talks(number: int = 40) -> list[dict]:
    turns = [("user", "How é {}?"), ("assistant", "So."), ("user", "Why?"), ("assistant", "")]
    return [{"messages": [{"role": r, "content": c.format(i)} for r, c in turns]} for i in range(number)]


# --- reading ----------------------------------------------------------------------------------------------------------


def opened(place: str | Path, split: str = "train", name: str = "code", settings: Filters = ANY, **corpus):
    corpus = {"validation_share": 0.3, "shuffle_bytes": LIMIT} | corpus
    return open_records(str(place), split, name=name, corpus=Corpus(**corpus), settings=settings)


def everything(source) -> list:
    return [item for piece in range(len(source)) for item in items(source, piece)]


def blocks(source) -> list[Block]:
    return [block for piece in range(len(source)) for block in source.read(piece)]


def left_out(source) -> collections.Counter:
    return collections.Counter(reason for block in blocks(source) for reason, _ in block.left_out)


def one_line(refusal) -> str:
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    """Format -> place of the same records."""
    return {form: written(form, tmp_path_factory.mktemp("corpus") / form, codes()) for form in FORMATS}


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch) -> None:
    """Corpora taken for small, whose records are looked through first, and for large ones."""
    if request.param == "large":
        monkeypatch.setattr(records_module, "SMALL", -1)


# --- laws of all formats ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("form", FORMATS)
def test_the_splits_are_all_records_once_and_a_repository_is_on_one_side(corpora: dict, form: str):
    sides = [everything(opened(corpora[form], split)) for split in ("train", "validation")]
    texts = [document.text for side in sides for document in side]
    assert sorted(texts) == sorted(record["content"] for record in codes())
    repositories = [{document.repository for document in side} for side in sides]
    assert not repositories[0] & repositories[1] and len(repositories[0] | repositories[1]) == 60
    assert 5 < len(repositories[1]) < 35
    # a hash of the repository decides: in which file and format it is does not matter
    assert repositories[1] == {d.repository for d in everything(opened(corpora["jsonl"], "validation"))}


@pytest.mark.parametrize("form", FORMATS)
def test_blocks_can_be_passed_over_and_are_of_about_the_size_asked_for(corpora: dict, form: str):
    source = opened(corpora[form], validation_share=0.0)
    for piece in range(len(source)):
        whole = list(source.read(piece))
        for skip in range(len(whole) + 2):
            assert list(source.read(piece, skip)) == whole[skip:]
    sizes = [sum(len(document.text.encode()) for document in block.items) for block in blocks(source)]
    assert max(sizes) < 2 * LIMIT
    assert len(sizes) < 3 * sum(sizes) / LIMIT
    assert len(source) == {"jsonl": len(sizes), "parquet": 9}.get(form, 3)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_read_is_a_function_of_what_the_fingerprint_tells(corpora: dict, form: str):
    one, two = opened(corpora[form]), opened(corpora[form])
    assert blocks(one) == blocks(two)
    fingerprints = [one.fingerprint()]
    assert fingerprints == [two.fingerprint()]
    changes = [{"split": "validation"}, {"name": "nl"}, {"settings": Filters()}, {"validation_share": 0.5}]
    changes += [{"shuffle_bytes": 99}, {"document_characters": 9}, {"group_by_repository": True}]
    fingerprints += [opened(corpora[form], **change).fingerprint() for change in changes]
    assert len(set(fingerprints)) == 8
    # a run that damage ended goes on with "skip"
    assert opened(corpora[form], on_damage="skip").fingerprint() == fingerprints[0]


@pytest.mark.parametrize("form", FILE_FORMATS)
def test_remote_files_are_read_like_local_ones(corpora: dict, form: str):
    folder = f"ram://remote_{form}"
    written(form, folder, codes())
    local = opened(corpora[form])
    for place in (folder, f"{folder}/", f"{folder}/part*.{form}"):
        remote = opened(place)
        assert everything(remote) == everything(local)
        assert remote.fingerprint() == local.fingerprint()
    alone = everything(opened(f"{folder}/part1.{form}"))
    assert alone and alone == everything(opened(f"{corpora[form]}/part1.{form}"))


@pytest.mark.parametrize("form", FORMATS)
def test_dialogues_are_messages_or_prompt_and_completion(tmp_path: Path, form: str):
    messages = talks()
    pairs = [{"prompt": f"How é {i}?", "completion": "So."} for i in range(40)]
    for number, records in enumerate((messages, pairs)):
        place = written(form, tmp_path / f"talks{number}", records)
        sides = [everything(opened(place, split, "instruct")) for split in ("train", "validation")]
        assert all(sides) and all(isinstance(dialogue, Dialogue) for dialogue in sides[0])
        read = sorted((dialogue.messages for side in sides for dialogue in side), key=str)
        assert read == sorted((m["messages"][: 2 + 2 * (number == 0)] for m in messages), key=str)
        assert len({dialogue.path for side in sides for dialogue in side}) == 40


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_but_blank_records_is_no_corpus(tmp_path: Path, form: str):
    place = written(form, tmp_path / "blank", [{"content": " \n"}] * 7)
    with pytest.raises(UserError, match=r"no usable document for train in 3 files; left out: \d blank") as refusal:
        opened(place)
    assert f"Corpus.code / --gin.CODE_CORPUS={place}" in one_line(refusal)


# --- plain JSON lines -------------------------------------------------------------------------------------------------


def test_lines_are_read_once_wherever_the_file_is_cut(tmp_path: Path):
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
        assert all(len(list(source.read(piece))) <= 1 for piece in range(len(source)))


@pytest.mark.usefixtures("size")
def test_the_split_does_not_depend_on_how_a_file_is_cut(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": f"text {i}"} for i in range(200)]))
    sides = [{d.text for d in everything(opened(tmp_path, "validation", shuffle_bytes=n))} for n in (7, 100, 1 << 20)]
    assert sides[0] == sides[1] == sides[2] and 20 < len(sides[0]) < 100


def test_documents_are_named_by_line_or_where_it_begins_and_people_are_told_the_line(tmp_path: Path):
    lines = packed("jsonl", [{"text": f"text {i}"} for i in range(8)] + [{"text": " "}])
    write(tmp_path / "a" / "b.jsonl", lines)
    begins = [i for i in range(len(lines)) if i == 0 or lines[i - 1 : i] == b"\n"]
    source = opened(tmp_path, validation_share=0.0, shuffle_bytes=begins[3])
    paths = [document.path for document in everything(source)]
    assert paths == [f"a/b.jsonl:{i}" for i in (1, 2, 3)] + [f"a/b.jsonl@{begin}" for begin in begins[3:8]]
    ((reason, place),) = [entry for block in blocks(source) for entry in block.left_out]
    assert (reason, str(place)) == ("blank", "a/b.jsonl:9")
    (tmp_path / "a" / "b.jsonl").unlink()
    assert str(place) == f"a/b.jsonl@{begins[8]}"


def test_a_large_file_is_opened_without_being_read(tmp_path: Path):
    with open(tmp_path / "large.jsonl", "wb") as file:
        file.write(packed("jsonl", codes(30)))
        file.truncate(1 << 40)  # a hole: no disk holds it, and no list of pieces does
    source = opened(tmp_path / "large.jsonl", validation_share=0.0, shuffle_bytes=1 << 10)
    assert len(source) == 1 << 30
    assert list(source.read(0)) and not list(source.read(1 << 29))


def test_plain_lines_need_neither_tensorflow_nor_arrow(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", codes(5)))
    program = """if True:
        import sys
        from codellama_jax.config.data import Corpus, Filters
        from tasks.sources.records import open_records
        source = open_records(sys.argv[1], "train", name="code", corpus=Corpus(), settings=Filters())
        assert list(source.read(0))
        print({"tensorflow", "tensorflow_datasets", "pyarrow"} & set(sys.modules))"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert ran.stdout == "set()\n"


# --- what is in a record ----------------------------------------------------------------------------------------------


def only(tmp_path: Path, record: dict, **options):
    write(tmp_path / "one.jsonl", packed("jsonl", [record]))
    (document,) = everything(opened(tmp_path, validation_share=0.0, **options))
    return document.path, document.language, document.repository, document.licence


@pytest.mark.parametrize("form", FORMATS)
def test_columns_of_the_stack_are_recognised_in_every_format(corpora: dict, form: str):
    document = next(d for d in everything(opened(corpora[form], validation_share=0.0)) if d.text.startswith("é = 9\n"))
    found = (document.path, document.language, document.repository, document.licence)
    assert found == ("org0/repo3/src/m9.py", "Python", "org0/repo3", "MIT, BSD-3-Clause")


def test_columns_of_corpora_are_recognised(tmp_path: Path):
    stack = {"max_stars_repo_path": "a/b.rs", "max_stars_repo_name": "o/r", "max_stars_repo_licenses": ["MIT", "X"]}
    assert only(tmp_path, {"content": "x", "lang": "C++"} | stack) == ("o/r/a/b.rs", "C++", "o/r", "MIT, X")
    starcoder = {"max_stars_repo_path": "a/b.rs", "max_stars_repo_name": "o/r", "max_stars_count": 5, "id": "9"}
    assert only(tmp_path, {"content": "x"} | starcoder) == ("o/r/a/b.rs", "Rust", "o/r", "")
    v2 = {"path": "/a/b.go", "repo_name": "o/r", "language": "Go", "detected_licenses": ["MIT"], "license": None}
    assert only(tmp_path, {"content": "x"} | v2) == ("o/r/a/b.go", "Go", "o/r", "MIT")
    assert only(tmp_path, {"text": "x", "path": "r/b.h", "repo": "r"}) == ("r/b.h", "C", "r", "")
    assert only(tmp_path, {"code": "x", "file_name": "", "repository": {"id": 1}}) == ("one.jsonl:1", "", "", "")
    half = {"text": "x", "path": "\ud800.zig"}
    write(tmp_path / "one.jsonl", json.dumps(half).encode())
    assert everything(opened(tmp_path, validation_share=0.0))[0].path == "?.zig"


def test_names_of_languages_are_those_we_know(tmp_path: Path):
    names = {"c-sharp": "C#", "CPP": "C++", "javascript": "JavaScript", "ts": "TypeScript", "bash": "Shell"}
    names |= {"GO": "Go", "sql": "SQL", "Brainfuck": "Brainfuck", "": "Lua"}
    for name, language in names.items():
        assert only(tmp_path, {"text": "x", "language": name, "path": "a.lua"})[1] == language


def test_filters_count_what_they_leave_out(tmp_path: Path):
    lines = [
        json.dumps({"text": text, "lang": "Ruby"}).encode()
        for text in ("a\n", "b\n", "c\n", "# This file is generated by x\n")
    ]
    lines += [
        json.dumps({"text": text, "lang": "Ruby"}).encode() for text in ("x" * 60, "x\0", "é" * 40, " ", "\ud800")
    ]
    lines += [json.dumps(record).encode() for record in ({"text": "no", "lang": "Lua"}, {"text": None})]
    write(tmp_path / "a.jsonl", b"\n".join(lines))
    settings = Filters(longest_bytes=70, longest_line=50, languages=("Ruby",))
    source = opened(tmp_path, settings=settings, validation_share=0.0)
    assert [document.text for document in everything(source)] == ["a\n", "b\n", "c\n"]
    expected = {"generated": 1, "long_line": 1, "binary": 1, "too_large": 1, "blank": 2, "not_utf8": 1, "language": 1}
    assert left_out(source) == expected
    both = left_out(opened(tmp_path, settings=settings)) + left_out(opened(tmp_path, "validation", settings=settings))
    assert sum(both.values()) == 8  # each on one side
    prose = opened(tmp_path, name="nl", settings=settings, validation_share=0.0)
    assert left_out(prose) == {"binary": 1, "too_large": 1, "blank": 2, "not_utf8": 1}


def test_text_that_is_not_utf8_is_left_out_in_every_format(tmp_path: Path):
    texts = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.binary())
    for kind in (pa.string(), pa.binary()):
        column = pa.Array.from_buffers(kind, 3, texts.buffers())
        pq.write_table(pa.table({"text": column}), tmp_path / f"{kind}.parquet")
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for text in (b"good", b"\xff\xfe", b"fine"):
            value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"text": value})).SerializeToString())
    for place in ("string.parquet", "binary.parquet", "a.tfrecord"):
        source = opened(tmp_path / place, validation_share=0.0)
        assert [document.text for document in everything(source)] == ["good", "fine"]
        assert left_out(source) == {"not_utf8": 1}


def test_the_python_stream_keeps_python(tmp_path: Path):
    languages = {"a": "python", "b": "Ruby", "c": "Jupyter Notebook", "d": None}
    records = [{"text": text, "lang": language} for text, language in languages.items()]
    records += [{"text": "e", "path": "e.PY"}, {"text": "f", "path": "f.c"}]
    write(tmp_path / "a.jsonl", packed("jsonl", records))
    source = opened(tmp_path, name="python", validation_share=0.0)
    assert [(d.text, d.language) for d in everything(source)] == [("a", "Python"), ("d", ""), ("e", "Python")]
    assert left_out(source) == {"language": 3}


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


def test_small_corpora_have_two_sides(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": "a"}, {"text": " "}, {"text": "b"}]))
    for share in (1e-9, 0.5, 1 - 1e-9):
        sides = [everything(opened(tmp_path, split, validation_share=share)) for split in ("train", "validation")]
        assert sorted(document.text for side in sides for document in side) == ["a", "b"]
        assert len(sides[0]) == 1


@pytest.mark.parametrize(
    "records, share, reason",
    [
        ([{"text": "a"}], 0.5, "there is only one file or record"),
        ([{"text": "a", "repo": "r"}, {"text": "b", "repo": "r"}], 0.5, "there is only one repository"),
        ([{"text": "a"}, {"text": "b"}], 0.0, "Corpus.validation_share is 0"),
    ],
)
def test_no_validation_says_why(tmp_path: Path, records: list, share: float, reason: str):
    write(tmp_path / "a.jsonl", packed("jsonl", records))
    assert len(everything(opened(tmp_path, validation_share=share))) == len(records)
    with pytest.raises(UserError, match=f"left for validation, since {reason}") as refusal:
        opened(tmp_path, "validation", validation_share=share)
    assert f"--gin.CODE_CORPUS={tmp_path}" in one_line(refusal)


def test_splits_and_shares_are_checked(tmp_path: Path):
    write(tmp_path / "a.jsonl", packed("jsonl", [{"text": "a"}, {"text": "b"}]))
    with pytest.raises(ValueError, match="train, validation"):
        opened(tmp_path, "test")
    with pytest.raises(UserError, match=r"validation_share=1.5"):
        opened(tmp_path, validation_share=1.5)


# --- places -----------------------------------------------------------------------------------------------------------


def test_names_of_files_of_records():
    good = "a.jsonl a.json a.NDJSON a.json.gz a.jsonl.zst a.jsonl.zstd a.parquet a.tfrecord a-b.tfrecord-00003-of-00010"
    bad = "a.py a.gz jsonl a.jsonl.xz a.parquet.gz a.tfrecord.gz a.tfrecord-00003 a.jsonl.bak a.tfrecord-1-of-2.tmp"
    assert all(map(is_record_file, good.split())) and not any(map(is_record_file, bad.split()))


def test_folders_and_patterns_take_files_of_records(tmp_path: Path):
    for path in ("a.jsonl", "deep/er/b.json", "deep/c.txt", ".hidden.jsonl", "min/d.jsonl", "[x].jsonl"):
        write(tmp_path / path, packed("jsonl", [{"text": path}]))
    write(tmp_path / "e.parquet", packed("parquet", [{"text": "e.parquet"}]))

    def taken(place: str, **options) -> list[str]:
        return [document.path for document in everything(opened(tmp_path / place, validation_share=0.0, **options))]

    assert taken("") == ["[x].jsonl:1", "a.jsonl:1", "e.parquet#1", "min/d.jsonl:1"]  # .json is too common a name
    assert taken("", settings=Filters(ignore=("*/min/*",))) == taken("")[:-1]
    assert taken("**/*.json*") == ["[x].jsonl:1", "a.jsonl:1", "deep/er/b.json:1", "min/d.jsonl:1"]
    assert taken("d*/*/*") == ["deep/er/b.json:1"]
    assert taken("[x].jsonl") == ["[x].jsonl:1"]  # what is there goes by its name
    for place, reason in {
        "none": "no such file or folder",
        "deep/c.txt": "does not end like one of records",
        "*.txt": "no file of records is matched",
        "none/*": "no file of records is matched",
    }.items():
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS=.*{reason}") as refusal:
            taken(place)
        assert str(tmp_path) in one_line(refusal)
    write(tmp_path / "f" / "a.txt", b"no")
    with pytest.raises(UserError, match="no file of records below the folder"):
        taken("f")


def test_tfds_is_read_where_it_is_prepared_and_never_fetched(corpora: dict, tmp_path: Path, monkeypatch):
    place = corpora["tfds"]
    test = opened(f"{place}&split=test", validation_share=0.0)
    assert len(everything(test)) == 150 and everything(test)[0].path.startswith("org")
    assert test.fingerprint() != opened(place, validation_share=0.0).fingerprint()
    for name in ("recorded:1.2.0", "recorded:1.*.*"):
        assert len(everything(opened(place.replace("recorded", name, 1), validation_share=0.0))) == 150
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for wrong, reason in {
        "tfds:mnist": "has not prepared mnist",
        "tfds:": "it must be tfds:NAME",
        "tfds:recorded": "has not prepared recorded",
        "tfds:huggingface:mnist": "has not prepared",
        "tfds:no name": "has not prepared no name",
        f"{place}&split=train[:9]": "has no split 'train\\[:9\\]'; name one of its splits, &split=test or &split=train",
        f"{place}&split=dev": "has no split 'dev'",
        f"{place}&splat=dev": "it must be tfds:NAME",
        place.replace("recorded", "recorded:3.0.0", 1): "has not prepared recorded:3.0.0",
        place.replace("recorded", "recorded/odd", 1): "has not prepared recorded/odd",
    }.items():
        with pytest.raises(UserError, match=f"--gin.CODE_CORPUS=tfds:.*{reason}") as refusal:
            opened(wrong)
        one_line(refusal)
    prepare(tmp_path / "rec", [{"text": f"text {i}"} for i in range(9)], file_format="array_record")
    with pytest.raises(UserError, match=r"prepared as array_record; prepare it with .*--file_format=tfrecord"):
        opened(f"tfds:recorded?data_dir={tmp_path}/rec")


# --- damage -----------------------------------------------------------------------------------------------------------

WHOLE = [{"text": f"text {i} " + "".join(random.Random(i).choices("abcdef ", k=400))} for i in range(40)]
TEXTS = [record["text"] for record in WHOLE]


def with_line(line: bytes, form: str = "jsonl") -> bytes:
    """All records, and a bad line as the 31st."""
    lines = packed("jsonl", WHOLE).splitlines(keepends=True)
    data = b"".join([*lines[:30], line + b"\n", *lines[30:]])
    if form == "jsonl":
        return data
    return gzip.compress(data) if form == "jsonl.gz" else pa.Codec("zstd").compress(data, asbytes=True)


def with_example(extra: bytes) -> bytes:
    """All records, and a bad one as the 31st."""
    examples = [example(record) for record in WHOLE]
    return framed([*examples[:30], extra, *examples[30:]])


def flipped(data: bytes, share: float) -> bytes:
    position = int(len(data) * share)
    return data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :]


def shortened(form: str, share: float) -> bytes:
    data = packed(form, WHOLE)
    return data[: int(len(data) * share)]


def zeroed(data: bytes) -> bytes:
    """Parquet whose first row group is nothing."""
    return data[:4] + bytes(200) + data[204:]


# file, its bytes, where it is damaged, what is wrong, how many of the 40 records are still there
DAMAGE = {
    "no JSON": ("a.jsonl", lambda: with_line(b"{'text': 1}"), ":31", "not JSON", 40),
    "no object": ("a.jsonl", lambda: with_line(b'["text"]'), ":31", "a JSON array; write one object a line", 40),
    "a line that is not UTF-8": ("a.jsonl", lambda: with_line(b'{"text": "\xff"}'), ":31", "not UTF-8", 40),
    "too deep": ("a.jsonl", lambda: with_line(b'{"text":' + b"[" * 10**5), ":31", "not JSON", 40),
    "too long a number": ("a.jsonl", lambda: with_line(b'{"text":' + b"1" * 10**4 + b"}"), ":31", "not JSON", 40),
    "no text": ("a.jsonl", lambda: with_line(b'{"a": 1, "b": 2}'), ":31", "content, text, code.*but a, b", 40),
    "no fields": ("a.jsonl", lambda: with_line(b"{}"), ":31", "but nothing", 40),
    "a number for a text": ("a.jsonl", lambda: with_line(b'{"text": 5}'), ":31", "of type int", 40),
    "an unfinished line": ("a.jsonl", lambda: packed("jsonl", WHOLE)[:-9], ":40", "not JSON", 39),
    "no JSON in gzip": ("a.jsonl.gz", lambda: with_line(b"{", "jsonl.gz"), ":31", "not JSON", 40),
    "no JSON in zstd": ("a.json.zst", lambda: with_line(b"{", "jsonl.zst"), ":31", "not JSON", 40),
    "gzip cut short": ("a.jsonl.gz", lambda: shortened("jsonl.gz", 0.75), ":", "ended before", (28, 32)),
    "gzip with junk inside": ("a.jsonl.gz", lambda: packed("jsonl.gz", WHOLE[:20]) + b"junk", ":21", "gzip", 20),
    "gzip without its sum": ("a.jsonl.gz", lambda: packed("jsonl.gz", WHOLE)[:-4], ":41", "ended before", 40),
    "no gzip": ("a.jsonl.gz", lambda: packed("jsonl", WHOLE), ":1", "[Nn]ot a gzipped file", 0),
    "zstd cut short": ("a.jsonl.zst", lambda: shortened("jsonl.zst", 0.75), ":", "Truncated", (18, 20)),
    "no zstd": ("a.jsonl.zst", lambda: packed("jsonl", WHOLE), ":1", "ZSTD", 0),
    "TFRecord cut short": ("a.tfrecord", lambda: shortened("tfrecord", 0.76), "#31", "truncated record", 30),
    "TFRecord cut in a header": ("a.tfrecord", lambda: packed("tfrecord", WHOLE[:31])[:-1], "#31", "truncated", 30),
    "TFRecord with half a length": ("a.tfrecord", lambda: packed("tfrecord", WHOLE) + b"abc", "#41", "cut short", 40),
    "TFRecord flipped": ("a.tfrecord", lambda: flipped(packed("tfrecord", WHOLE), 0.76), "#31", "corrupted", 30),
    "no TFRecord": ("a.tfrecord", lambda: packed("jsonl", WHOLE), "#1", "corrupted record", 0),
    "no example": ("a.tfrecord", lambda: with_example(b"\xff" * 50), "#31", "no tf.train.Example", 40),
    "an example without text": ("a.tfrecord", lambda: with_example(example({"b": "c"})), "#31", "none of content", 40),
    "Parquet cut short": ("a.parquet", lambda: shortened("parquet", 0.9), "", "no Parquet file", 0),
    "no bytes of Parquet": ("a.parquet", bytes, "", "no Parquet file", 0),
    "Parquet without text": ("a.parquet", lambda: packed("parquet", [{"b": "c"}]), "", "none of content.*but b", 0),
    "Parquet with a bad page": ("a.parquet", lambda: zeroed(packed("parquet", WHOLE)), "#1", "", 23),
}


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_stops_or_is_counted(tmp_path: Path, damage: str):
    path, data, where, reason, there = DAMAGE[damage]
    write(tmp_path / path, data())
    write(tmp_path / "b.jsonl", packed("jsonl", [{"text": "whole"}]))
    with pytest.raises(
        UserError, match=f"Corpus.code / --gin.CODE_CORPUS=.*: {path}{where}.* is damaged: .*{reason}"
    ) as r:
        everything(opened(tmp_path, validation_share=0.0))
    assert "mend it, or bind Corpus.on_damage='skip' to count it and go on" in one_line(r)

    source = opened(tmp_path, validation_share=0.0, on_damage="skip")
    assert left_out(source) == {"damaged": 1}
    ((_, place),) = [entry for block in blocks(source) for entry in block.left_out]
    assert str(place).startswith(path + where)
    texts = [document.text for document in everything(source)]
    assert texts.pop() == "whole"
    assert texts == (TEXTS[17:] if damage == "Parquet with a bad page" else TEXTS[: len(texts)])
    assert len(texts) == there if isinstance(there, int) else there[0] <= len(texts) <= there[1]
    for piece in range(len(source)):
        whole = list(source.read(piece))
        assert all(list(source.read(piece, skip)) == whole[skip:] for skip in range(len(whole) + 1))


@pytest.mark.parametrize(
    "record, reason",
    [
        ({}, "neither messages nor prompt and completion .but nothing"),
        ({"prompt": "p", "text": "t"}, "but prompt, text"),
        ({"prompt": "p", "completion": None}, "of type NoneType"),
        ({"messages": []}, "an empty one"),
        ({"messages": "user: hello"}, "not JSON"),
        ({"messages": {"role": "user"}}, "no list"),
        ({"messages": ["hello"]}, "no role and content"),
        ({"messages": [{"role": "user"}]}, "of type NoneType"),
        ({"messages": [{"role": 5, "content": "hello"}]}, "no role and content"),
        ({"messages": [{"role": "user", "content": 5}]}, "of type int"),
    ],
)
def test_a_record_that_is_no_dialogue_is_damaged(tmp_path: Path, record: dict, reason: str):
    write(tmp_path / "a.jsonl", packed("jsonl", [*talks(3), record, *talks(5)[3:]]))
    with pytest.raises(UserError, match=f"--gin.INSTRUCT_CORPUS=.*: a.jsonl:4 is damaged: .*{reason}") as refusal:
        opened(tmp_path, name="instruct", validation_share=0.0)
    one_line(refusal)
    source = opened(tmp_path, name="instruct", validation_share=0.0, on_damage="skip")
    assert left_out(source) == {"damaged": 1}
    assert [dialogue.messages for dialogue in everything(source)] == [talk["messages"] for talk in talks(5)]


def test_dialogues_with_other_roles_are_left_out(tmp_path: Path):
    other = {"messages": [{"role": "human", "content": "hello"}]}
    write(tmp_path / "a.jsonl", packed("jsonl", [*talks(3), other]))
    source = opened(tmp_path, name="instruct", validation_share=0.0)
    assert len(everything(source)) == 3 and left_out(source) == {"roles": 1}


def test_dialogues_that_are_no_text_are_left_out(tmp_path: Path):
    contents = ("good", "half \ud800", "nul \0", "long" * 100, "")
    lines = [json.dumps({"prompt": content, "completion": " "}) for content in contents]
    write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    source = opened(tmp_path, name="instruct", validation_share=0.0, settings=Filters(longest_bytes=99))
    assert [dialogue.messages[0]["content"] for dialogue in everything(source)] == ["good"]
    assert left_out(source) == {"not_utf8": 1, "binary": 1, "too_large": 1, "blank": 1}


@pytest.mark.usefixtures("size")
def test_damage_shows_on_both_sides(tmp_path: Path):
    write(tmp_path / "a.jsonl", with_line(b"no"))
    for split in ("train", "validation"):
        assert left_out(opened(tmp_path, split, on_damage="skip")) == {"damaged": 1}


@pytest.mark.parametrize("on_damage", ["stop", "skip"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_that_vanishes_ends_the_run(tmp_path: Path, form: str, on_damage: str):
    source = opened(written(form, tmp_path / "corpus", WHOLE), on_damage=on_damage)
    files = [path for path in sorted((tmp_path / "corpus").rglob("*")) if is_record_file(path.name)]
    for path in files:
        path.unlink()
    with pytest.raises(UserError, match=r"cannot be read \(.*No such file.*\): mend or remove it") as refusal:
        everything(source)
    assert str(tmp_path) in one_line(refusal)
    if form in FILE_FORMATS:
        folder = f"ram://vanishing_{form}_{on_damage}"
        source = opened(written(form, folder, WHOLE), on_damage=on_damage)
        tf.io.gfile.rmtree(folder)
        with pytest.raises(UserError, match=r"ram://vanishing.* cannot be read") as refusal:
            everything(source)
        one_line(refusal)


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"])
@pytest.mark.parametrize(
    "error", [OSError(5, "lost the disk"), tf.errors.UnavailableError(None, None, "lost the disk")]
)
def test_a_file_that_can_no_longer_be_read_is_not_damaged(tmp_path: Path, monkeypatch, form: str, error: Exception):
    class Failing(io.BytesIO):
        def read(self, *_):
            raise error

    source = opened(written(form, tmp_path / "corpus", WHOLE), on_damage="skip")
    for piece in range(len(source)):
        monkeypatch.setattr(
            "codellama_jax.runtime.filesystem.open_input", lambda location: Failing(Path(location).read_bytes())
        )
        with pytest.raises(UserError, match=rf"part\d.{form} cannot be read \(lost the disk\): mend or remove it"):
            list(source.read(piece))


def test_empty_files_have_no_documents(tmp_path: Path):
    for path in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.tfrecord"):
        write(tmp_path / path, b"")
    with pytest.raises(UserError, match=r"no usable document for train in 4 files$"):
        opened(tmp_path)
    write(tmp_path / "b2.jsonl", packed("jsonl", WHOLE))
    assert [document.text for document in everything(opened(tmp_path, validation_share=0.0))] == TEXTS
