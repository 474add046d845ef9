"""Locks: only one process at a time works in the folder of a stage, local or in a bucket."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, lock

THIS_PROCESS = f"{os.getpid()} on {socket.gethostname()}"


def ended_process():
    """The ID of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        time.sleep(0.01)
    return condition()


# ---------------------------------------------------------------- a local folder


def test_a_local_folder_is_locked_by_one_process(tmp_path):
    assert lock.holder(tmp_path) is None
    lock.check_not_in_use(tmp_path)
    held = lock.acquire(tmp_path)
    held.check()
    assert lock.holder(tmp_path) == (os.getpid(), socket.gethostname())
    for attempt in (lock.acquire, lock.check_not_in_use):
        with pytest.raises(UserError, match=f"in use by process {THIS_PROCESS}: wait for it"):
            attempt(tmp_path)
    held.release()
    assert lock.holder(tmp_path) is None
    lock.check_not_in_use(tmp_path)
    lock.acquire(tmp_path).release()


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    program = (
        "import pathlib, sys, time\nfrom codellama_jax.runtime import lock\n"
        "held = lock.acquire(pathlib.Path(sys.argv[1]))\nprint('locked', flush=True)\ntime.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    assert lock.holder(tmp_path) == (process.pid, socket.gethostname())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lock.holder(tmp_path) is None
    lock.acquire(tmp_path).release()


def test_a_holder_on_another_host_is_assumed_to_be_alive(tmp_path):
    (tmp_path / ".lock").write_text("1 on another-host\n")
    assert lock.holder(tmp_path) == (1, "another-host")
    (tmp_path / ".lock").write_text("no process")
    assert lock.holder(tmp_path) is None


# ---------------------------------------------------------------- a folder in a bucket


@pytest.fixture
def folder(store, bucket_folder, monkeypatch):
    """A folder in a bucket whose locks are refreshed, and expire, in less than a second."""
    monkeypatch.setattr(lock, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(lock, "DEAD_SECONDS", 0.6)
    return filesystem.to_path(f"gs://bucket/{bucket_folder}")


def test_a_folder_in_a_bucket_is_locked_by_one_process(store, folder, bucket_folder):
    held = lock.acquire(folder)
    with pytest.raises(UserError, match=f"in use by process {THIS_PROCESS}: wait"):
        lock.acquire(folder)
    held.check()
    held.release()
    assert store.names(f"{bucket_folder}/") == []
    lock.acquire(folder).release()


def test_the_lock_of_a_dead_process_is_taken_over(store, folder, bucket_folder, caplog):
    caplog.set_level(logging.INFO)
    store.put(f"{bucket_folder}/.lock", b"1 on another-host\n")
    started = time.monotonic()
    held = lock.acquire(folder)
    assert time.monotonic() - started >= lock.DEAD_SECONDS
    assert "locked by process 1 on another-host" in caplog.text
    held.release()


def test_the_lock_of_an_ended_process_of_this_host_is_taken_over_at_once(store, folder, bucket_folder, caplog):
    caplog.set_level(logging.INFO)
    store.put(f"{bucket_folder}/.lock", f"{ended_process()} on {socket.gethostname()}\n".encode())
    lock.acquire(folder).release()
    assert not caplog.text


def test_a_lost_response_of_the_store_does_not_lose_the_lock(store, folder, bucket_folder):
    held = lock.acquire(folder)
    # a new generation that the holder does not know
    store.put(f"{bucket_folder}/.lock", store.read(f"{bucket_folder}/.lock"))
    time.sleep(5 * lock.REFRESH_SECONDS)
    held.check()
    held.release()
    assert store.names(f"{bucket_folder}/") == []


def test_a_holder_detects_that_its_lock_was_taken_over(store, folder, bucket_folder):
    held = lock.acquire(folder)
    store.put(f"{bucket_folder}/.lock", b"2 on another-host\n")

    def error():
        try:
            return held.check()
        except UserError as error:
            return str(error)

    assert wait_until(lambda: error() is not None) and "was locked by another process" in error()
    held.release()
    assert store.text(f"{bucket_folder}/.lock").startswith("2 on another-host")


def test_a_lock_that_cannot_be_written_is_an_error(store, folder):
    store.refuse((".*", r"\.lock", 403))
    with pytest.raises(UserError, match="may not use the bucket bucket: give them roles"):
        lock.acquire(folder)
