"""The TPU VM executor against a gcloud that plays a script: every way in which it can go, and that nothing is left."""

import os

import pytest

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from codellama_jax.runtime.distributed import PEER_LOST
from launch.executor import Requirements
from launch.job import ROOT, Experiment, Job
from launch.tpu_vm.agent import MARK
from launch.tpu_vm.executor import TpuVm
from tests.launch.stand_in import Cloud, result

BINDINGS = (
    "TOKENIZER=gs://b/t.model",
    "CODE_CORPUS=gs://b/c d/*.parquet",
    'NL_CODE_CORPUS="gs://b/it\'s $x"',
    "NL_CORPUS=nl",
)
READY = ["create", "state", "scp", "install"]
TRAINED = ["start", "watch", "result"]
PREEMPTED = {"out": "SUSPENDED\n"}
UNREACHABLE = {"code": 255, "err": "ssh: connect to host 1.2.3.4 port 22: Connection timed out"}
ACTIVE = {"out": "ACTIVE\n"}


def job(stage="lcft") -> Job:
    files = [f"gin/{stage}.gin", "gin/models/7b.gin"]
    bindings = (*BINDINGS, "INITIAL_CHECKPOINT=gs://b/llama")
    config = gin_files.load(files, bindings).resolve()
    paths = tuple(str(ROOT / file) for file in files)
    return Job(stage, paths, bindings, "gs://b/runs", "seven", (), config)


def executor(restarts: int = 2, **more) -> TpuVm:
    needs = Requirements(topology=topology("v5p-128"), restarts=restarts)
    return TpuVm(needs, "p", "us-east5-a", ("--spot",), pace=0.001, **more)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    made = Cloud(tmp_path / "cloud")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/sbin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    yield made
    assert not made.running, "a slice is left"
    assert made.calls().count("create") <= made.calls().count("delete") or not made.calls().count("delete")


def run(*jobs: Job, **more) -> int:
    return executor(**more).run(Experiment("seven", "gs://b/runs", jobs or (job(),)))


def test_a_cascade_runs_on_one_slice(cloud, capfd):
    cloud.script(state=[{"out": "WAITING_FOR_RESOURCES\n"}, {"out": "PROVISIONING\n"}, ACTIVE])
    assert run(job("code"), job()) == 0
    waited = ["create", *["state"] * 3, "scp", "install"]
    assert cloud.calls() == [*waited, *TRAINED, "state", *TRAINED, "delete"]
    seen = capfd.readouterr().out
    assert seen.count("step 1\nstep 2\nstep 3\n") == 2 and "is WAITING_FOR_RESOURCES" in seen


def test_what_is_shown_is_what_runs(cloud):
    """The commands of --dry_run are those that gcloud is called with, but for the state, which is asked repeatedly."""
    experiment = Experiment("seven", "gs://b/runs", (job("code"), job()))
    shown = list(executor().show(experiment))
    assert cloud.calls() == [], "a dry run calls nothing"
    assert not (cloud.folder.parent / "cache/codellama_jax/sources").exists(), "the planner may keep its answers"
    executor().check(experiment)
    assert executor().run(experiment) == 0
    ran = [argv for what, argv in cloud.commands() if what != "state"]
    for line in shown:
        os.system(line)
    typed = [argv for what, argv in cloud.commands() if what != "state"][len(ran) :]
    assert typed == ran


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        pytest.param(  # saved and ended with 75, the slice suspended: another one
            {"result": [result(75, 75), result(0, 0)], "state": [ACTIVE, PREEMPTED, ACTIVE]},
            [*READY, *TRAINED, "state", "delete", *READY, *TRAINED, "delete"],
            id="preempted after saving",
        ),
        pytest.param(  # ended with 75, the slice is still there: it starts again on it
            {"result": [result(75, 75), result(0, 0)]},
            [*READY, *TRAINED, "state", "state", *TRAINED, "delete"],
            id="stopped, slice still there",
        ),
        pytest.param(
            {"watch": [{"code": 255, "out": MARK.format(0) + "step 1\n"}, {}], "state": [ACTIVE, PREEMPTED, ACTIVE]},
            [*READY, "start", "watch", "state", "delete", *READY, *TRAINED, "delete"],
            id="taken away while training",
        ),
        pytest.param(
            {"result": [result(75, 137, last=(f"error: {PEER_LOST}", "step 9")), result(0, 0)]},
            [*READY, *TRAINED, "delete", *READY, *TRAINED, "delete"],
            id="a host died",
        ),
        pytest.param(
            {"result": [result(75, 75, last=(f"error: {PEER_LOST}",)), result(0, 0)]},
            [*READY, *TRAINED, "delete", *READY, *TRAINED, "delete"],
            id="hosts lost each other",
        ),
        pytest.param(
            {"install": [UNREACHABLE, {}]},
            [*READY, "state", "delete", *READY, *TRAINED, "delete"],
            id="a worker unreachable",
        ),
        pytest.param(
            {"start": [UNREACHABLE, {}]},
            [*READY, "start", "state", "delete", *READY, *TRAINED, "delete"],
            id="a worker unreachable at the start",
        ),
        pytest.param(
            {"state": [{"out": "PROVISIONING\n"}, {"out": "SUSPENDING\n"}, ACTIVE]},
            ["create", "state", "state", "delete", *READY, *TRAINED, "delete"],
            id="suspended before it was there",
        ),
        pytest.param(
            {"delete": [{"code": 1, "err": "ERROR: timeout"}, {"code": 1, "err": "ERROR: timeout"}, {}]},
            [*READY, *TRAINED, "delete", "state", "delete", "state", "delete"],
            id="deleting takes several tries",
        ),
        pytest.param(
            {"state": [{"code": 1, "err": "ERROR: Deadline exceeded"}, ACTIVE]},
            ["create", "state", *READY[1:], *TRAINED, "delete"],
            id="the cloud does not answer for a while",
        ),
    ],
)
def test_it_goes_on(cloud, script, calls):
    cloud.script(**script)
    assert run() == 0
    assert cloud.calls() == calls
    numbers = [argv[-1].split("lcft.")[1].split()[0] for what, argv in cloud.commands() if what == "start"]
    assert numbers == sorted(set(numbers)), "each start has a number of its own"


