"""A build from end to end: what it keeps, what it removes, and that its bytes depend on its parameters only."""

import hashlib
import html.parser
import itertools
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planted import PROBLEMS, SECRETS, contents

from codellama_jax.tokenizer import Tokenizer
from tasks.build import main
from tasks.curation.dedup.minhash import jaccard, shingles
from tasks.sources import manifest
from tasks.sources.files import Found
from tasks.sources.records.tf_examples import TfRecords, tensorflow


def documents(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Split -> the records of its shards."""
    records: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for shard in manifest.read(f"{out}/manifest.json", "").shards:
        path = out / shard.name
        for record in TfRecords(Found(shard.name, str(path), path.stat().st_size, "")).read(0):
            fields = record.fields()
            records[shard.split].append({n: v.decode() if isinstance(v, bytes) else v for n, v in fields.items()})
    return records


def removed_documents(out: Path) -> dict[str, tuple[str, str]]:
    """Path -> (reason, detail)."""
    rows = [row for path in sorted((out / "left-out").iterdir()) for row in pq.read_table(path).to_pylist()]
    return {row["path"]: (row["reason"], row["detail"]) for row in rows}


@pytest.fixture(scope="module")
def kept(built: Path) -> dict[str, list[dict[str, Any]]]:
    return documents(built)


def test_every_file_is_in_a_shard_once_or_in_the_list_of_removed_documents(
    corpus: Path, built: Path, kept: dict[str, list[dict[str, Any]]]
) -> None:
    files = {path.relative_to(corpus).as_posix() for path in corpus.rglob("*.py")}
    paths = [document["path"] for split in kept.values() for document in split]
    removed = set(removed_documents(built))
    assert len(set(paths)) == len(paths)
    assert set(paths).isdisjoint(removed) and set(paths) | removed == files


def test_planted_duplicates_problems_secrets_and_bad_files_are_found(
    built: Path, kept: dict[str, list[dict[str, Any]]]
) -> None:
    removed = removed_documents(built)
    reasons = Counter(reason for reason, _ in removed.values())
    for path, (reason, kept_path) in removed.items():
        if path.startswith("fork/exact/"):
            original = path.split("/", 3)[3]
            assert reason == "exact_duplicate" and kept_path.endswith(original) and kept_path.startswith("repo")
        if path.startswith("fork/vendor_copies/"):
            assert reason == "near_duplicate" and kept_path.endswith(path.split("/", 3)[3])
    copies = [path for path in removed if path.startswith("fork/vendor_copies/")]
    assert len(copies) >= 38 and reasons["exact_duplicate"] == 10
    for number in range(len(PROBLEMS)):
        assert removed[f"leak/solved{number}.py"] == ("contaminated", f"planted:Planted/{number}")
    assert reasons["contaminated"] == len(PROBLEMS)
    filtered = {"data": "binary", "short": "too_short", "page": "content_language", "made": "generated"}
    filtered |= {"wide": "long_line"}
    assert {name: removed[f"bad/{name}.py"][0] for name in filtered} == filtered
    texts = "".join(document["text"] for split in kept.values() for document in split)
    assert not any(secret in texts for secret in SECRETS.values())


def test_no_two_remaining_documents_are_near_duplicates(kept: dict[str, list[dict[str, Any]]]) -> None:
    sets = [shingles(document["text"]) for split in kept.values() for document in split]
    # a margin above the threshold, for the error of the estimate
    assert not [1 for a, b in itertools.combinations(sets, 2) if jaccard(a, b) > 0.95]


def test_a_repository_is_in_one_split(kept: dict[str, list[dict[str, Any]]]) -> None:
    repositories = [{document["repository"] for document in split} for split in kept.values()]
    assert all(repositories) and repositories[0].isdisjoint(repositories[1])


def test_the_manifest_describes_the_shards(
    built: Path, kept: dict[str, list[dict[str, Any]]], small_tokenizer: Tokenizer
) -> None:
    record = json.loads((built / "manifest.json").read_text())
    shards = manifest.read(f"{built}/manifest.json", "").shards
    assert len([shard for shard in shards if shard.split == "train"]) > 2
    for shard in shards:
        data = (built / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    for split, members in kept.items():
        tokens = sum(len(small_tokenizer.encode(document["text"])) for document in members)
        assert tokens == sum(document["tokens"] for document in members)
        of_split = [shard for shard in shards if shard.split == split]
        assert sum(shard.documents for shard in of_split) == len(members)
        assert sum(shard.tokens for shard in of_split) == tokens
        (step,) = (step for step in record["steps"] if step["step"] == split)
        assert (step["left"]["documents"], step["left"]["tokens"]) == (len(members), tokens)
        assert {"Python": step["left"]} == step["languages"]
    # the counts after a step are those before it minus those of the removed documents
    for before, after in itertools.pairwise(record["steps"][:-2]):
        removed = after["left_out"]
        assert {name: count - removed[name] for name, count in before["left"].items()} == after["left"]
    sums = Counter(record["steps"][-1]["left"]) + Counter(record["steps"][-2]["left"])
    assert dict(sums) == record["steps"][-3]["left"]
    assert record["steps"][0]["changed"] == {"metadata_line": 1}
    assert not any("<reponame>" in document["text"] for members in kept.values() for document in members)
    redacted = record["steps"][0]["redacted"]
    assert redacted["by_kind"]["key"] == 2 and redacted["by_kind"]["email"] >= 2 and 0 < redacted["share"] < 0.01


def test_the_order_is_shuffled_over_all_shards(built: Path) -> None:
    paths = [document["path"] for document in documents(built)["train"]]
    ranks = np.argsort(np.argsort(paths))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.3


PORTABLE = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")


@pytest.mark.parametrize("flags", [("--workers=2", "--gin.Build.memory=1_200_000"), ("--", *PORTABLE)])
def test_the_bytes_do_not_depend_on_workers_memory_or_runner(
    flags: tuple[str, ...], built: Path, inputs: list[str], tmp_path: Path
) -> None:
    assert main([*inputs, f"--out={tmp_path}/set", *flags]) == 0
    assert contents(tmp_path / "set") == contents(built)


def test_the_seed_changes_only_the_order(built: Path, inputs: list[str], tmp_path: Path) -> None:
    flags = ["--gin.Build.near=False", "--gin.Build.shard_bytes=3_000_000"]
    inputs = [inputs[0] + "/repo0", *inputs[1:]]
    orders = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        assert main([*inputs, f"--out={out}", "--workers=1", *flags, f"--gin.Build.seed={seed}"]) == 0
        orders.append([document["path"] for document in documents(out)["train"]])
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_group_by_repository_gives_one_document_per_repository(inputs: list[str], tmp_path: Path, built: Path) -> None:
    out = tmp_path / "set"
    flags = ["--gin.Build.group_by_repository=True", "--gin.Build.repository_bytes=10_000_000"]
    assert main([*inputs, f"--out={out}", "--workers=1", *flags]) == 0
    grouped = [document for split in documents(out).values() for document in split]
    plain = [document for split in documents(built).values() for document in split]
    assert Counter(document["repository"] for document in grouped).most_common(1)[0][1] == 1
    for document in grouped:
        members = [other for other in plain if other["repository"] == document["repository"]]
        assert all(member["text"].rstrip() in document["text"] for member in members)
        assert document["tokens"] == sum(member["tokens"] for member in members)


def test_reads_the_columns_of_the_stack_and_filters_by_licence(
    tmp_path: Path, inputs: list[str], small_tokenizer: Tokenizer
) -> None:
    rows = {
        "content": [
            f"def function_{n}(value):\n    return value * {n} + {n * n} - offset_{n % 7}\n" for n in range(60)
        ],
        "lang": ["Python"] * 60,
        "max_stars_repo_name": [f"someone/project{n % 12}" for n in range(60)],
        "max_stars_repo_path": [f"src/module_{n}.py" for n in range(60)],
        "max_stars_repo_licenses": [["MIT"] if n % 3 else ["GPL-3.0"] for n in range(60)],
    }
    pq.write_table(pa.table(rows), tmp_path / "data.parquet", row_group_size=20)
    model = next(flag for flag in inputs if flag.startswith("--tokenizer"))
    arguments = [f"--source={tmp_path}/*.parquet", model, f"--out={tmp_path}/set", "--workers=1"]
    assert main([*arguments, "--gin.Quality.licences=['mit']", "--gin.Build.near=False"]) == 0
    kept = [document for split in documents(tmp_path / "set").values() for document in split]
    assert len(kept) == 40 and {document["licence"] for document in kept} == {"MIT"}
    assert {document["path"] for document in kept} <= {
        f"someone/project{n % 12}/src/module_{n}.py" for n in range(60) if n % 3
    }
    record = json.loads((tmp_path / "set/manifest.json").read_text())
    assert record["steps"][0]["left_out"] == {"licence": 20}


class _TagParser(html.parser.HTMLParser):
    """Counts tags, and checks that they are balanced."""

    VOID = frozenset(("meta", "br"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_valid_and_shows_duplicates_problems_and_filters(built: Path) -> None:
    text = (built / "report.html").read_text()
    parser = _TagParser()
    parser.feed(text)
    assert not parser.open and parser.seen["script"] == 0 and parser.seen["article"] >= 3 and parser.seen["svg"] == 2
    assert "planted:Planted/1" in text and "# patched" in text and "Filters.longest_line" in text


def test_a_finished_build_is_not_changed(built: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(built)
    assert main([*inputs, f"--out={built}", "--workers=1"]) == 0
    assert "already contains this finished build" in capsys.readouterr().out and contents(built) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out={out}", "--tokenizer={model}"], "nothing to read: give --source=PATH"),
        (["--source={corpus}", "--tokenizer={model}"], "--out=FOLDER"),
        (
            ["--source={corpus}", "--out={out}", "--tokenizer={model}", "--gin.Build.treshold=0.7"],
            "did you mean Build.t",
        ),
        (["--source={corpus}", "--out={out}", "--tokenizer={model}", "--gin.Build.threshold=1.5"], "below 1"),
        (["--source={corpus}", "--out={out}", "--tokenizer={model}", "--workers=0"], "--workers=0"),
        (
            ["--source={corpus}", "--out={out}", "--tokenizer={model}", "--", "--number=3"],
            "Beam has no flag --number",
        ),
        (["--source={corpus}", "--out={out}", "--tokenizer={model}", "--", "--runner=Engine"], "--runner=Engine: Un"),
        (["--source={corpus}", "--out={out}", "--tokenizer={model}", "--", "--runner=no.Engine"], "No module named"),
        (
            ["--source={corpus}", "--out={out}", "--tokenizer={model}", "--", "--flink_master=localhost:8081"],
            "--flink_master needs --runner=FlinkRunner",
        ),
        (
            ["--source={corpus}", "--out={out}", "--tokenizer={model}", "--", "--runner=DataflowRunner"],
            "Missing required option: project",
        ),
        (["--source={corpus}/no", "--out={out}", "--tokenizer={model}"], "no such file or folder"),
        (["--source={corpus}", "--out={corpus}", "--tokenizer={model}"], "contains other files"),
        (["--source={corpus}", "--out={out}", "--tokenizer={model}", "--against=/no.jsonl"], "/no.jsonl"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    corpus: Path,
    inputs: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = next(flag for flag in inputs if flag.startswith("--tokenizer")).partition("=")[2]
    values = {"out": tmp_path / "set", "corpus": corpus, "model": model}
    assert main([argument.format(**values) for argument in arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_build_without_documents_names_the_filters(
    corpus: Path, inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--source={corpus}/repo0", *inputs[1:], f"--out={tmp_path}/set", "--workers=1"]
    assert main([*arguments, "--gin.Quality.shortest=1_000_000"]) == 1
    error = capsys.readouterr().err
    assert "no document of" in error and "too_short (Quality.shortest)" in error and error.count("\n") == 1


def test_a_folder_with_another_build_is_rejected(
    built: Path, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(built)
    assert main([*inputs, f"--out={built}", "--gin.Build.threshold=0.7"]) == 1
    error = capsys.readouterr().err
    assert (
        "Build.threshold: 0.85 in the folder, 0.7 now" in error and error.count("\n") == 1 and contents(built) == before
    )


def test_without_beam_the_error_names_what_to_install(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main([*inputs, f"--out={tmp_path}/set"]) == 1
    assert "requirements-build.txt" in capsys.readouterr().err


def test_help_shows_options_and_examples(command: Callable[..., subprocess.Popen]) -> None:
    out, error = command("--help").communicate()
    assert "--source" in out and "examples:" in out and not error


def test_records_equal_those_that_tensorflow_writes(built: Path) -> None:
    tf = tensorflow()
    for path in sorted(built.glob("*.tfrecord")):
        for data in tf.data.TFRecordDataset(str(path)).take(20).as_numpy_iterator():
            example = tf.train.Example.FromString(data)
            assert example.SerializeToString(deterministic=True) == data
