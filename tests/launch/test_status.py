"""The commands status, logs and stop."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path

import pytest

from launch.tpu_vm.commands import TpuVmCommands

LOCATION = ["--project=p", "--zone=us-east5-a"]


def stage_folder(root: Path, stage: str, steps: int, *, done: bool = False, logged: int = 0) -> Path:
    folder = root / "runs/mine" / stage
    (folder / "checkpoints/40").mkdir(parents=True)
    (folder / "config.gin").write_text("")
    (folder / "stage.json").write_text(json.dumps({"steps": steps, "batch_tokens": 1000}))
    lines = [{"step": step + 1, "loss": 9 - step / 100, "tokens_per_second": 500.0} for step in range(logged)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    if done:
        (folder / "done.json").write_text('{"step": 40}')
    return folder


def test_status_of_local_runs(isolated_cloud):
    stage_folder(isolated_cloud.folder, "code", 40, done=True, logged=40)
    running = stage_folder(isolated_cloud.folder, "lcft", 100, logged=60)
    os.utime(running / "checkpoints/40", (time.time() - 300,) * 2)
    assert "no runs in" in isolated_cloud.launch("status", f"--run_dir={isolated_cloud.folder}/none")
    assert "there is no run min in runs" in isolated_cloud.launch("status", "min", code=1)
    with (running / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        output = isolated_cloud.launch("status", "--json")
        rows = isolated_cloud.launch("status").splitlines()[1:]
        refused = isolated_cloud.launch("--gin_file=gin/lcft.gin", "--name=mine", "--gin.CODE_STEPS=9", code=1)
    records = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert [(record["stage"], record["state"], record["step"]) for record in records] == [
        ("code", "finished", 40),
        ("lcft", "running", 60),
    ]
    assert records[1]["loss"] == pytest.approx(8.41) and records[1]["left"] == 40 * 1000 / 500
    assert 299 < records[1]["age"] < 400
    assert rows[0].split() == ["run", "stage", "state", "step", "loss", "tokens/s", "saved", "left"]
    assert rows[2].split() == ["mine", "lcft", "running", "60/100", "8.410", "500", "5", "min", "ago", "80", "s"]
    assert refused
    assert '"stopped"' in isolated_cloud.launch("status", "--json")


def test_stop_and_logs_of_a_missing_run_are_errors(isolated_cloud):
    assert "which run?" in isolated_cloud.launch("stop", code=2)
    assert "is not running" in isolated_cloud.launch("stop", "mine", code=1)
    assert "on a terminal is not kept" in isolated_cloud.launch("logs", "mine", code=1)
    assert "there is no codellama-jax-mine" in isolated_cloud.launch(
        "stop", "mine", "--executor=tpu_vm", *LOCATION, code=1
    )


ON_TPU = ["--executor=tpu_vm", *LOCATION]
SOME_RUNS = ("Run_A", "a模型", "x" * 100)


@pytest.mark.parametrize("run", SOME_RUNS)
def test_run_with_a_changed_name_is_stopped(isolated_cloud, run):
    created = TpuVmCommands(run, "p", "z").create((), "v", ()).argv
    (isolated_cloud.folder / "exists").write_text(json.dumps(created))
    isolated_cloud.launch("stop", run, *ON_TPU)
    assert isolated_cloud.calls() == ["describe", "stop", "delete"] and not isolated_cloud.running


@pytest.mark.parametrize("run", SOME_RUNS)
def test_slice_of_another_run_is_not_touched(isolated_cloud, run):
    """The name of its slice is typed as the name of a run."""
    created = TpuVmCommands(run, "p", "z").create((), "v", ()).argv
    (isolated_cloud.folder / "exists").write_text(json.dumps(created))
    typed = TpuVmCommands(run, "p", "z").resource.removeprefix("codellama-jax-")
    description = isolated_cloud.folder / "exists"
    metadata = [word for word in created if word.startswith("--metadata=")]
    resource = TpuVmCommands(typed, "p", "z").resource
    description.write_text(json.dumps(["create", f"--labels=codellama-jax={resource}", *metadata]))
    for command in ("stop", "logs"):
        assert f"belongs to the run {run}; nothing was changed" in isolated_cloud.launch(
            command, typed, *ON_TPU, code=1
        )
    assert isolated_cloud.calls() == ["describe", "describe"]
    description.unlink()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"code": 1, "err": "ERROR: UNAVAILABLE: later"}, "cannot be read (UNAVAILABLE: later); nothing was changed"),
        ({"code": 1, "err": "ERROR: PERMISSION_DENIED: no"}, "cannot be read (PERMISSION_DENIED: no)"),
        ({"out": "{}"}, "was not created by this launcher; nothing was changed"),
    ],
)
def test_slice_whose_run_is_not_known_is_not_touched(isolated_cloud, answer, message):
    (isolated_cloud.folder / "exists").touch()
    isolated_cloud.script(describe=[answer])
    assert message in isolated_cloud.launch("stop", "mine", *ON_TPU, code=1)
    assert isolated_cloud.calls() == ["describe"]
    (isolated_cloud.folder / "exists").unlink()


def test_stop_and_logs_of_a_run_on_a_slice(isolated_cloud):
    (isolated_cloud.folder / "exists").touch()
    isolated_cloud.script(logs=[{"out": "step 7\n"}])
    assert "step 7" in isolated_cloud.launch("logs", "mine", "--executor=tpu_vm", *LOCATION)
    isolated_cloud.launch("stop", "mine", "--executor=tpu_vm", *LOCATION)
    assert isolated_cloud.calls() == ["describe", "logs", "describe", "stop", "delete"]
