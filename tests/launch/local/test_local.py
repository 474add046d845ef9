"""The local executor: several processes on this machine train together, as on a pod."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from codellama_jax.errors import EXIT_USAGE
from launch.local import executor
from tests.launch import toy_run

TWO = ["--processes=2", "--devices_per_process=4"]


def processes_of(run_dir: Path) -> dict[int, int]:
    """The training processes: JAX_PROCESS_ID -> process id."""
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"--run_dir={run_dir}".encode() not in (folder / "cmdline").read_bytes().split(b"\0"):
                continue
            environment = dict(
                entry.partition(b"=")[::2] for entry in (folder / "environ").read_bytes().split(b"\0") if entry
            )
        except OSError:
            continue
        if number := environment.get(b"JAX_PROCESS_ID"):
            processes[int(number)] = int(folder.name)
    return processes


def test_ctrl_c_saves_and_the_same_command_resumes(tmp_path):
    """Ctrl-C on the terminal signals the launcher's process group, and each process receives the signal once."""
    run_dir, stage = tmp_path / "runs", tmp_path / "runs/local/code"
    process = toy_run.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy_run.wait_for(process, stage / "metrics.jsonl", '"step": 4,')
    second = toy_run.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    refused = second.communicate(timeout=60)[0]
    [holder] = re.findall(r"in use by process (\d+) on (\S+):", refused)
    assert second.returncode == 1 and holder == (str(processes_of(run_dir)[0]), socket.gethostname())
    assert len([line for line in refused.splitlines() if "error" in line]) == 1

    os.killpg(process.pid, signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 75 and "saved at step" in output, output
    for number in (0, 1):
        log = (run_dir / "local/logs" / f"code.{number}.log").read_text()
        assert log.count("SIGINT: finishing this step") == 1 and "[0]" not in log
        assert f"[{number}] SIGINT: finishing" in output
    assert not processes_of(run_dir)

    assert json.loads((stage / "stage.json").read_text())["devices"].startswith("8 x")
    saved = max(int(path.name) for path in (stage / "checkpoints").iterdir())
    assert f"saved at step {saved} of" in output
    process = toy_run.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy_run.wait_for(process, run_dir / "local/logs/code.0.log", f"resuming from step {saved}")
    toy_run.wait_for(process, stage / "metrics.jsonl", f'"step": {saved + 1},')
    process.terminate()
    assert process.wait(60) == 75


def test_killed_process_stops_the_others(tmp_path):
    """The log of one process cannot be written, which ends only this log."""
    run_dir = tmp_path / "runs"
    logs = run_dir / "local" / "logs"
    logs.mkdir(parents=True)
    (logs / "code.0.log").symlink_to("/dev/full")
    process = toy_run.start(run_dir, *TWO, "--gin.CODE_STEPS=1_000_000")
    toy_run.wait_for(process, run_dir / "local/code/metrics.jsonl", '"step": 4,')
    os.kill(processes_of(run_dir)[1], signal.SIGKILL)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and not processes_of(run_dir)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "it was killed" in errors[0] and "resumes from the last checkpoint" in errors[0]
    assert "process 1 of 2 ended with code 137, its last lines" in output
    assert "cannot write" in output and "No space left on device" in output and "[0] code: step" in output


def run(tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(toy_run.ROOT / "xm_launch.py"), "--gin_file=gin/code.gin", *flags]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


def test_dry_run_prints_each_process(tmp_path):
    """A dry run prints the same lines each time, and creates nothing."""
    outputs = [run(tmp_path, "--dry_run", *TWO).stdout for _ in range(2)]
    assert outputs[0] == outputs[1] and not list(tmp_path.iterdir())
    lines = [line for line in outputs[0].splitlines() if "codellama_jax.train" in line]
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert line.startswith("env JAX_PLATFORMS=") and f"JAX_PROCESS_ID={number} " in line
        assert "JAX_NUM_CPU_DEVICES=4 JAX_COORDINATOR_ADDRESS=127.0.0.1:" in line and "JAX_NUM_PROCESSES=2" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes=0"], "--processes=0 must be at least 1"),
        (["--topology=v5p:4x4x4"], "add --executor=tpu_vm"),
        (["--executor=tpuvm"], "did you mean tpu_vm"),
        (["--executor=nowhere:Class"], "No module named 'nowhere'"),
    ],
)
def test_usage_error_is_one_line(tmp_path, flags, message):
    result = run(tmp_path, *flags)
    assert result.returncode == EXIT_USAGE and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_installed_package_is_not_added_to_the_path(monkeypatch):
    """Jobs find it without PYTHONPATH; site-packages on PYTHONPATH would precede the standard library."""
    monkeypatch.setenv("PYTHONPATH", "mine")
    assert executor.environment()["PYTHONPATH"] == f"{toy_run.ROOT}{os.pathsep}mine"
    monkeypatch.setattr(executor.source_archive, "is_checkout", lambda: False)
    assert "PYTHONPATH" not in executor.environment(), "inherited unchanged"