def test_a_broken_connection_loses_and_doubles_nothing(cloud, capfd):
    """Half a line comes through; gcloud connects again by itself with the same command; then the launcher does."""
    text = "step 1\nstep 2\nstep 3\n"
    cloud.script(
        watch=[
            {"code": 255, "out": MARK.format(0) + text[:10] + MARK.format(0) + text[:17]},
            {"code": 1, "out": MARK.format(14) + text[14:16]},
            {"out": MARK.format(14) + text[14:]},
        ]
    )
    assert run() == 0
    assert cloud.calls() == [*READY, "start", "watch", "state", "watch", "state", "watch", "result", "delete"]
    assert "".join(line for line in capfd.readouterr().out.splitlines(True) if line.startswith("step")) == text
    positions = [argv[-1].rpartition("=")[2] for what, argv in cloud.commands() if what == "watch"]
    assert positions == ["0", "14", "14"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            {"create": [{"code": 1, "err": "ERROR: RESOURCE_EXHAUSTED: Quota 'TPUV5PPerProject' exceeded"}]},
            "no quota for",
        ),
        ({"create": [{"code": 1, "err": "ERROR: PERMISSION_DENIED: tpu.nodes.create"}]}, "PERMISSION_DENIED"),
        ({"state": [{"out": "FAILED\tQuota limit 'TPUV5P' has been exceeded.\n"}]}, "iam-admin/quotas"),
        ({"install": [{"code": 1, "err": "error: no space left on device"}]}, "no space left on device"),
        ({"start": [{"code": 127, "err": "env: no such file"}]}, "env: no such file"),
    ],
)
def test_what_the_user_must_mend(cloud, script, words):
    cloud.script(**script)
    with pytest.raises(UserError, match=words) as caught:
        run()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


def test_a_slice_of_somebody_else_is_left_alone(cloud):
    cloud.script(create=[{"code": 1, "err": "ERROR: ALREADY_EXISTS: Resource already exists"}])
    (cloud.folder / "exists").touch()
    with pytest.raises(UserError, match="exists already"):
        run()
    assert cloud.calls() == ["create"]
    (cloud.folder / "exists").unlink()


def test_a_job_that_fails_is_not_started_again(cloud, capfd):
    cloud.script(result=[result(75, 1, last=(f"error: {PEER_LOST}", "error: gs://b/c d: no such file"))])
    assert run() == 1
    assert cloud.calls() == [*READY, *TRAINED, "delete"]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: gs://b/c d: no such file (host-1)"]


def test_it_gives_up(cloud, capfd):
    cloud.script(result=[result(75, 75)], state=[ACTIVE, PREEMPTED] * 9)
    assert run(restarts=3) == 75
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 4
    assert "3 times (--restarts)" in capfd.readouterr().err


def test_a_slice_that_somebody_deleted_is_not_created_again(cloud):
    cloud.script(watch=[{"code": 255, "gone": True}])
    assert run() == 75
    assert cloud.calls().count("create") == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("script", "calls"),
    [
        pytest.param({"create": [{}]}, [*READY[:1], "state", "delete"], id="create"),
        pytest.param({"state": [{"out": "PROVISIONING\n"}]}, ["create", "state", "delete"], id="state"),
        pytest.param({"scp": [{"hangs": True}]}, ["create", "state", "scp", "delete"], id="scp"),
        pytest.param({"install": [{"hangs": True}]}, [*READY, "delete"], id="install"),
        pytest.param(
            {"watch": [{"hangs": True}, {"out": MARK.format(0) + "saved\n"}], "result": [result(75, 75, asked=True)]},
            [*READY, "start", "watch", "stop", "watch", "result", "delete"],
            id="watch",
        ),
    ],
)
def test_a_signal_ends_it_and_deletes_what_was_created(cloud, script, calls, number):
    """Ctrl-C at each step: while training the job saves first."""
    [first, *_] = script
    script[first][0]["signal"] = number
    cloud.script(**script)
    assert run() == 75
    assert cloud.calls() == calls


def test_a_second_signal_does_not_wait(cloud):
    hanging = {"hangs": True, "signal": "SIGINT"}
    cloud.script(watch=[hanging, hanging])
    assert run() == 75
    assert cloud.calls() == [*READY, "start", "watch", "stop", "watch", "delete"]
