"""The TPU VM executor with a fake gcloud: each failure is handled, and the slice is always deleted."""

import os

import pytest

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import topology
from codellama_jax.runtime import console
from codellama_jax.runtime.distributed import PEER_LOST
from launch.executor import Job, Requirements
from launch.tpu_vm.agent import OFFSET_MARK
from launch.tpu_vm.executor import TpuVm
from tests.launch.clock import SimulatedClock
from tests.launch.fake_cloud import FakeCloud, result
from tests.launch.jobs import experiment, job

READY = ["create", "state", "scp", "install"]
TRAINED = ["start", "watch", "result"]
PREEMPTED = {"out": "SUSPENDED\n"}
UNREACHABLE = {"code": 255, "err": "ssh: connect to host 1.2.3.4 port 22: Connection timed out"}
ACTIVE = {"out": "ACTIVE\n"}


def executor(restarts: int = 2) -> TpuVm:
    needs = Requirements(topology=topology("v5p-128"), restarts=restarts)
    return TpuVm(needs, "p", "us-east5-a", ("--spot",), clock=SimulatedClock())


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    console.configure_logging()
    made = FakeCloud(tmp_path / "cloud")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/sbin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    yield made
    assert not made.running, "the slice was not deleted"
    assert made.calls().count("create") <= made.calls().count("delete") or not made.calls().count("delete")


def run(*jobs: Job, restarts: int = 2) -> int:
    return executor(restarts).run(experiment(*jobs))


def test_jobs_of_an_experiment_share_a_slice(cloud, capfd):
    cloud.script(state=[{"out": "WAITING_FOR_RESOURCES\n"}, {"out": "PROVISIONING\n"}, ACTIVE])
    assert run(job("code"), job()) == 0
    waited = ["create", *["state"] * 3, "scp", "install"]
    assert cloud.calls() == [*waited, *TRAINED, "state", *TRAINED, "delete"]
    output = capfd.readouterr().out
    assert output.count("step 1\nstep 2\nstep 3\n") == 2 and "is WAITING_FOR_RESOURCES" in output


def test_dry_run_prints_the_commands_that_run(cloud):
    """Except the command that reads the state of the slice, which run() repeats."""
    both = experiment(job("code"), job())
    shown = list(executor().show(both))
    assert cloud.calls() == [], "a dry run executes nothing"
    assert not (cloud.folder.parent / "cache/codellama_jax/sources").exists()
    executor().check(both)
    assert executor().run(both) == 0
    executed = [argv for kind, argv in cloud.commands() if kind != "state"]
    for line in shown:
        os.system(line)
    assert [argv for kind, argv in cloud.commands() if kind != "state"][len(executed) :] == executed


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        pytest.param(  # saved and exited with 75, the slice is suspended: a new one is created
            {"result": [result(75, 75), result(0, 0)], "state": [ACTIVE, PREEMPTED, ACTIVE]},
            [*READY, *TRAINED, "state", "delete", *READY, *TRAINED, "delete"],
            id="preempted after saving",
        ),
        pytest.param(  # exited with 75, the slice is still active: the job starts again on it
            {"result": [result(75, 75), result(0, 0)]},
            [*READY, *TRAINED, "state", "state", *TRAINED, "delete"],
            id="stopped, slice still active",
        ),
        pytest.param(
            {
                "watch": [{"code": 255, "out": OFFSET_MARK.format(0) + "step 1\n"}, {}],
                "state": [ACTIVE, PREEMPTED, ACTIVE],
            },
            [*READY, "start", "watch", "state", "delete", *READY, *TRAINED, "delete"],
            id="preempted while training",
        ),
        pytest.param(
            {"result": [result(75, 137, last=(f"error: {PEER_LOST}", "step 9")), result(0, 0)]},
            [*READY, *TRAINED, "delete", *READY, *TRAINED, "delete"],
            id="a host died",
        ),
        pytest.param(
            {"result": [result(75, 75, last=(f"error: {PEER_LOST}",)), result(0, 0)]},
            [*READY, *TRAINED, "delete", *READY, *TRAINED, "delete"],
            id="all hosts report peer loss",
        ),
        pytest.param(
            {"install": [UNREACHABLE, {}]},
            [*READY, "state", "install", *TRAINED, "delete"],
            id="host unreachable for a moment",
        ),
        pytest.param(
            {"start": [UNREACHABLE, {}]},
            [*READY, "start", "state", *TRAINED, "delete"],
            id="host unreachable for a moment at the start",
        ),
        pytest.param(
            {"state": [{"out": "PROVISIONING\n"}, {"out": "SUSPENDING\n"}, ACTIVE]},
            ["create", "state", "state", "delete", *READY, *TRAINED, "delete"],
            id="suspended before it was active",
        ),
        pytest.param(
            {"delete": [{"code": 1, "err": "ERROR: timeout"}, {"code": 1, "err": "ERROR: timeout"}, {}]},
            [*READY, *TRAINED, "delete", "state", "delete", "state", "delete"],
            id="deletion takes several attempts",
        ),
        pytest.param(
            {"state": [{"code": 1, "err": "ERROR: Deadline exceeded"}, ACTIVE]},
            ["create", "state", *READY[1:], *TRAINED, "delete"],
            id="the cloud does not answer at first",
        ),
    ],
)
def test_resumes_after_losing_the_slice_or_a_host(cloud, script, calls):
    cloud.script(**script)
    assert run() == 0
    assert cloud.calls() == calls
    numbers = [argv[-1].split("lcft.")[1].split()[0] for kind, argv in cloud.commands() if kind == "watch"]
    assert numbers == sorted(set(numbers)), "each attempt has its own number"


