"""Runs that are killed, lose a process, or have loss spikes; benchmarks/faults.py runs longer versions of these tests.

Each run is the command that users type, in its own processes, which are killed from outside.
"""

import dataclasses
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from fault_injection import kills, process_loss, workloads
from runs import TOY, Run, lines, same

from codellama_jax.runtime import distributed

# Without infilling samples, which nothing here compares: their programs take longest to compile.
STAGE = ["--gin_file=gin/code.gin", *TOY, "--gin.Checkpoints.every=10", "--gin.Evaluation.every=30"]
STAGE += ["--gin.Evaluation.samples=0"]
CASCADE = ["--gin_file=gin/lcft.gin", *STAGE[1:], "--gin.CODE_STEPS=40", "--gin.CODE_BATCH_TOKENS=256"]
CASCADE += ["--gin.LCFT_STEPS=20", "--gin.LCFT_BATCH_TOKENS=512"]
# With only two windows of 32 tokens per reader, some losses are spikes, whatever the corpus.
SPIKES = [
    "--gin.CODE_LENGTH=32",
    "--gin.CODE_BATCH_TOKENS=128",
    "--gin.CODE_STEPS=100",
    "--gin.LossSpikes.threshold=0.18",
]
SPIKES += ["--gin.LossSpikes.window=8", "--gin.LossSpikes.max_rollbacks=1_000"]


# Twenty processes, whose results are only compared with each other. tests/test_cascade.py kills and resumes runs that
# are compiled as those of users.
pytestmark = pytest.mark.usefixtures("processes_compile_fast")


def evaluations(run):
    return lines(run.folder / "code" / "evaluations.jsonl")


def rollbacks(run):
    return [line for line in evaluations(run) if line["kind"] == "rollback"]


def test_resumes_after_kills_during_a_save_after_its_rename_and_between_stages(tmp_path):
    reference, run = (Run(tmp_path / name / "runs", CASCADE) for name in ("reference", "killed"))
    reference.finish()
    moments = [kills.during_save, kills.after_rename, kills.between_stages]
    killed = list(kills.kill_repeatedly(run, [(wait.__name__, wait) for wait in moments], random.Random(0)))
    assert [kill.stage for kill in killed] == ["code", "code", "lcft"] and killed[0].partial_save
    run.finish()
    for stage in ("code", "lcft"):
        assert run.trajectory(stage) == reference.trajectory(stage)
        assert lines(run.folder / stage / "evaluations.jsonl") == lines(reference.folder / stage / "evaluations.jsonl")
        assert same(run.final_arrays(stage), reference.final_arrays(stage))


def test_peer_loss_and_a_signal_to_one_host_exit_with_75(tmp_path):
    base = workloads.two_processes(18, tmp_path)
    reference, run = (
        dataclasses.replace(base, run_dir=tmp_path / name / "runs", devices=2) for name in ("reference", "lost")
    )
    reference.finish()
    with run.start() as started:
        assert started.until_step(10), started.output()
        loss = process_loss.lose(started, 0, signal.SIGKILL)
    assert (loss.code, loss.last_line) == (75, f"error: {distributed.PEER_LOST}")
    assert loss.seconds < 2 * distributed.HEARTBEAT_SECONDS
    with run.start() as started:
        assert started.until_step(run.last_step("code") + 2), started.output()
        started.children[1].send_signal(signal.SIGTERM)
        assert started.wait(60) == [75, 75], started.output()
    saved = run.last_saved("code")
    assert saved == run.last_step("code") < 18
    alone = dataclasses.replace(run, run_dir=tmp_path / "alone" / "runs", processes=1, devices=1)
    shutil.copytree(run.run_dir, alone.run_dir)
    run.finish()
    assert run.trajectory() == reference.trajectory()
    assert same(run.final_arrays(), reference.final_arrays())

    # one process with one device resumes a run of two with two each: the same batches, summed in another order
    alone.finish()
    for ours, theirs in zip(*(lines(of.folder / "code" / "metrics.jsonl") for of in (alone, reference)), strict=True):
        tokens = [name for name in theirs if "tokens" in name and name != "tokens_per_second"]
        assert [ours.get(name) for name in ("step", *tokens)] == [theirs[name] for name in ("step", *tokens)]
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def test_resumes_after_a_rollback_and_two_kills(tmp_path):
    """The first kill is right after the rollback, so the run reaches the spike again; the second is after the next
    save, so it does not."""
    reference, run = (Run(tmp_path / name / "runs", [*STAGE, *SPIKES]) for name in ("reference", "killed"))
    reference.finish()
    assert rollbacks(reference)
    with run.start() as started:
        assert started.until(lambda: rollbacks(run)), started.output()
    first = rollbacks(run)[0]
    with run.start() as started:
        assert started.until(lambda: rollbacks(run) and run.last_saved("code") >= first["step"]), started.output()
    assert rollbacks(run)[0] == first
    run.finish()
    assert run.trajectory() == reference.trajectory()
    assert evaluations(run) == evaluations(reference)
    assert same(run.final_arrays(), reference.final_arrays())


def test_consecutive_non_finite_steps_end_the_run(tmp_path):
    """This epsilon is 0 in float32: the first update divides 0 by 0 where a gradient is 0. No later step is finite."""
    run = Run(tmp_path / "runs", [*STAGE, "--gin.CODE_STEPS=40", "--gin.CODE_BATCH_TOKENS=256"])
    run = dataclasses.replace(run, flags=[*run.flags, "--gin.AdamW.eps=1e-60"])
    output = run.finish(code=1)
    (error,) = [line for line in output.splitlines() if "error" in line]
    path = run.folder / "code" / "skipped_steps.jsonl"
    assert f"not finite in 5 consecutive steps, up to step 6; their documents are in {path}" in error
    recorded = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in recorded] == [2, 3, 4, 5, 6]
    assert all("nan" in (line["loss"], line["grad_norm"]) and line["documents"] for line in recorded)
    assert [line.get("skipped", False) for line in lines(run.folder / "code" / "metrics.jsonl")] == [False] + 5 * [True]
