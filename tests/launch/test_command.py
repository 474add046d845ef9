"""External commands: their output as it comes, and when they end."""

import os
import resource
import signal
import threading
import time

import pytest

from codellama_jax.runtime.signals import Stopped, StopSignals
from launch.command import POLL_SECONDS, Command, execute


def shell(script: str) -> Command:
    return Command(("bash", "-c", script))


def test_the_end_of_a_command_is_noticed_at_once():
    start = time.perf_counter()
    for _ in range(20):
        assert execute(shell("exit 3")).code == 3
    assert time.perf_counter() - start < 20 * POLL_SECONDS


def test_output_is_passed_on_while_the_command_runs():
    chunks = []
    result = execute(
        shell("echo first; sleep 0.5; echo second; echo why >&2; kill -9 $$"),
        on_output=lambda chunk: chunks.append((chunk, time.perf_counter())),
    )
    assert (result.code, result.stdout, result.stderr) == (128 + 9, b"first\nsecond\n", "why\n")
    assert [chunk for chunk, _ in chunks] == [b"first\n", b"second\n"] and chunks[1][1] - chunks[0][1] > 0.25


def test_a_command_that_closes_its_output_is_waited_for_without_work():
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    assert execute(shell("echo out; exec >&-; sleep 1; exit 4")).code == 4
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert time.perf_counter() - start >= 1
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_a_process_that_keeps_the_output_open_is_not_waited_for():
    start = time.perf_counter()
    assert execute(shell("sleep 5 & echo out")).stdout == b"out\n"
    assert time.perf_counter() - start < 4


@pytest.mark.parametrize("closed", ["", "exec >&-; "], ids=["open", "closed"])
def test_a_stop_signal_ends_the_command_unless_it_is_allowed(closed):
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert execute(shell(f"{closed}exit 0"), stop, allowed=1).code == 0
        with pytest.raises(Stopped):
            execute(shell("exit 0"), stop)
    with StopSignals() as stop:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        start = time.perf_counter()
        with pytest.raises(Stopped):
            execute(shell(f"{closed}sleep 20"), stop)
        assert time.perf_counter() - start < 10
