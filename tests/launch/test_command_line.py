"""The launcher as it is typed: chains, bad input, status, with a gcloud that plays a script and no other."""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch import capacity
from tests.launch.stand_in import Cloud
from tests.launch.toy import ROOT

SEVEN = [
    "--gin_file=gin/lcft.gin",
    "--gin_file=gin/models/7b.gin",
    *(f"--gin.{corpus}_CORPUS=gs://b/{corpus}" for corpus in ("CODE", "NL_CODE", "NL")),
    *("--gin.TOKENIZER=gs://b/t.model", "--gin.INITIAL_CHECKPOINT=gs://b/llama", "--name=seven"),
]
ON_TPU = ["--executor=tpu_vm", "--topology=v5p-128", "--run_dir=gs://b/runs"]
PLACE = ["--project=p", "--zone=us-east5-a"]


@pytest.fixture
def cloud(tmp_path):
    """With what the launcher needs beside gcloud, and no gcloud behind it."""
    made = Cloud(tmp_path / "cloud")
    for program in ("git", "bash", "sh"):
        (made.bin / program).symlink_to(shutil.which(program))
    yield made
    assert not made.running


def launch(cloud: Cloud, *flags: str, code: int = 0, stdin: str | None = None) -> str:
    """Runs the launcher; libtpu is not there, so that plans take no time."""
    keep = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment = {**keep, "PATH": str(cloud.bin), "XDG_CACHE_HOME": str(cloud.folder / "cache")}
    run = subprocess.run(
        [sys.executable, str(ROOT / "xm_launch.py"), *flags],
        cwd=cloud.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        input=stdin,
    )
    assert run.returncode == code, run.stdout + run.stderr
    errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (1 if code in (1, 2) else 0) and "Traceback" not in run.stderr
    return run.stdout + run.stderr


def test_no_gcloud(cloud):
    (cloud.bin / "gcloud").unlink()
    assert "cloud.google.com/sdk" in launch(cloud, *SEVEN, *ON_TPU, *PLACE, "--chain", "--yes", code=1)
    shown = launch(cloud, *SEVEN, *ON_TPU, *PLACE, "--chain", "--dry_run")
    assert (
        "queued-resources create codellama-jax-seven" in shown
        and not (cloud.folder / "cache/codellama_jax/sources").exists()
    )


