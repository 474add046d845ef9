"""What watches a run from beside: a stall ends it, a trace is taken on demand."""

import contextlib
import faulthandler
import math
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.runtime import filesystem

UPLOAD_SECONDS = 30.0  # for the stacks of a run in a bucket: what hangs may be the way there
LOOK_SECONDS = 30.0  # between two looks into a bucket for the file that asks for a trace
TRACED_STEPS = 3  # of a trace that was asked for by touching the file


class Watchdog:
    """Ends a process that does nothing any more, as where a host hangs in a collective whose partner is gone.

    As a context manager; it writes the stacks of every thread and exits with 75, for the job to be started again.

    Args:
        minutes: without a sign of life that are too many; 0: no number is.
        stacks: the file for the stacks.
    """

    def __init__(self, minutes: float, stacks: Path):
        self._seconds, self._stacks = 60 * minutes, stacks
        self._last, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def alive(self) -> None:
        """A sign of life."""
        self._last = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.alive()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(min(self._seconds / 4, 10)):
            if time.monotonic() - self._last > self._seconds:
                self._end()

    def _end(self) -> None:
        stacks = self._stacks
        if filesystem.is_remote(stacks):
            stacks = Path(tempfile.gettempdir()) / f"codellama_jax.{os.getpid()}.{stacks.name}"
        where = f"the stacks of all threads are in {stacks}"
        try:
            with stacks.open("w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if stacks != self._stacks:
                where += f", and should be in {self._stacks}"
                text = stacks.read_bytes()
                upload = threading.Thread(target=lambda: self._stacks.write_bytes(text), daemon=True)
                upload.start()
                upload.join(UPLOAD_SECONDS)
        except OSError as error:
            where = f"their stacks could not be written ({error.strerror})"
        sys.stderr.write(
            f"error: no step for {self._seconds / 60:g} minutes (Monitoring.stall_minutes); {where}; the same command"
            " goes on from the last checkpoint\n"
        )
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)  # a thread hangs, so nothing can be waited for


class Profiler:
    """Traces of steps for TensorBoard's profile page: those that are bound, and the next ones after a file is touched.

    Args:
        first, last: steps to trace; 0: none.
        ask: while this file exists, the next TRACED_STEPS are traced; it is removed.
        folder: of TensorBoard; each trace is a run of its own there, trace_STEP. JAX writes to disks only: one for a
            bucket is copied there.
    """

    def __init__(self, first: int, last: int, ask: Path, folder: Path):
        self._first, self._last, self._ask, self._folder = first, last, ask, folder
        self._until: int | None = None
        self._looked = -math.inf  # when a bucket was asked for the file
        self._here = contextlib.ExitStack()  # around the trace that is being taken

    def step_done(self, step: int) -> str | None:
        """Begins or ends a trace after a step; returns a line for the user if one was written."""
        if self._until is not None and step >= self._until:
            self.close()
            return f"traced steps up to {step}: tensorboard --logdir={self._folder}"
        if self._until is None:
            asked = self._asked()
            if asked or (self._first and step + 1 == self._first):
                self._until = step + TRACED_STEPS if asked else self._last
                here = self._here.enter_context(filesystem.staged_locally(self._folder / f"trace_{step + 1}"))
                jax.profiler.start_trace(str(here))
        return None

    def _asked(self) -> bool:
        """Whether the file is there, which is removed. A bucket, whose answer takes time, is not asked every step."""
        if filesystem.is_remote(self._ask):
            now = time.monotonic()
            if now - self._looked < LOOK_SECONDS:
                return False
            self._looked = now
        if not self._ask.exists():
            return False
        self._ask.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Ends a trace that is being taken."""
        if self._until is not None:
            self._until = None
            jax.profiler.stop_trace()
            self._here.close()
