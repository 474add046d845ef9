"""Runs the processes of one job on this machine: logs their output, and ends all of them if one fails."""

import contextlib
import dataclasses
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.runtime.distributed import reports_peer_loss
from codellama_jax.runtime.signals import StopSignals

logger = logging.getLogger(__name__)

FILE_ONLY_PREFIX = "[Gloo] Rank "  # lines of CPU collectives; not shown on the terminal
LAST_LINES = 12  # kept of the output of each process
CAUSE_SECONDS = 0.5  # a failure within this time after the first may be its cause
EXIT_SECONDS = 2.0  # for the other processes to exit on their own after a failure, and again after SIGTERM
DRAIN_SECONDS = 2.0  # from the end of a process to the end of its output: its children may keep the pipe open
SAVE_SECONDS = 45.0  # for the other processes to exit after one has saved; more than Checkpoints.grace_seconds
POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the processes of a job ended.

    Attributes:
        code: 0, or the exit code of the process that caused the failure (128 + N after signal N).
        signalled: whether the launcher received a stop signal meanwhile.
        process: number of this process; None if none failed, or if the job has one process.
        last_lines: its last lines of output.
    """

    code: int
    signalled: bool
    process: int | None = None
    last_lines: tuple[str, ...] = ()

    @property
    def saved(self) -> bool:
        """Whether the processes were stopped and saved."""
        return self.code == EXIT_INTERRUPTED and not reports_peer_loss(self.last_lines)


class _LogFile:
    """A file to which output is appended. If it cannot be written, as on a full disk, the job continues without it."""

    def __init__(self, path: Path, report: Callable[[str], None]):
        self._path, self._report = path, report
        self._file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            self._end(error)

    def write(self, data: bytes) -> None:
        try:
            if self._file:
                self._file.write(data)
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        self._file = None
        self._report(f"(the launcher cannot write {self._path}: {error.strerror}; the job continues without this log)")


def _shell_code(code: int) -> int:
    return code if code >= 0 else 128 - code


# ---------------------------------------------------------------- one process


def run_one(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> Outcome:
    """Runs one process that is connected to the terminal.

    Its stdout and stderr are also appended to the log, except a stream that goes to a terminal: copying it would need a
    pipe, and programs show no progress bar on a pipe.
    """
    stdout, stderr = (None if log is None or os.isatty(number) else subprocess.PIPE for number in (1, 2))
    if stdout and stderr and _same_file(1, 2):
        stderr = subprocess.STDOUT  # keeps the order of the lines
    # In its own session: otherwise Ctrl-C on the terminal would reach it twice, and a second signal stops at once.
    process = subprocess.Popen(
        command, env=os.environ | dict(environment), stdout=stdout, stderr=stderr, start_new_session=True
    )
    copies: list[threading.Thread] = []
    if log and (stdout or stderr):
        file = _LogFile(log, lambda text: logger.warning(f"codellama_jax: {text}"))
        pipes = [(pipe, number) for pipe, number in ((process.stdout, 1), (process.stderr, 2)) if pipe]
        copies = [threading.Thread(target=_copy, args=(pipe, number, file), daemon=True) for pipe, number in pipes]
    for copy in copies:
        copy.start()
    with StopSignals(process.send_signal) as stop:
        code = process.wait()
    for copy in copies:
        copy.join(DRAIN_SECONDS)
    return Outcome(_shell_code(code), stop.received)


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False  # one of them is closed


def _copy(pipe: IO[bytes], number: int, log: _LogFile) -> None:
    """Copies a pipe to the file descriptor `number` of this process, and its complete lines to the log."""
    partial = b""
    with open(number, "wb", closefd=False) as out:
        while data := os.read(pipe.fileno(), 1 << 16):
            with contextlib.suppress(OSError):  # the reader is gone; the log still gets the output
                out.write(data)
                out.flush()
            lines, newline, partial = (partial + data).rpartition(b"\n")
            if newline:
                log.write(lines + newline)
    if partial:
        log.write(partial)


# ---------------------------------------------------------------- several processes


class _Process:
    """One of several processes. Its output is written to the terminal with a prefix, and to a file unchanged."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.number = number
        self.signalled = False
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        # In its own session: otherwise Ctrl-C on the terminal would reach it twice, and a second signal stops at once.
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    def _read(self, log: Path) -> None:
        assert self._process.stdout
        file = _LogFile(log, self._print)
        for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip("\n").rpartition("\r")[2]
            if not text.startswith(FILE_ONLY_PREFIX):
                self.last_lines.append(text)
                self._print(text)
            file.write(line)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone; the file still gets the output
            sys.stdout.write(f"[{self.number}] {text}\n")
            sys.stdout.flush()

    def signal(self, number: int) -> None:
        self.signalled = True
        self._process.send_signal(number)  # does nothing after the process has ended

    def wait(self) -> int:
        """Waits until the process and its output have ended; returns its exit code as a shell reports it."""
        code = self._process.wait()
        self._reader.join(DRAIN_SECONDS)
        return _shell_code(code)


