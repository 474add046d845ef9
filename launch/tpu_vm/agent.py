"""The launcher's agent on a TPU host: starts a job there, transfers its output, and stops it.

    python -m launch.tpu_vm.agent start JOB -- COMMAND...    starts it and returns; does nothing if already started
    python -m launch.tpu_vm.agent watch JOB --offset=N       prints its log from byte N until it ends
    python -m launch.tpu_vm.agent result JOB --seconds=S     kills it after S seconds if it still runs; prints JSON
    python -m launch.tpu_vm.agent stop - --seconds=S         asks all jobs to save and exit; waits up to S seconds

A job continues after the connection that started it has ended. This module imports only the standard library, because
it runs with the Python of the host.
"""

import argparse
import contextlib
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

JOBS = Path("codellama_jax", "jobs")  # in the home directory: per job, a folder with its log, process ids and exit code
DEVICES = ("/dev/vfio/*", "/dev/accel*")
OFFSET_MARK = "\x1e@@{}\x1e"  # precedes the output of `watch`: the offset of its first byte in the log
LAST_LINES = 12
POLL_SECONDS = 0.2
EXIT_SECONDS = 10.0  # from SIGTERM to SIGKILL
TAIL_BYTES = 20_000  # of the log, read for the last lines


def job_folder(job: str) -> Path:
    """The folder with the state of a job."""
    return Path.home() / JOBS / job


def start(job: str, command: Sequence[str], devices: Sequence[str] = DEVICES) -> int:
    """Starts the command in its own session, after ending other processes of this user that have the TPUs open."""
    folder = job_folder(job)
    if (folder / "runner").exists():
        return 0  # gcloud has reconnected and repeats this command
    end_device_holders(devices)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("ab") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "launch.tpu_vm.agent", "run", job, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (folder / "runner").write_text(str(runner.pid))
    return 0


def run(job: str, command: Sequence[str]) -> int:
    """Runs the command and records its exit code."""
    folder = job_folder(job)
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", flush=True)
        _write(folder / "code", "127")
        return 127
    _write(folder / "process", str(process.pid))
    if (folder / "stop_requested").exists():  # `stop` was called before the process could receive a signal
        process.terminate()
    code = process.wait()
    _write(folder / "code", str(code if code >= 0 else 128 - code))
    return 0


def watch(job: str, offset: int) -> int:
    """Prints the job's log from `offset` on until the job has ended."""
    out = sys.stdout.buffer
    out.write(OFFSET_MARK.format(offset).encode())
    out.flush()
    with (job_folder(job) / "log").open("rb") as log:
        log.seek(offset)
        while True:
            ended = _has_ended(job)
            if chunk := log.read():
                out.write(chunk)
                out.flush()
            elif ended:
                return 0
            else:
                time.sleep(POLL_SECONDS)


def result(job: str, seconds: float) -> int:
    """Prints how the job ended on this host. Kills it if it still runs after `seconds`: it has ended on host 0."""
    folder, deadline = job_folder(job), time.monotonic() + seconds
    while not _has_ended(job) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if killed := not _has_ended(job):
        _signal(job, signal.SIGKILL)
    log = (folder / "log").read_bytes()[-TAIL_BYTES:].decode(errors="replace") if (folder / "log").exists() else ""
    code = (folder / "code").read_text() if (folder / "code").exists() else ""
    record = {
        "host": socket.gethostname(),
        "code": None if killed or not code else int(code),
        "stop_requested": (folder / "stop_requested").exists(),
        "last_lines": log.splitlines()[-LAST_LINES:],
    }
    sys.stdout.write("\n" + json.dumps(record) + "\n")  # a single write, because all hosts print to the same terminal
    sys.stdout.flush()
    return 0


def stop(seconds: float) -> int:
    """Asks every job on this host to save and exit, and waits up to `seconds` for it."""
    deadline = time.monotonic() + seconds
    running = [folder for folder in (Path.home() / JOBS).glob("*") if not _has_ended(folder.name)]
    for folder in running:
        if not (folder / "stop_requested").exists():  # a second signal would end the job before it has saved
            (folder / "stop_requested").touch()
            _signal(folder.name, signal.SIGTERM)
    while any(not _has_ended(folder.name) for folder in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return 0


def end_device_holders(patterns: Sequence[str]) -> None:
    """Ends this user's processes that have one of the devices open; a broken connection can leave them behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        holders = _device_holders({path for pattern in patterns for path in glob.glob(pattern)})
        for process in holders:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)
        deadline = time.monotonic() + EXIT_SECONDS
        while any(map(_is_alive, holders)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _device_holders(devices: set[str]) -> list[int]:
    processes = set()
    for descriptor in glob.glob("/proc/[0-9]*/fd/*") if devices else []:
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in devices:
                processes.add(int(descriptor.split("/")[2]))
    return sorted(processes - {os.getpid()})


def _has_ended(job: str) -> bool:
    """Whether the job has ended. A job has ended without a code if its runner was killed or its host restarted."""
    folder = job_folder(job)
    if (folder / "code").exists():
        return True
    runner = (folder / "runner").read_text() if (folder / "runner").exists() else ""
    return not runner or (not _is_alive(int(runner)) and not (folder / "code").exists())


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie has ended


def _signal(job: str, number: int) -> None:
    path = job_folder(job) / "process"
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(path.read_text()), number)


def _write(path: Path, text: str) -> None:
    """Writes a file atomically, because other processes of the agent read it."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def main(argv: Sequence[str]) -> int:
    """Runs an action; returns an exit code."""
    arguments, command = list(argv), list[str]()
    if "--" in arguments:
        separator = arguments.index("--")
        arguments, command = arguments[:separator], arguments[separator + 1 :]
    parser = argparse.ArgumentParser(prog="python -m launch.tpu_vm.agent")
    parser.add_argument("action", choices=("start", "run", "watch", "result", "stop"))
    parser.add_argument("job")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args(arguments)
    if options.action == "start":
        return start(options.job, command)
    if options.action == "run":
        return run(options.job, command)
    if options.action == "watch":
        return watch(options.job, options.offset)
    if options.action == "result":
        return result(options.job, options.seconds)
    return stop(options.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
