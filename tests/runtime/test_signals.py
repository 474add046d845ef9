"""Stop signals: counted, passed on, limited by a grace period, and agreed on by all hosts."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.runtime.signals import STOP_SIGNALS, Stopped, StopSignals


def terminate_after(seconds):
    """Sends SIGTERM to this process from another thread."""
    timer = threading.Timer(seconds, os.kill, [os.getpid(), signal.SIGTERM])
    timer.start()
    return timer


def test_counts_signals_and_names_the_first():
    with StopSignals() as stop:
        assert not stop.received and not stop.requested and stop.name is None
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGINT)
        assert stop.received and stop.requested
        assert stop.count == 2
        assert stop.name == "SIGHUP"


def test_restores_the_previous_handlers():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(KeyError), StopSignals(grace_seconds=0.1):
        raise KeyError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_calls_on_signal_with_each_number():
    numbers = []
    with StopSignals(numbers.append):
        for number in STOP_SIGNALS:
            signal.raise_signal(number)
    assert numbers == list(STOP_SIGNALS)


def test_hosts_stop_together_once_any_has_received_a_signal():
    with StopSignals(hosts=2) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.received and not stop.requested
        stop.update(True)
        assert stop.requested
        stop.update(False)
        assert stop.requested
    with StopSignals(hosts=2) as other:
        other.update(False)
        assert not other.requested
        other.update(True)
        assert other.requested and not other.received


def test_sleep_lasts_as_long_as_requested():
    with StopSignals() as stop:
        started = time.monotonic()
        stop.sleep(0.1)
        assert time.monotonic() - started >= 0.1


def test_a_signal_interrupts_sleep_and_every_later_one():
    with StopSignals() as stop:
        timer = terminate_after(0.1)
        started = time.monotonic()
        with pytest.raises(Stopped):
            stop.sleep(60)
        assert time.monotonic() - started < 30
        timer.join()
        with pytest.raises(Stopped):
            stop.sleep(0)


def test_sleep_ignores_the_allowed_number_of_signals():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGTERM)
        started = time.monotonic()
        stop.sleep(0.1, allowed=1)
        assert time.monotonic() - started >= 0.1
        timer = terminate_after(0.1)
        with pytest.raises(Stopped):
            stop.sleep(60, allowed=1)
        timer.join()


PROGRAM = """
import logging, signal, sys, time
from codellama_jax.runtime.console import configure_logging
from codellama_jax.runtime.signals import StopSignals
assert "jax" not in sys.modules
configure_logging()
with StopSignals(grace_seconds={grace}) as stop:
    print("ready", flush=True)
    while not (stop.requested and {stops}):
        time.sleep(0.01)
print("saved", flush=True)
"""


def start(grace, stops):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(grace=grace, stops=stops)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_first_signal_lets_the_process_save():
    process = start(grace=60, stops=True)
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert output == "SIGTERM: finishing this step, then saving (a second signal stops at once)\nsaved\n"
    assert (process.returncode, errors) == (0, "")


def test_the_second_signal_exits_at_once():
    process = start(grace=60, stops=False)
    process.terminate()
    assert "SIGTERM" in process.stdout.readline()
    process.terminate()
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (EXIT_INTERRUPTED, "")
    assert errors == "stopped at once; earlier checkpoints are not affected\n"


def test_exits_when_the_grace_period_ends():
    process = start(grace=0.2, stops=False)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert errors.startswith("0.2 s after SIGHUP (Checkpoints.grace_seconds): stopped; ")