class _Group:
    """Processes that end together: after a failure, the others get time to exit, then SIGTERM, then SIGKILL."""

    def __init__(self) -> None:
        self._processes: list[_Process] = []
        self._exits: queue.Queue[tuple[_Process, int]] = queue.Queue()
        self._failures: list[tuple[_Process, int]] = []  # within CAUSE_SECONDS of the first
        self._first_failure = float("inf")
        self._deadline = float("inf")  # for the processes that still run
        self._signals: list[tuple[int, float]] = []  # to send at the deadline, with the seconds to the next deadline

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Process:
        process = _Process(len(self._processes), command, environment, log)
        self._processes.append(process)
        threading.Thread(target=self._wait_for, args=(process,), daemon=True).start()
        return process

    def _wait_for(self, process: _Process) -> None:
        self._exits.put((process, process.wait()))

    def signal(self, number: int) -> None:
        for process in self._processes:
            process.signal(number)

    def wait(self) -> tuple[_Process, int] | None:
        """Waits until all have ended; returns the process that caused the failure and its code, if one failed."""
        running = len(self._processes)
        while running:
            try:
                timeout = min(max(self._deadline - time.monotonic(), 0), POLL_SECONDS)
                process, code = self._exits.get(timeout=timeout)
            except queue.Empty:
                self._escalate()
                continue
            running -= 1
            if code:
                self._add_failure(process, code)
        if not self._failures:
            return None
        # a process that only lost its connection to another did not cause the failure
        causes = [failure for failure in self._failures if not reports_peer_loss(failure[0].last_lines)]
        return (causes or self._failures)[0]

    def _add_failure(self, process: _Process, code: int) -> None:
        now = time.monotonic()
        if not self._failures:
            saved = code == EXIT_INTERRUPTED and not reports_peer_loss(process.last_lines)
            self._first_failure, self._deadline = now, now + (SAVE_SECONDS if saved else EXIT_SECONDS)
            self._signals = [(signal.SIGTERM, EXIT_SECONDS), (signal.SIGKILL, float("inf"))]
        if now - self._first_failure < CAUSE_SECONDS:
            self._failures.append((process, code))

    def _escalate(self) -> None:
        if self._signals and time.monotonic() >= self._deadline:
            number, seconds = self._signals.pop(0)
            self.signal(number)
            self._deadline = time.monotonic() + seconds


def run_group(commands: Sequence[tuple[Sequence[str], Mapping[str, str], Path]]) -> Outcome:
    """Runs one process for each (command, environment, log file) and returns when all have ended.

    The first failure ends the other processes. Each stop signal is forwarded to each process once.
    """
    group = _Group()
    with StopSignals(group.signal) as stop:
        try:
            for command, environment, log in commands:
                process = group.start(command, os.environ | dict(environment), log)
                if stop.received and not process.signalled:  # it arrived before this process was started
                    process.signal(signal.SIGTERM)
            failure = group.wait()
        finally:
            group.signal(signal.SIGKILL)
    if failure is None:
        return Outcome(0, stop.received)
    cause, code = failure
    return Outcome(code, stop.received, cause.number, tuple(cause.last_lines))
