"""Processes of a run: environment variables, and errors caused by the loss of another process."""

import subprocess
import sys

import pytest

from codellama_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime import distributed


@pytest.mark.parametrize(
    "values",
    [("", "2", "0"), ("localhost:1", "", "0"), ("localhost:1", "2", "2"), ("localhost:1", "two", "0")],
)
def test_invalid_environment_variables_are_refused(monkeypatch, values):
    for name, value in zip(distributed.ENVIRONMENT_VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="they must be host:port, the number of processes") as error:
        distributed.initialize()
    assert error.value.exit_code == EXIT_USAGE


def test_one_process_needs_no_connection(monkeypatch):
    for name in distributed.ENVIRONMENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(distributed, "tpu_chips", lambda: 0)
    distributed.initialize()
    distributed.check_hosts_agree(code="1", configuration="2")


def test_peer_loss_is_reported_with_the_exit_code_for_a_restart():
    with pytest.raises(UserError) as error, distributed.peer_loss_as_user_error():
        raise RuntimeError("Gloo all-reduce failed: Connection reset by peer")
    assert (str(error.value), error.value.exit_code) == (distributed.PEER_LOST, EXIT_INTERRUPTED)
    assert distributed.reports_peer_loss(["step 3", f"error: {distributed.PEER_LOST}"])
    assert not distributed.reports_peer_loss(["step 3", "error: no corpus"])
    assert "\n" not in distributed.PEER_LOST


@pytest.mark.parametrize("error", [RuntimeError("RESOURCE_EXHAUSTED"), ValueError("Gloo"), UserError("no corpus")])
def test_other_errors_are_not_converted(error):
    with pytest.raises(type(error)), distributed.peer_loss_as_user_error():
        raise error


@pytest.mark.parametrize(
    ("main", "code"),
    [
        ("lambda: 0", 0),
        ("lambda: 75", 75),
        ("lambda: 1 / 0", EXIT_FAILED),
        ("lambda: 2", EXIT_USAGE),
    ],
)
def test_a_failed_process_exits_without_waiting_for_the_others(main, code):
    """An exit handler with exit code 99 represents that of JAX, which waits for the other processes."""
    program = (
        "import atexit, os\nfrom codellama_jax.runtime import distributed\n"
        "distributed._report_peer_loss_on_abort()\natexit.register(os._exit, 99)\n"
        f"raise SystemExit(distributed.exit_without_barrier({main}))"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == (99 if code in (0, 75) else code), process.stderr
    assert ("ZeroDivisionError" in process.stderr) is ("1 / 0" in main)


def test_an_abort_by_jax_is_reported_as_peer_loss():
    program = (
        "import os\nfrom codellama_jax.runtime import distributed\ndistributed._report_peer_loss_on_abort()\nos.abort()"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (EXIT_INTERRUPTED, f"error: {distributed.PEER_LOST}\n")
