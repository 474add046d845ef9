"""Processes of one job on this machine: what they say is kept, and several are seen as one."""

import contextlib
import dataclasses
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
from launch.signals import StopRequests

NOISE = "[Gloo] Rank "  # lines that begin so are in the file only: how processes on CPUs meet
LAST_LINES = 12  # of the process that failed
SETTLE_SECONDS = 0.5  # in which the end of one is the end of others too: which of them is to blame?
ALONE_SECONDS = 2.0  # that the others have to end by themselves once one has failed, and again once they were asked
READ_SECONDS = 2.0  # from the end of a process to that of its output: what it started may hold the pipe for ever
SAVE_SECONDS = 45.0  # that they have once one has saved and ended: longer than Checkpoints.grace_seconds


@dataclasses.dataclass(frozen=True)
class Ended:
    """How the processes ended.

    Attributes:
        code: 0, or that of the one that failed first, as a shell gives it.
        asked: whether a signal asked to stop meanwhile.
        process: the one that failed; None if none did.
        last_lines: what it said last.
    """

    code: int
    asked: bool
    process: int | None = None
    last_lines: tuple[str, ...] = ()

    @property
    def saved(self) -> bool:
        """Whether they were stopped, and saved."""
        return self.code == EXIT_INTERRUPTED and not reports_peer_loss(self.last_lines)


class _Log:
    """A file that output is added to. Where it cannot be written, as on a full disk, it ends, and not the training."""

    def __init__(self, path: Path, tell: Callable[[str], None]):
        self._path, self._tell = path, tell
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
        self._tell(f"(the launcher cannot write {self._path}: {error.strerror}; the job goes on, its output is here)")


class _Process:
    """One of them: every line of its output goes to the terminal with a prefix, and to a file as it is."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.number = number
        self.last: deque[str] = deque(maxlen=LAST_LINES)
        # A session of its own: a Ctrl-C on the terminal would otherwise reach it twice, which means "at once".
        self.process = subprocess.Popen(
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
        assert self.process.stdout
        kept = _Log(log, self._print)
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\n").rpartition("\r")[2]
            if not text.startswith(NOISE):
                self.last.append(text)
                self._print(text)
            kept.write(line)

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: the file has it
            sys.stdout.write(f"[{self.number}] {text}\n")
            sys.stdout.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)  # does nothing once it has ended and was waited for

    def end(self) -> int:
        """Waits for its end and its last line; returns its code as a shell gives it."""
        code = self.process.wait()
        self._reader.join(READ_SECONDS)
        return code if code >= 0 else 128 - code


def run_alone(command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> tuple[int, bool]:
    """Runs one process that has the terminal; returns its exit code as a shell gives it, and whether a signal asked to
    stop meanwhile.

    What it says goes to the log as well, but for what goes to a terminal: on a pipe there would be no progress bar.
    """
    stdout, stderr = (None if log is None or os.isatty(number) else subprocess.PIPE for number in (1, 2))
    if stdout and stderr and _same_file(1, 2):
        stderr = subprocess.STDOUT  # so that lines of both stay in their order
    # A session of its own: a Ctrl-C on the terminal would otherwise reach it twice, which means "at once".
    process = subprocess.Popen(
        command, env=os.environ | dict(environment), stdout=stdout, stderr=stderr, start_new_session=True
    )
    copies: list[threading.Thread] = []
    if log and (stdout or stderr):
        kept = _Log(log, lambda text: print(f"codellama_jax: {text}", file=sys.stderr))
        pipes = [(pipe, number) for pipe, number in ((process.stdout, 1), (process.stderr, 2)) if pipe]
        copies = [threading.Thread(target=_copy, args=(*each, kept), daemon=True) for each in pipes]
    for copy in copies:
        copy.start()
    with StopRequests(process.send_signal) as asked:
        code = process.wait()
    for copy in copies:
        copy.join(READ_SECONDS)
    return (code if code >= 0 else 128 - code), asked.count > 0


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False  # one is closed


def _copy(pipe: IO[bytes], number: int, kept: _Log) -> None:
    """Writes what comes out of a pipe to this process's output of that number, and whole lines of it to the log."""
    held = b""
    with open(number, "wb", closefd=False) as out:
        while data := os.read(pipe.fileno(), 1 << 16):
            with contextlib.suppress(OSError):  # who read it has gone: the log has it
                out.write(data)
                out.flush()
            whole, end, held = (held + data).rpartition(b"\n")
            if end:
                kept.write(whole + end)
    if held:
        kept.write(held)


def run(commands: Sequence[tuple[Sequence[str], Mapping[str, str], Path]]) -> Ended:
    """Runs one process for each (command, environment, log file), and returns when all have ended.

    The first failure stops the others. Signals that ask this process to stop are handed to each, each once.
    """
    started: list[_Process] = []
    ends: queue.Queue[tuple[_Process, int]] = queue.Queue()

    def forward(number: int) -> None:
        for each in started:
            each.signal(number)

    def ended(each: _Process) -> None:
        ends.put((each, each.end()))

    with StopRequests(forward) as asked:
        try:
            for number, (command, environment, log) in enumerate(commands):
                started.append(_Process(number, command, os.environ | dict(environment), log))
                threading.Thread(target=ended, args=(started[-1],), daemon=True).start()
                if asked.count:  # came before this one was there to be told
                    started[-1].signal(signal.SIGTERM)
            return _outcome(started, ends, asked)
        finally:
            for each in started:
                each.signal(signal.SIGKILL)


def _outcome(started: list[_Process], ends: "queue.Queue[tuple[_Process, int]]", asked: StopRequests) -> Ended:
    """Waits for the ends of all; once one has failed it hurries the others."""
    failed: list[tuple[_Process, int]] = []
    remaining = len(started)
    hurry: list[tuple[int, float]] = []
    first_at = deadline = float("inf")
    while remaining:
        try:
            each, code = ends.get(timeout=min(max(deadline - time.monotonic(), 0), 0.5))
        except queue.Empty:
            if time.monotonic() >= deadline and hurry:
                number, seconds = hurry.pop(0)
                for other in started:
                    other.signal(number)
                deadline = time.monotonic() + seconds
            continue
        remaining -= 1
        if code:
            if not failed:
                patience, hurry = _hurry(saved=code == EXIT_INTERRUPTED and not reports_peer_loss(each.last))
                first_at, deadline = time.monotonic(), time.monotonic() + patience
            if not failed or time.monotonic() - first_at < SETTLE_SECONDS:
                failed.append((each, code))
    if not failed:
        return Ended(0, asked.count > 0)
    # One that only lost another is not the one to blame.
    blamed, code = next(((e, c) for e, c in failed if not reports_peer_loss(e.last)), failed[0])
    return Ended(code, asked.count > 0, blamed.number, tuple(blamed.last))


def _hurry(*, saved: bool) -> tuple[float, list[tuple[int, float]]]:
    """Once one has ended: how long the others have, and then (signal, seconds until the next)."""
    patience = SAVE_SECONDS if saved else ALONE_SECONDS
    return patience, [(signal.SIGTERM, ALONE_SECONDS), (signal.SIGKILL, float("inf"))]
