"""The TPU VM executor retries failures that may be temporary, and ends at once with the cause of others."""

import os
import signal

import pytest

from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from codellama_jax.runtime import console
from launch import cloud as cloud_module
from launch.executor import Requirements
from launch.tpu_vm.executor import TpuVm
from launch.tpu_vm.queued_resource import HOST_SECONDS
from tests.launch.clock import SimulatedClock
from tests.launch.fake_cloud import FakeCloud, result
from tests.launch.jobs import experiment

READY = ["create", "state", "scp", "install"]
TRAINED = ["start", "watch", "result"]
ACTIVE, PREEMPTED = {"out": "ACTIVE\n"}, {"out": "SUSPENDED\n"}
PREEMPTED_ONCE = {"result": [result(75, 75), result(0, 0)], "state": [ACTIVE, PREEMPTED, ACTIVE]}
HOUR = 3600.0


def failure(text: str) -> dict:
    return {"code": 1, "err": f"ERROR: (gcloud.compute.tpus.queued-resources.create) {text}"}


UNAVAILABLE = failure("UNAVAILABLE: The service is currently unavailable.")
EXISTS = failure("ALREADY_EXISTS: Resource already exists")
NO_CAPACITY = failure('{"code": 8, "message": "There is no more capacity in the zone \\"us-east5-a\\""}')
QUOTA = failure("RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPerProjectPerZone' has been exceeded. Limit: 64 in zone z.")
QUOTA_ZERO = failure("RESOURCE_EXHAUSTED: Quota limit 'TPUV5PPerProjectPerZone' has been exceeded. Limit: 0 in zone z.")
INTERNAL = failure("INTERNAL: an internal error has occurred")
DEADLINE = failure("DEADLINE_EXCEEDED: Deadline expired before operation could complete.")
RATE = failure("HttpError accessing <https://tpu.googleapis.com/>: response: <{'status': '429'}>, content <Too many>")
OVERLOADED = failure("HttpError accessing <https://tpu.googleapis.com/>: response: <{'status': '503'}>, content <>")
EXPIRED = failure("There was a problem refreshing your current auth tokens: ('invalid_grant: Bad Request')")
NO_NETWORK = failure("Unable to find the server at tpu.googleapis.com")
CRASHED = failure("gcloud crashed (KeyError): 'x'")
DENIED = failure("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied")
BAD_TYPE = failure("INVALID_ARGUMENT: Accelerator type v5p-127 is not valid")
NO_ZONE = failure("NOT_FOUND: Location us-east9-z is not found")


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    console.configure_logging()
    made = FakeCloud(tmp_path / "cloud")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/local/sbin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield made


def run(clock: SimulatedClock, restarts: int = 1, hours: float = 24.0) -> int:
    needs = Requirements(topology=topology("v5p-128"), restarts=restarts, retry_seconds=hours * HOUR)
    return TpuVm(needs, "p", "us-east5-a", ("--spot",), clock=clock).run(experiment())


@pytest.mark.parametrize(
    "answer",
    [UNAVAILABLE, EXISTS, NO_CAPACITY, QUOTA, INTERNAL, DEADLINE, RATE, OVERLOADED, EXPIRED, NO_NETWORK, CRASHED],
    ids=lambda answer: answer["err"].partition(") ")[2][:24],
)
def test_recreation_waits_for_failures_that_can_pass(cloud, capfd, answer):
    """With a single restart, which is used only once, and with increasing waits."""
    cloud.script(create=[{}, answer, answer, answer, answer, {}], **PREEMPTED_ONCE)
    clock = SimulatedClock()
    assert run(clock) == 0 and not cloud.running
    assert cloud.calls().count("create") == 6 and cloud.calls()[-8:] == [*READY, *TRAINED, "delete"]
    waits = clock.waits[-4:]
    for wait, expected in zip(waits, (10, 20, 40, 80), strict=True):
        assert 0.75 * expected <= wait <= 1.25 * expected
    lines = [line for line in capfd.readouterr().out.splitlines() if "; next try in " in line]
    assert len(lines) == 4 and all("codellama-jax-seven" in line for line in lines)


@pytest.mark.parametrize("answer", [DENIED, BAD_TYPE, NO_ZONE, QUOTA_ZERO], ids=lambda answer: answer["err"][56:72])
def test_recreation_ends_at_once_with_the_cause_of_a_permanent_failure(cloud, answer):
    cloud.script(create=[{}, answer], **PREEMPTED_ONCE)
    clock = SimulatedClock()
    with pytest.raises(UserError) as caught:
        run(clock, restarts=9)
    assert answer["err"].partition(") ")[2][:30] in str(caught.value) and "\n" not in str(caught.value)
    assert len(clock.waits) == 1 and not cloud.running, "one wait, before the restart"