def test_output_is_printed_once_after_broken_connections(cloud, capfd):
    """A connection breaks in the middle of a line. First gcloud reconnects, then the launcher."""
    text = "step 1\nstep 2\nstep 3\n"
    cloud.script(
        watch=[
            {"code": 255, "out": OFFSET_MARK.format(0) + text[:10] + OFFSET_MARK.format(0) + text[:17]},
            {"code": 1, "out": OFFSET_MARK.format(14) + text[14:16]},
            {"out": OFFSET_MARK.format(14) + text[14:]},
        ]
    )
    assert run() == 0
    assert cloud.calls() == [*READY, "start", "watch", "state", "watch", "state", "watch", "result", "delete"]
    assert "".join(line for line in capfd.readouterr().out.splitlines(True) if line.startswith("step")) == text
    offsets = [argv[-1].rpartition("=")[2] for kind, argv in cloud.commands() if kind == "watch"]
    assert offsets == ["0", "14", "14"]


@pytest.mark.parametrize(
    ("script", "message"),
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
def test_user_error_is_one_line(cloud, script, message):
    cloud.script(**script)
    with pytest.raises(UserError, match=message) as caught:
        run()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


def test_existing_slice_is_not_modified(cloud):
    cloud.script(create=[{"code": 1, "err": "ERROR: ALREADY_EXISTS: Resource already exists"}])
    (cloud.folder / "exists").touch()
    with pytest.raises(UserError, match="exists already"):
        run()
    assert cloud.calls() == ["create", "state"]
    with pytest.raises(UserError, match="exists already"):
        executor().check(experiment())
    assert cloud.calls() == ["create", "state", "state"]
    (cloud.folder / "exists").unlink()


def test_failed_job_is_not_restarted(cloud, capfd):
    cloud.script(result=[result(75, 1, last=(f"error: {PEER_LOST}", "error: gs://b/c d: no such file"))])
    assert run() == 1
    assert cloud.calls() == [*READY, *TRAINED, "delete"]
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: gs://b/c d: no such file (host-1)"]


def test_exits_with_75_after_the_last_restart(cloud, capfd):
    cloud.script(result=[result(75, 75)], state=[ACTIVE, PREEMPTED] * 9)
    assert run(restarts=3) == 75
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 4
    assert "3 times (--restarts)" in capfd.readouterr().err


def test_externally_deleted_slice_is_not_recreated(cloud):
    cloud.script(watch=[{"code": 255, "gone": True}])
    assert run() == 75
    assert cloud.calls().count("create") == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    ("script", "calls"),
    [
        pytest.param({"create": [{}]}, ["create", "delete"], id="create"),
        pytest.param({"state": [{"out": "PROVISIONING\n"}]}, ["create", "state", "delete"], id="state"),
        pytest.param({"scp": [{"hangs": True}]}, ["create", "state", "scp", "delete"], id="scp"),
        pytest.param({"install": [{"hangs": True}]}, [*READY, "delete"], id="install"),
        pytest.param(
            {
                "watch": [{"hangs": True}, {"out": OFFSET_MARK.format(0) + "saved\n"}],
                "result": [result(75, 75, stop_requested=True)],
            },
            [*READY, "start", "watch", "stop", "watch", "result", "delete"],
            id="watch",
        ),
    ],
)
def test_signal_deletes_the_slice(cloud, script, calls, number):
    """At each step of a run. During training, the job saves first."""
    [first, *_] = script
    script[first][0]["signal"] = number
    cloud.script(**script)
    assert run() == 75
    assert cloud.calls() == calls


def test_second_signal_does_not_wait_for_the_save(cloud):
    hanging = {"hangs": True, "signal": "SIGINT"}
    cloud.script(watch=[hanging, hanging])
    assert run() == 75
    assert cloud.calls() == [*READY, "start", "watch", "stop", "watch", "delete"]


@pytest.mark.parametrize("module", ["my_tasks", "my_package.tasks"])
def test_imported_module_must_be_in_the_checkout(cloud, module):
    with pytest.raises(UserError, match=f"--import={module}: other machines get a copy of .* move it there") as caught:
        executor().check(experiment(job(imports=(module,))))
    assert cloud.calls() == [] and caught.value.exit_code == EXIT_USAGE


def test_imported_module_is_passed_to_the_hosts(cloud):
    assert run(job(imports=("tasks.inspect",))) == 0
    [start] = [argv[-1] for kind, argv in cloud.commands() if kind == "start"]
    assert " --import=tasks.inspect" in start.partition("codellama_jax.train")[2]
