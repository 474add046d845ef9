"""Several processes of one job on this machine, seen as one: their output, their end."""

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
from collections.abc import Mapping, Sequence
from pathlib import Path

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.hosts import lost_another
from launch.signals import StopRequests

NOISE = "[Gloo] Rank "  # lines that begin so are in the file only: how processes on CPUs meet
LAST_LINES = 12  # of the process that failed
SETTLE_SECONDS = 0.5  # in which the end of one is the end of others too: which of them is to blame?
ALONE_SECONDS = 2.0  # that the others have to end by themselves once one has failed, and again once they were asked
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
        return self.code == EXIT_INTERRUPTED and not lost_another(self.last_lines)


class _Process:
    """One of them: every line of its output goes to the terminal with a prefix, and to a file as it is."""

    def __init__(self, number: int, command: Sequence[str], environment: Mapping[str, str], log: Path):
        self.number, self._log = number, log
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
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        file = None
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            file = self._log.open("ab", buffering=0)
        except OSError as error:
            self._no_log(error)
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\n").rpartition("\r")[2]
            if not text.startswith(NOISE):
                self.last.append(text)
                self._print(text)
            if file:
                try:
                    file.write(line)
                except OSError as error:  # a full disk ends the log, not the training
                    self._no_log(error)
                    file = None

    def _no_log(self, error: OSError) -> None:
        self._print(f"(the launcher cannot write {self._log}: {error.strerror}; the job goes on, its output is here)")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone: the file has it
            sys.stdout.write(f"[{self.number}] {text}\n")
            sys.stdout.flush()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)  # does nothing once it has ended and was waited for

    def end(self) -> int:
        """Waits for its end and its last line; returns its code as a shell gives it."""
        code = self.process.wait()
        self._reader.join(2)  # not for ever: what it started may hold the pipe
        return code if code >= 0 else 128 - code


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
                patience, hurry = _hurry(saved=code == EXIT_INTERRUPTED and not lost_another(each.last))
                first_at, deadline = time.monotonic(), time.monotonic() + patience
            if not failed or time.monotonic() - first_at < SETTLE_SECONDS:
                failed.append((each, code))
    if not failed:
        return Ended(0, asked.count > 0)
    # One that only lost another is not the one to blame.
    blamed, code = next(((e, c) for e, c in failed if not lost_another(e.last)), failed[0])
    return Ended(code, asked.count > 0, blamed.number, tuple(blamed.last))


def _hurry(*, saved: bool) -> tuple[float, list[tuple[int, float]]]:
    """Once one has ended: how long the others have, and then (signal, seconds until the next)."""
    patience = SAVE_SECONDS if saved else ALONE_SECONDS
    return patience, [(signal.SIGTERM, ALONE_SECONDS), (signal.SIGKILL, float("inf"))]
