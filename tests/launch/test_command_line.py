"""The launcher's command line with a fake gcloud: chains of stages, bad input, executors."""

import os
import subprocess
import sys

import pytest

from tests.launch.fake_cloud import ROOT

SEVEN = [
    "--gin_file=gin/lcft.gin",
    "--gin_file=gin/models/7b.gin",
    *(f"--gin.{corpus}_CORPUS=gs://b/{corpus}" for corpus in ("CODE", "NL_CODE", "NL")),
    *("--gin.TOKENIZER=gs://b/t.model", "--gin.INITIAL_CHECKPOINT=gs://b/llama", "--name=seven"),
]
ON_TPU = ["--executor=tpu_vm", "--topology=v5p-128", "--run_dir=gs://b/runs"]
LOCATION = ["--project=p", "--zone=us-east5-a"]


def test_dry_run_needs_no_gcloud(isolated_cloud):
    (isolated_cloud.bin / "gcloud").unlink()
    assert "cloud.google.com/sdk" in isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, "--chain", "--yes", code=1)
    shown = isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, "--chain", "--dry_run")
    assert (
        "queued-resources create codellama-jax-seven" in shown
        and not (isolated_cloud.folder / "cache/codellama_jax/sources").exists()
    )


@pytest.mark.parametrize(
    ("script", "flags", "message", "code"),
    [
        ({}, ["--zone=z"], "no project is set: add --project=VALUE", 2),
        ({}, ["--project=p"], "no zone is set: add --zone=VALUE", 2),
        (
            {"storage_cp": [{"code": 1, "err": "ERROR: HTTPError 403: denied"}]},
            LOCATION,
            "gs://b/runs cannot be written",
            1,
        ),
        ({"storage_ls": [{"code": 1, "err": "ERROR: 404 bucket not found"}]}, LOCATION, "cannot be read", 1),
        ({"create": [{"code": 1, "err": "ERROR: Quota exceeded"}]}, LOCATION, "no quota for codellama-jax-seven", 1),
        ({}, [*LOCATION, "--topology=v5p-100"], "use v5p-64 or v5p-128", 2),
        ({}, [*LOCATION, "--topology=v6p-128"], "did you mean", 2),
        ({}, [*LOCATION, "--topology=v5p-8"], "smallest slice that fits is --topology=v5p:4x4x4", 2),
        ({}, [*LOCATION, "--topology=tpu7x-128"], "use --executor=gke", 2),
        ({}, [*LOCATION, "--topology=v5p:2x4x8"], "--topology=v5p-128", 2),
        ({}, [*LOCATION, "--run_dir=runs"], "--run_dir=gs://BUCKET/FOLDER", 2),
        ({}, [*LOCATION, "--gin.TOKENIZER=/data/t.model"], "is a path of this machine", 2),
        (
            {},
            [*LOCATION, "--gin.CODE_CORPUS=['gs://b/c','embedded:exercises','code']"],
            "Corpus.code=code (code) is a path of",
            2,
        ),
        ({}, [*LOCATION, "--gin.NL_CORPUS=tfds:c4?data_dir=/d&split=train"], "is a path of this machine", 2),
        ({}, [*LOCATION, "--gin.Evaluation.benchmark_data=/d"], "Evaluation.benchmark_data=/d (code) is a path of", 2),
        ({}, [*LOCATION, "--libtpu_bundle=overlap"], "v5p has fast, none", 2),
        ({}, [*LOCATION, "--restarts=-1"], "must not be negative", 2),
        ({}, [*LOCATION, "--slices=2"], "only --executor=gke supports several slices", 2),
        ({}, ["--executor=gke", "--slices=0"], "--slices=0 must be at least 1", 2),
        ({}, ["--executor=gke", "--topology=v5p:2x2x1", "--slices=2"], "v5p:2x2x1 has one", 2),
        ({}, ["--executor=gke", "--reserved"], "leave it out with --executor=gke", 2),
        ({}, ["--executor=gke"], "--image=IMAGE is needed", 2),
    ],
)
def test_bad_input_is_a_one_line_error_and_creates_nothing(isolated_cloud, script, flags, message, code):
    isolated_cloud.script(**script)
    assert message in isolated_cloud.launch_here(*SEVEN, *ON_TPU, *flags, "--chain", "--yes", code=code)
    assert "create" in script or "create" not in isolated_cloud.calls()