@pytest.mark.parametrize("answer", [UNAVAILABLE, INTERNAL, RATE, NO_NETWORK], ids=lambda answer: answer["err"][56:72])
def test_first_creation_waits_for_temporary_failures(cloud, answer):
    cloud.script(create=[answer, {}])
    assert run(SimulatedClock(), restarts=0) == 0
    assert cloud.calls() == ["create", "state", *READY, *TRAINED, "delete"]


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (EXPIRED, "gcloud auth login"),
        (NO_CAPACITY, "no quota for"),
        (QUOTA, "iam-admin/quotas"),
        (DENIED, "tpu.nodes"),
        (CRASHED, "crashed"),
    ],
    ids=["expired", "capacity", "quota", "denied", "unknown"],
)
def test_first_creation_ends_at_once_after_other_failures(cloud, answer, remedy):
    cloud.script(create=[answer])
    clock = SimulatedClock()
    with pytest.raises(UserError, match=remedy):
        run(clock)
    assert clock.waits == []


def test_slice_that_an_answer_did_not_report_is_used(cloud):
    """The creation succeeds although the answer is a failure; the next try finds the slice."""
    (cloud.folder / "exists").touch()
    cloud.script(create=[DEADLINE, EXISTS])
    assert run(SimulatedClock()) == 0 and not cloud.running
    assert cloud.calls() == ["create", "state", "create", "state", "state", *READY[2:], *TRAINED, "delete"]


def test_slice_of_another_launcher_is_never_deleted(cloud):
    """It took the name while this launcher waited."""
    cloud.script(create=[{}, EXISTS], **PREEMPTED_ONCE)
    clock = SimulatedClock(lambda clock: (cloud.folder / "exists").touch() if len(clock.waits) == 2 else None)
    assert run(clock, hours=1) == 75
    assert cloud.calls().count("delete") == 1 and cloud.running, "only the slice that was preempted"


@pytest.mark.parametrize(
    "message", ["There is no more capacity in the zone", "Internal error", "Quota limit 'x' has been exceeded."]
)
def test_slice_that_fails_while_it_is_recreated_uses_no_restart(cloud, message):
    failed = {"out": f"FAILED\t{message}\n"}
    script = PREEMPTED_ONCE | {"state": [ACTIVE, PREEMPTED, failed, failed, ACTIVE]}
    cloud.script(**script)
    assert run(SimulatedClock()) == 0
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 4


def test_ends_with_75_at_the_time_limit(cloud, capfd):
    cloud.script(create=[{}, NO_CAPACITY], **PREEMPTED_ONCE)
    clock = SimulatedClock()
    assert run(clock, hours=2) == 75 and not cloud.running
    assert sum(clock.waits[1:]) == pytest.approx(2 * HOUR) and max(clock.waits) <= 750
    [error] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "no more capacity" in error and "tried for 2 h (--retry_hours): the same command resumes" in error


def test_deletion_before_the_recreation_is_retried(cloud):
    """A deletion that fails for a time must not end the run, nor leave the old slice behind."""
    cloud.script(delete=[UNAVAILABLE] * 12 + [{}], **PREEMPTED_ONCE | {"state": [ACTIVE, PREEMPTED]})
    clock = SimulatedClock(lambda clock: cloud.script(**PREEMPTED_ONCE) if len(clock.waits) > 12 else None)
    assert run(clock) == 0 and not cloud.running


def test_slice_whose_state_may_not_be_read_is_deleted_at_once(cloud):
    """Otherwise it would become active, and cost money, unnoticed."""
    cloud.script(state=[DENIED])
    clock = SimulatedClock()
    with pytest.raises(UserError, match=r"the state of codellama-jax-seven cannot be read: .*PERMISSION_DENIED"):
        run(clock)
    assert clock.waits == [] and not cloud.running


@pytest.mark.parametrize(("answer", "remedy"), [(DENIED, "nodes.create"), (EXPIRED, "run gcloud auth login")])
def test_state_that_cannot_be_read_is_an_error_before_the_creation(cloud, answer, remedy):
    cloud.script(state=[answer])
    needs = Requirements(topology=topology("v5p-128"))
    with pytest.raises(UserError, match=remedy):
        TpuVm(needs, "p", "us-east5-a").check(experiment())
    assert "create" not in cloud.calls()


# ---------------------------------------------------------------- hosts


SSH = [
    {"code": 255, "err": "ssh: connect to host 1.2.3.4 port 22: Connection refused"},
    {"code": 1, "err": "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255]."},
    {"code": 255, "err": "user@1.2.3.4: Permission denied (publickey)."},
    {"code": 1, "err": "kex_exchange_identification: Connection closed by remote host"},
    {"code": 1, "err": "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) HttpError 503: unavailable"},
]


@pytest.mark.parametrize("answer", SSH, ids=["refused", "return code", "publickey", "closed", "api"])
@pytest.mark.parametrize("call", ["scp", "install", "start", "result"])
def test_host_that_cannot_be_reached_for_minutes_keeps_its_slice(cloud, call, answer):
    cloud.script(**{call: [answer] * 6 + [{} if call != "result" else result(0, 0)]})
    clock = SimulatedClock()
    assert run(clock, restarts=0) == 0
    assert cloud.calls().count("create") == 1 and 120 < sum(clock.waits) < HOST_SECONDS