@pytest.mark.parametrize(
    ("script", "flags", "words", "code"),
    [
        ({}, ["--zone=z"], "no project is set: add --project=VALUE", 2),
        ({}, ["--project=p"], "no zone is set: add --zone=VALUE", 2),
        (
            {"storage_cp": [{"code": 1, "err": "ERROR: HTTPError 403: denied"}]},
            PLACE,
            "gs://b/runs cannot be written",
            1,
        ),
        ({"storage_ls": [{"code": 1, "err": "ERROR: 404 bucket not found"}]}, PLACE, "cannot be read", 1),
        ({"create": [{"code": 1, "err": "ERROR: Quota exceeded"}]}, PLACE, "no quota for codellama-jax-seven", 1),
        ({}, [*PLACE, "--topology=v5p-100"], "use v5p-64 or v5p-128", 2),
        ({}, [*PLACE, "--topology=v6p-128"], "did you mean", 2),
        ({}, [*PLACE, "--topology=v5p-8"], "smallest slice that fits is --topology=v5p:4x4x4", 2),
        ({}, [*PLACE, "--topology=tpu7x-128"], "use --executor=gke", 2),
        ({}, [*PLACE, "--topology=v5p:2x4x8"], "--topology=v5p-128", 2),
        ({}, [*PLACE, "--run_dir=runs"], "--run_dir=gs://BUCKET/FOLDER", 2),
        ({}, [*PLACE, "--gin.TOKENIZER=/data/t.model"], "is a path of this machine", 2),
        ({}, [*PLACE, "--libtpu_bundle=fast"], "v5p has none, overlap", 2),
        ({}, [*PLACE, "--restarts=-1"], "must not be negative", 2),
        ({}, [*PLACE, "--slices=2"], "for --executor=gke alone", 2),
        ({}, ["--executor=gke", "--slices=0"], "--slices=0 must be at least 1", 2),
        ({}, ["--executor=gke", "--topology=v5p:2x2x1", "--slices=2"], "v5p:2x2x1 has one", 2),
        ({}, ["--executor=gke", "--reserved"], "leave it out with --executor=gke", 2),
        ({}, ["--executor=gke"], "--image=IMAGE is needed", 2),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_created(cloud, script, flags, words, code):
    cloud.script(**script)
    assert words in launch(cloud, *SEVEN, *ON_TPU, *flags, "--chain", "--yes", code=code)
    assert "create" in script or "create" not in cloud.calls()


def test_a_chain_is_shown_and_asked_about(cloud):
    """Without --chain the missing stage is named; with it the plan is shown; nobody to ask is said."""
    assert "add --chain" in launch(cloud, *SEVEN, *ON_TPU, *PLACE, code=1)
    seen = launch(cloud, *SEVEN, *ON_TPU, *PLACE, "--chain", code=2, stdin="")
    assert "add --yes" in seen and "create" not in cloud.calls()
    table = [line.split() for line in seen.splitlines()]
    assert ["stage", "steps", "tokens", "memory", "chip-hours", "days"] in table
    hours = {row[0]: float(row[-2].replace(",", "")) for row in table if row and row[0] in ("code", "lcft", "all")}
    assert 13_458 < hours["code"] < 30_000 and 225 < hours["lcft"] < 500
    assert hours["all"] == pytest.approx(hours["code"] + hours["lcft"], abs=1)

    assert launch(cloud, *SEVEN, *ON_TPU, *PLACE, "--chain", "--yes")
    starts = [argv[-1] for what, argv in cloud.commands() if what == "start"]
    assert ["code.0" in starts[0], "lcft.0" in starts[1]] == [True, True]
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 1


def test_what_a_bucket_has_is_not_run_again(cloud):
    """The notes of a finished stage are read from the bucket: only what is missing is planned."""
    listing = "gs://b/runs/seven/code/done.json\ngs://b/runs/seven/code/checkpoints/\n"
    nothing = {"code": 1, "err": "One or more URLs matched no objects."}
    whole = "gs://b/runs/seven/code/checkpoints/9/checksums.json\n"
    script = {
        "storage ls": [nothing, {"out": listing}, {"out": whole}, nothing],
        "storage cat": [{"out": '{"step": 9}'}],
    }
    cloud.script(**script)
    shown = launch(cloud, *SEVEN, *ON_TPU, *PLACE, "--dry_run")
    assert "on_host start lcft.0" in shown and "start code.0" not in shown


def test_executors_of_ones_own(cloud):
    (cloud.folder / "mine.py").write_text("""if True:
        from launch.local.executor import Local
        class Mine(Local):
            @staticmethod
            def add_flags(parser):
                Local.add_flags(parser)
                parser.add_argument("--queue", required=True)
            def show(self, experiment):
                return [f"submit {job.stage}" for job in experiment.jobs]
    """)
    flags = ["--executor=mine:Mine", "--queue=q", "--dry_run", f"--run_dir={cloud.folder}/runs"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "xm_launch.py"), "--gin_file=gin/lcft.gin", *flags],
        env=os.environ | {"PYTHONPATH": str(cloud.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.splitlines()[-2:] == ["submit code", "submit lcft"], run.stderr


# ---------------------------------------------------------------- status, logs, stop


def stage_folder(root: Path, stage: str, steps: int, *, done: bool = False, seen: int = 0) -> Path:
    folder = root / "runs/mine" / stage
    (folder / "checkpoints/40").mkdir(parents=True)
    (folder / "config.gin").write_text("")
    (folder / "stage.json").write_text(json.dumps({"steps": steps, "batch_tokens": 1000}))
    lines = [{"step": step + 1, "loss": 9 - step / 100, "tokens_per_second": 500.0} for step in range(seen)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    if done:
        (folder / "done.json").write_text('{"step": 40}')
    return folder


def test_status_of_runs_here(cloud):
    stage_folder(cloud.folder, "code", 40, done=True, seen=40)
    running = stage_folder(cloud.folder, "lcft", 100, seen=60)
    os.utime(running / "checkpoints/40", (time.time() - 300,) * 2)
    assert "no runs in" in launch(cloud, "status", f"--run_dir={cloud.folder}/none")
    with (running / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(f"{os.getpid()} on {socket.gethostname()}\n")
        held.flush()
        seen = [json.loads(line) for line in launch(cloud, "status", "--json").splitlines() if line.startswith("{")]
        rows = launch(cloud, "status").splitlines()[1:]
        refused = launch(cloud, "--gin_file=gin/lcft.gin", "--name=mine", "--gin.CODE_STEPS=9", code=1)
    assert [(one["stage"], one["state"], one["step"]) for one in seen] == [
        ("code", "finished", 40),
        ("lcft", "running", 60),
    ]
    assert seen[1]["loss"] == pytest.approx(8.41) and seen[1]["left"] == 40 * 1000 / 500
    assert 299 < seen[1]["age"] < 400
    assert rows[0].split() == ["run", "stage", "state", "step", "loss", "tokens/s", "saved", "left"]
    assert rows[2].split() == ["mine", "lcft", "running", "60/100", "8.410", "500", "5", "min", "ago", "80", "s"]
    assert refused
    assert '"stopped"' in launch(cloud, "status", "--json")


def test_stop_and_logs_of_what_is_not_there(cloud):
    assert "which run?" in launch(cloud, "stop", code=2)
    assert "does not run" in launch(cloud, "stop", "mine", code=1)
    assert "on a terminal is not kept" in launch(cloud, "logs", "mine", code=1)
    assert "there is no codellama-jax-mine" in launch(cloud, "stop", "mine", "--executor=tpu_vm", *PLACE, code=1)


def test_stop_and_logs_on_a_slice(cloud):
    (cloud.folder / "exists").touch()
    cloud.script(logs=[{"out": "step 7\n"}])
    assert "step 7" in launch(cloud, "logs", "mine", "--executor=tpu_vm", *PLACE)
    launch(cloud, "stop", "mine", "--executor=tpu_vm", *PLACE)
    assert cloud.calls() == ["logs", "state", "stop", "delete"]


def test_the_planner_is_asked_where_there_is_one():
    """Slices that arithmetic finds far too small are not compiled for."""
    from codellama_jax.planning.chips import topology
    from tests.launch.tpu_vm.test_tpu_vm import job

    asked = []

    def ask(config, slice_):
        asked.append(slice_.slice_name)
        return capacity.Answer(2**37, slice_.chips >= 128, 1.0, "compiled")

    with pytest.raises(capacity.UserError, match=r"--topology=v5p:4x4x8 \(v5p-256\)"):
        capacity.check([job()], topology("v5p-16"), ask)
    assert asked == ["v5p:2x2x2", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8"], "not 2x2x1, not 2x2x4"
