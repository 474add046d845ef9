"""Stalls, traces and the account of wall time."""

import subprocess
import sys
import textwrap

import jax.numpy as jnp
import pytest

from codellama_jax.config.training import Stage
from codellama_jax.report.goodput import goodput
from codellama_jax.training.metrics import StageLog
from codellama_jax.training.watchdog import TRACED_STEPS, Profiler

STAGE = Stage("code", "local", None, steps=10, batch_tokens=64, sequence_length=32)
METRICS = {"loss": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0, "skipped": False}
METRICS |= {f"stream_{what}": [1.0] for what in ("losses", "weights", "tokens")}


def test_a_process_that_hangs_says_where_and_ends(tmp_path):
    program = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from codellama_jax.training.watchdog import Watchdog
        with Watchdog(0.02, Path(sys.argv[1])) as watchdog:
            for _ in range(10):  # signs of life keep it alive for longer than it may be silent
                time.sleep(0.2)
                watchdog.alive()
            print("alive", flush=True)
            def in_a_collective(): time.sleep(60)
            in_a_collective()
    """)
    stacks = tmp_path / "stacks.txt"
    run = subprocess.run([sys.executable, "-c", program, stacks], capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout) == (75, "alive\n")
    assert run.stderr.startswith("error: no step for 0.02 minutes") and "same command goes on" in run.stderr
    assert "in_a_collective" in stacks.read_text()


def test_traces_of_bound_steps_and_on_demand(tmp_path):
    ask, folder = tmp_path / "profile", tmp_path / "tensorboard"
    profiler = Profiler(3, 4, ask, folder)
    said = {}
    for step in range(1, 20):
        if step == 10:
            ask.touch()
        jnp.ones(8).sum().block_until_ready()
        if line := profiler.step_done(step):
            said[step] = line
    assert list(said) == [4, 10 + TRACED_STEPS] and "tensorboard --logdir=" in said[4]
    assert not ask.exists()
    for first in (3, 11):
        assert len(list(folder.glob(f"trace_{first}/plugins/profile/*/*.xplane.pb"))) == 1


def test_wall_time_is_accounted_for():
    lines = [{"seconds": 1.0} for _ in range(9)]
    lines[0] |= {"seconds": 4.0, "startup_seconds": 3.0}
    lines[4] |= {"save_seconds": 0.5, "validation_seconds": 0.5}
    lines[5] |= {"lost_seconds": 2.0, "down_seconds": 2.0}
    shares = goodput(lines)
    assert sum(shares.values()) == pytest.approx(1)
    seconds = {cause: share * 20 for cause, share in shares.items()}
    assert seconds == pytest.approx(
        {"steps": 9, "compilation": 3, "startup": 3, "validation": 0.5, "save": 0.5, "lost": 2, "down": 2}
    )
    assert goodput([]) == {}


def test_what_a_killed_run_lost_is_on_the_first_line_after(tmp_path):
    def log(resumed):
        return StageLog(tmp_path, STAGE, ["code"], resumed, writes=True)

    first = log(None)
    for step in range(1, 6):
        first.step(step, METRICS, 0.5, {})
        first.spent["save"] += 0.25
    first.close()
    second = log(3)
    second.step(4, METRICS, 0.5, {})
    second.step(5, METRICS, 0.5, {})
    assert [line["step"] for line in second.steps] == [1, 2, 3, 4, 5]
    assert second.steps[3]["lost_seconds"] == 1.5  # two steps, and the saves before them
    assert "down_seconds" in second.steps[3] and "lost_seconds" not in second.steps[4]
    second.close()