def test_chain_is_shown_and_confirmed(isolated_cloud):
    """Without --chain the missing stage is named; with it the plan is printed; without a terminal --yes is required."""
    assert "add --chain" in isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, code=1)
    output = isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, "--chain", code=2, stdin="")
    assert "add --yes" in output and "create" not in isolated_cloud.calls()
    table = [line.split() for line in output.splitlines()]
    assert ["stage", "steps", "tokens", "memory", "chip-hours", "days"] in table
    hours = {row[0]: float(row[-2].replace(",", "")) for row in table if row and row[0] in ("code", "lcft", "all")}
    assert 13_458 < hours["code"] < 30_000 and 225 < hours["lcft"] < 500
    assert hours["all"] == pytest.approx(hours["code"] + hours["lcft"], abs=1)

    assert isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, "--chain", "--yes")
    starts = [argv[-1] for kind, argv in isolated_cloud.commands() if kind == "start"]
    assert ["code.0" in starts[0], "lcft.0" in starts[1]] == [True, True]
    assert isolated_cloud.calls().count("create") == isolated_cloud.calls().count("delete") == 1


def test_stage_that_is_finished_in_a_bucket_is_not_planned(isolated_cloud):
    listing = "gs://b/runs/seven/code/done.json\ngs://b/runs/seven/code/checkpoints/\n"
    nothing = {"code": 1, "err": "One or more URLs matched no objects."}
    checksums = "gs://b/runs/seven/code/checkpoints/9/checksums.json\n"
    script = {
        "storage ls": [nothing, {"out": listing}, {"out": checksums}, nothing],
        "storage cat": [{"out": '{"step": 9}'}],
    }
    isolated_cloud.script(**script)
    shown = isolated_cloud.launch(*SEVEN, *ON_TPU, *LOCATION, "--dry_run")
    assert "agent start lcft.0" in shown and "start code.0" not in shown


def test_user_defined_executor_gets_its_flags_and_the_jobs(isolated_cloud):
    (isolated_cloud.folder / "mine.py").write_text("""if True:
        from launch.local.executor import Local
        class Mine(Local):
            @staticmethod
            def add_flags(parser):
                Local.add_flags(parser)
                parser.add_argument("--queue", required=True)
            def show(self, experiment):
                return [f"submit {job.stage}" for job in experiment.jobs]
    """)
    flags = ["--executor=mine:Mine", "--queue=q", "--dry_run", f"--run_dir={isolated_cloud.folder}/runs"]
    run = subprocess.run(
        [sys.executable, str(ROOT / "xm_launch.py"), "--gin_file=gin/lcft.gin", *flags],
        env=os.environ | {"PYTHONPATH": str(isolated_cloud.folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout.splitlines()[-2:] == ["submit code", "submit lcft"], run.stderr


def test_imported_modules_are_passed_to_the_jobs(isolated_cloud):
    """Flags and gin files can import modules; cloud executors refuse modules outside the checkout."""
    (isolated_cloud.folder / "my.gin").write_text("import my_package.tasks\n")
    imported = ["--import=my_tasks", f"--gin_file={isolated_cloud.folder}/my.gin"]
    local = isolated_cloud.launch("--gin_file=gin/lcft.gin", *imported, "--dry_run")
    commands = [line for line in local.splitlines() if "codellama_jax.train" in line]
    assert len(commands) == 2
    assert all(
        " --import=my_tasks" in line and f" --gin_file={isolated_cloud.folder}/my.gin" in line for line in commands
    )
    for executor in (ON_TPU, [*ON_TPU, "--executor=gke", "--image=i"]):
        flags = [*SEVEN, *executor, "--chain", "--dry_run"]
        flags += LOCATION if executor is ON_TPU else []
        assert "--import=my_tasks: other machines" in isolated_cloud.launch(*flags, "--import=my_tasks", code=2)
        shown = isolated_cloud.launch(*flags, "--import=tasks.inspect")
        assert shown.count("--import=tasks.inspect") == 2