@pytest.mark.parametrize("text", ["error: Failed to fetch: `https://pypi.org/simple/jax/`", "E: Could not get lock"])
def test_installation_that_fails_for_minutes_keeps_its_slice(cloud, text):
    cloud.script(install=[{"code": 2, "err": text}] * 5 + [{}])
    assert run(SimulatedClock(), restarts=0) == 0 and cloud.calls().count("create") == 1


@pytest.mark.parametrize("text", ["no space left on device", "No solution found when resolving", "hash mismatch"])
def test_installation_that_cannot_succeed_ends_at_once(cloud, text):
    cloud.script(install=[{"code": 1, "err": f"error: {text}"}])
    clock = SimulatedClock()
    with pytest.raises(UserError, match=text):
        run(clock)
    assert clock.waits == []


def test_slice_whose_host_stays_unreachable_is_replaced_once_per_restart(cloud, capfd):
    cloud.script(install=[SSH[0]])
    clock = SimulatedClock()
    assert run(clock, restarts=1) == 75
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 2
    assert 2 * HOST_SECONDS <= clock.time < 3 * HOST_SECONDS
    assert "tried for 10 min; it was started again 1 times (--restarts)" in capfd.readouterr().err


def test_slice_is_kept_while_this_machine_has_no_network(cloud):
    """Neither the host nor the cloud answers for a quarter of an hour, while the job trains."""
    cloud.script(watch=[SSH[0]], state=[ACTIVE, NO_NETWORK])

    def reconnect(clock):
        if clock.time > 1.5 * HOST_SECONDS:
            cloud.script()

    assert run(SimulatedClock(reconnect), restarts=0) == 0
    assert cloud.calls().count("create") == cloud.calls().count("delete") == 1


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("script", "calls"),
    [
        (PREEMPTED_ONCE | {"create": [{}, NO_CAPACITY]}, "creation"),
        ({"create": [UNAVAILABLE]}, "first creation"),
        ({"state": [NO_NETWORK]}, "state"),
        ({"install": [SSH[0]]}, "ssh"),
        (PREEMPTED_ONCE | {"delete": [UNAVAILABLE, UNAVAILABLE, {}]}, "deletion"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_signal_during_a_wait_ends_the_run(cloud, capfd, script, calls):
    cloud.script(**script)
    clock = SimulatedClock(lambda clock: os.kill(os.getpid(), signal.SIGINT) if len(clock.waits) == 2 else None)
    assert run(clock) == 75 and not cloud.running
    assert "codellama_jax: stopped; no slice is left running" in capfd.readouterr().out
    assert len(clock.waits) <= 4


def test_signal_ends_a_command_that_hangs(cloud, capfd):
    cloud.script(state=[{"signal": "SIGINT", "hangs": True}])
    assert run(SimulatedClock()) == 75 and not cloud.running
    assert cloud.calls() == ["create", "state", "delete"]


def test_signal_ends_the_tries_of_stop(cloud):
    (cloud.folder / "exists").write_text("[]")
    cloud.script(delete=[UNAVAILABLE])
    clock = SimulatedClock(lambda clock: os.kill(os.getpid(), signal.SIGINT) if len(clock.waits) == 2 else None)
    with pytest.raises(UserError, match="codellama-jax-seven is not deleted and may cost money: stopped by a signal"):
        TpuVm(Requirements(), "p", "us-east5-a", clock=clock).stop("", "seven")


def test_slice_that_cannot_be_deleted_is_named_with_the_command(cloud, capfd):
    """Deletion is tried for minutes; a signal meanwhile ends the tries."""
    cloud.script(delete=[UNAVAILABLE])
    clock = SimulatedClock()
    assert run(clock) == 0 and clock.time == pytest.approx(cloud_module.DELETE_SECONDS)
    message = "codellama-jax-seven could not be deleted"
    errors = capfd.readouterr().err
    assert message in errors and "queued-resources delete codellama-jax-seven" in errors.replace(" \\\n    ", " ")
    (cloud.folder / "exists").unlink()
    cloud.script(delete=[UNAVAILABLE])
    clock = SimulatedClock(lambda clock: os.kill(os.getpid(), signal.SIGINT) if len(clock.waits) == 2 else None)
    assert run(clock) == 0 and len(clock.waits) == 2
    assert f"{message} (stopped by a signal)" in capfd.readouterr().err


def test_deletion_that_is_not_permitted_is_not_repeated(cloud, capfd):
    cloud.script(delete=[DENIED])
    clock = SimulatedClock()
    assert run(clock) == 0 and clock.waits == []
    assert "could not be deleted" in capfd.readouterr().err
