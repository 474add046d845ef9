"""Samples are stored once, whatever happens, and never mixed with those of another evaluation."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codellama_jax.config.evaluation import HumanEval as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import sample_file
from codellama_jax.evaluation.benchmarks.humaneval import HumanEval
from codellama_jax.evaluation.clients.canonical import Canonical
from codellama_jax.evaluation.evaluation import Evaluation
from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_file import SampleFile, line_of
from codellama_jax.sandbox.pool import Pool

LIMIT = 24
SAMPLE = Sample("a/1", 0, 5, "def f():", "\n\x00é\u2028\ud800x", "x", False, "error: \nx", scores={"x": 0.5})


@pytest.fixture(scope="module")
def benchmark(shared_data):
    return HumanEval(Settings())


@pytest.fixture(scope="module")
def problems(benchmark, shared_data):
    return benchmark.problems(shared_data)


@pytest.fixture
def run(benchmark, problems, pool):
    def evaluate(out: Path, of=benchmark, limit=LIMIT, client=None, **options) -> bool:
        evaluation = Evaluation(out, pool, **options)
        try:
            return evaluation.run(of, problems, client or Canonical(of), limit)
        finally:
            evaluation.close()

    return evaluate


@pytest.fixture(scope="module")
def whole(benchmark, problems, pool, rows_of, tmp_path_factory):
    """The records of an evaluation that nothing interrupted, and its results."""
    out = tmp_path_factory.mktemp("whole")
    evaluation = Evaluation(out, pool)
    assert evaluation.run(benchmark, problems, Canonical(benchmark), LIMIT)
    evaluation.close()
    rows = rows_of(out / "samples" / "humaneval.jsonl")
    assert [row["passed"] for row in rows] == [True] * LIMIT
    return rows, json.loads((out / "results.json").read_text())


def check(out, whole, rows_of):
    rows, results = whole
    assert rows_of(out / "samples" / "humaneval.jsonl") == rows
    assert json.loads((out / "results.json").read_text()) == results


def test_a_killed_command_resumes_with_no_sample_lost_or_done_twice(shared_data, tmp_path, whole, rows_of, run):
    file = tmp_path / "samples" / "humaneval.jsonl"
    command = [sys.executable, "-m", "codellama_jax.evaluate", "--canonical", "--benchmarks=humaneval"]
    command += [f"--data={shared_data}", f"--out={tmp_path}", f"--limit={LIMIT}", "--workers=1"]
    for samples in (2, 9):
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= samples):
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
        before = file.read_bytes()
        assert samples <= before.count(b"\n") < LIMIT
    file.write_bytes(before + line_of(SAMPLE).encode()[:50])  # as if it was killed within a write
    assert run(tmp_path)
    assert file.read_bytes().startswith(before)
    check(tmp_path, whole, rows_of)


def test_an_interrupted_evaluation_resumes(tmp_path, benchmark, problems, whole, rows_of, run, caplog):
    calls = iter([False] * 3)
    with Pool(1) as pool:
        evaluation = Evaluation(tmp_path, pool, interrupted=lambda: next(calls, True))
        assert not evaluation.run(benchmark, problems, Canonical(benchmark), LIMIT)
        evaluation.close()
    assert not (tmp_path / "results.json").exists() and not caplog.records  # also of programs that are cancelled
    assert run(tmp_path)
    check(tmp_path, whole, rows_of)


def test_shards_are_joined_to_what_one_process_does(tmp_path, whole, rows_of, run):
    for shard in ((1, 3), (3, 3)):
        assert run(tmp_path, shard=shard)
    parts = [rows_of(path) for path in tmp_path.glob("shards/*/samples/humaneval.jsonl")]
    assert [len(part) for part in parts] == [LIMIT // 3] * 2
    assert run(tmp_path)  # it does the second part
    check(tmp_path, whole, rows_of)
    assert run(tmp_path)
    check(tmp_path, whole, rows_of)


def test_more_samples_are_added(tmp_path, whole, rows_of, run):
    more = HumanEval(Settings(samples=3, temperature=0.5))
    assert run(tmp_path, HumanEval(Settings(samples=1, temperature=0.5)), limit=4)
    first = (tmp_path / "samples" / "humaneval.jsonl").read_bytes()
    assert run(tmp_path, more, limit=4)
    rows = (tmp_path / "samples" / "humaneval.jsonl").read_bytes()
    assert rows.startswith(first) and rows.count(b"\n") == 12
    assert len({json.loads(row)["seed"] for row in rows.splitlines()}) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.2}, "temperature was 0.0 and is now 0.2"),
        ({"max_tokens": 99}, "max_tokens was 512 and is now 99"),
        ({"samples": 2}, "temperature was 0.0 and is now 0.8"),
        ({"stop": ("x",)}, "stop was .* and is now"),
    ],
)
def test_a_changed_setting_refuses_to_mix(tmp_path, run, settings, message):
    assert run(tmp_path, limit=1)
    with pytest.raises(UserError, match=f"humaneval.jsonl has samples of another evaluation: {message}.*another --out"):
        run(tmp_path, HumanEval(Settings(**settings)), limit=1)


class Unable(Canonical):
    def answers(self, requests, stop):
        raise UserError("no endpoint answers any more")


def test_an_evaluation_without_samples_hinders_no_other(tmp_path, run):
    other = HumanEval(Settings(max_tokens=9))
    with pytest.raises(UserError, match="no endpoint answers any more"):
        run(tmp_path, other, client=Unable(other))
    assert run(tmp_path, limit=1)
    with pytest.raises(UserError, match="max_tokens was 512 and is now 9"):
        run(tmp_path, HumanEval(Settings(max_tokens=9)), limit=1)


def test_other_data_or_another_model_refuses_to_mix(tmp_path, run, benchmark, problems, pool):
    assert run(tmp_path, limit=1)
    changed = [*problems[:-1], dataclasses.replace(problems[-1], data=problems[-1].data | {"test": ""})]
    evaluation = Evaluation(tmp_path, pool)
    with pytest.raises(UserError, match=r"problems was .* and is now"):
        evaluation.run(benchmark, changed, Canonical(benchmark), 1)
    evaluation.close()
    client = Canonical(benchmark)
    client.identity = {"model": "another"}
    with pytest.raises(UserError, match='model was "the canonical solutions" and is now "another"'):
        run(tmp_path, client=client, limit=1)


def test_a_folder_in_use_is_refused(tmp_path, pool, run):
    evaluation = Evaluation(tmp_path, pool)
    with pytest.raises(UserError, match=r"is in use by process \d+ .*another --out"):
        run(tmp_path)
    evaluation.close()


# ---------------------------------------------------------------- the file


def test_a_sample_survives_its_line():
    line = line_of(SAMPLE)
    assert line.count("\n") == 1 and "\u2028" not in line
    assert sample_file.parsed(line.encode()) == SAMPLE
    assert {"task_id", "prompt", "completion", "passed", "reason"} <= json.loads(line).keys()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{nonsense", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[]", "it is not an object"),
        (b"[" * 100_000, "it is not JSON"),
        (line_of(dataclasses.replace(SAMPLE, sample=-1)).encode()[:-1], "sample is -1, not an index"),
        (line_of(dataclasses.replace(SAMPLE, scores={"x": "y"})).encode()[:-1], "a score is not a number"),
        (b'{"task_id": 3}', "task_id has a wrong type"),
        (b'{"task_id": "a/1"}', "sample is missing"),
        (line_of(SAMPLE).encode()[:-1], "the sample is there twice"),
        (line_of(dataclasses.replace(SAMPLE, task_id="b")).encode()[:-1], "there is no such task"),
    ],
)
def test_a_damaged_line_is_named_set_aside_and_never_lost(tmp_path, caplog, line, reason):
    path = tmp_path / "x.jsonl"
    other = line_of(dataclasses.replace(SAMPLE, sample=1)).encode()
    path.write_bytes(line_of(SAMPLE).encode() + line + b"\n" + other)
    with caplog.at_level("WARNING", "codellama_jax"):
        file = SampleFile(path, lambda sample: "" if sample.task_id == "a/1" else "there is no such task")
    file.close()
    assert f"{path}:2: {reason}" in caplog.text
    assert (tmp_path / "x.damaged.jsonl").read_bytes() == line + b"\n"
    assert path.read_bytes() == line_of(SAMPLE).encode() + other
    assert len(file.samples) == 2


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_last_line_is_removed_and_a_whole_one_is_kept(tmp_path, cut):
    path, line = tmp_path / "x.jsonl", line_of(SAMPLE).encode()
    path.write_bytes(line + line_of(dataclasses.replace(SAMPLE, sample=1)).encode()[:cut])
    file = SampleFile(path, lambda sample: "")
    file.append([dataclasses.replace(SAMPLE, sample=2)])
    file.close()
    assert [key[2] for key in sample_file.read(path).samples] == ([0, 1, 2] if cut == -1 else [0, 2])
    assert not sample_file.read(path).damaged


def test_a_full_disk_is_reported_and_what_was_scored_stays(benchmark, problems, pool, tmp_path, whole, rows_of, run):
    """The limit of a file's size stands for that of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"humaneval.jsonl cannot be written \(File too large\): \d+ samples"):
            run(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    before = (tmp_path / "samples" / "humaneval.jsonl").read_bytes().rpartition(b"\n")[0]
    assert before.count(b"\n") > 2
    assert run(tmp_path)
    assert (tmp_path / "samples" / "humaneval.jsonl").read_bytes().startswith(before)
    check(tmp_path, whole, rows_of)
