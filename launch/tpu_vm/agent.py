"""What the launcher runs on a host of TPUs: it starts a job there, tells its output, and ends it.

    python -m launch.tpu_vm.agent start JOB -- COMMAND...    starts it and returns; nothing if it runs already
    python -m launch.tpu_vm.agent watch JOB --position=N     its output from byte N on, until its end
    python -m launch.tpu_vm.agent result JOB --seconds=S     waits so long for its end, then kills it; one JSON object
    python -m launch.tpu_vm.agent stop - --seconds=S         asks every job to save and end, and waits so long

A job outlives the connection that started it. Standard library only.
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

JOBS = Path("codellama_jax", "jobs")  # in the home directory: what a job says, its process id, and its end
DEVICES = ("/dev/vfio/*", "/dev/accel*")
MARK = "\x1e@@{}\x1e"  # before all output: the byte at which it begins
LAST_LINES = 12
POLL_SECONDS = 0.2
STOP_SECONDS = 10.0


def folder(job: str) -> Path:
    """Where what is known of a job lies."""
    return Path.home() / JOBS / job


def start(job: str, command: Sequence[str], devices: Sequence[str] = DEVICES) -> int:
    """Starts the command, in a session of its own, after ending whatever else of this user holds the TPUs."""
    where = folder(job)
    if (where / "runner").exists():
        return 0  # the connection that started it broke, and was made again
    end_holders(devices)
    where.mkdir(parents=True, exist_ok=True)
    with (where / "log").open("ab") as log:
        runner = subprocess.Popen(
            [sys.executable, "-m", "launch.tpu_vm.agent", "run", job, "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (where / "runner").write_text(str(runner.pid))
    return 0


def run(job: str, command: Sequence[str]) -> int:
    """Runs the command and notes how it ended."""
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        print(f"error: {command[0]}: {error.strerror}", flush=True)
        _write(folder(job) / "code", "127")
        return 127
    _write(folder(job) / "process", str(process.pid))
    if (folder(job) / "asked").exists():  # before there was anyone to be told
        process.terminate()
    code = process.wait()
    _write(folder(job) / "code", str(code if code >= 0 else 128 - code))
    return 0


def watch(job: str, position: int) -> int:
    """Prints what the job says until it has ended."""
    out = sys.stdout.buffer
    out.write(MARK.format(position).encode())
    out.flush()
    with (folder(job) / "log").open("rb") as log:
        log.seek(position)
        while True:
            ended = _ended(job)
            if chunk := log.read():
                out.write(chunk)
                out.flush()
            elif ended:
                return 0
            else:
                time.sleep(POLL_SECONDS)


def result(job: str, seconds: float) -> int:
    """Prints how the job ended here; one that has not within `seconds` is killed, since its others have."""
    where, deadline = folder(job), time.monotonic() + seconds
    while not _ended(job) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if killed := not _ended(job):
        _signal(job, signal.SIGKILL)
    log = (where / "log").read_bytes()[-20_000:].decode(errors="replace") if (where / "log").exists() else ""
    code = (where / "code").read_text() if (where / "code").exists() else ""
    line = {
        "host": socket.gethostname(),
        "code": None if killed or not code else int(code),
        "asked": (where / "asked").exists(),
        "last_lines": log.splitlines()[-LAST_LINES:],
    }
    sys.stdout.write("\n" + json.dumps(line) + "\n")  # one write: others write to the same terminal
    sys.stdout.flush()
    return 0


def stop(seconds: float) -> int:
    """Asks every job here to save and end, and waits so long for it."""
    deadline = time.monotonic() + seconds
    running = [where for where in (Path.home() / JOBS).glob("*") if not _ended(where.name)]
    for where in running:
        (where / "asked").touch()
        _signal(where.name, signal.SIGTERM)
    while any(not _ended(where.name) for where in running) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return 0


def end_holders(patterns: Sequence[str]) -> None:
    """Ends the processes of this user that hold one of the devices: a killed connection leaves them behind."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        holders = _holders({path for pattern in patterns for path in glob.glob(pattern)})
        for process in holders:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(_alive, holders)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _holders(devices: set[str]) -> list[int]:
    found = set()
    for descriptor in glob.glob("/proc/[0-9]*/fd/*") if devices else []:
        with contextlib.suppress(OSError):
            if os.readlink(descriptor) in devices:
                found.add(int(descriptor.split("/")[2]))
    return sorted(found - {os.getpid()})


def _ended(job: str) -> bool:
    """Whether the job has ended, with a code or without: a host that was started anew knows of none."""
    where = folder(job)
    if (where / "code").exists():
        return True
    runner = (where / "runner").read_text() if (where / "runner").exists() else ""
    return not runner or (not _alive(int(runner)) and not (where / "code").exists())


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # one that nobody waits for has ended


def _signal(job: str, number: int) -> None:
    path = folder(job) / "process"
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(path.read_text()), number)


def _write(path: Path, text: str) -> None:
    """Whole or not at all: others look."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def main(argv: Sequence[str]) -> int:
    """Does what the command line says; returns an exit code."""
    own, command = list(argv), list[str]()
    if "--" in own:
        own, command = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(prog="python -m launch.tpu_vm.agent")
    parser.add_argument("what", choices=("start", "run", "watch", "result", "stop"))
    parser.add_argument("job")
    parser.add_argument("--position", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args(own)
    if options.what == "start":
        return start(options.job, command)
    if options.what == "run":
        return run(options.job, command)
    if options.what == "watch":
        return watch(options.job, options.position)
    if options.what == "result":
        return result(options.job, options.seconds)
    return stop(options.seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
