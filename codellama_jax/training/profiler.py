"""Traces of training steps, for the profile page of TensorBoard."""

import contextlib
import math
import time
from pathlib import Path

import jax

from codellama_jax.runtime import filesystem

POLL_SECONDS = 30.0  # between two checks for the trigger file in a bucket
TRACED_STEPS = 3  # of a trace that the trigger file asks for


class Profiler:
    """Traces the steps that the configuration names, and the next ones after a trigger file was created.

    Args:
        first, last: steps to trace; 0: none.
        trigger: while this file exists, the next TRACED_STEPS are traced; it is removed.
        log_dir: of TensorBoard. Each trace is a run in it, trace_STEP. JAX writes to local disks only: a trace for a
            bucket is copied there.
    """

    def __init__(self, first: int, last: int, trigger: Path, log_dir: Path):
        self._first, self._last, self._trigger, self._log_dir = first, last, trigger, log_dir
        self._last_traced: int | None = None  # of the trace in progress
        self._polled = -math.inf  # when a bucket was last checked for the trigger
        self._local_dir = contextlib.ExitStack()  # of the trace in progress

    def step_done(self, step: int) -> str | None:
        """Starts or ends a trace after a step; returns a message for the user when a trace was written."""
        if self._last_traced is not None and step >= self._last_traced:
            self.close()
            return f"traced steps up to {step}: tensorboard --logdir={self._log_dir}"
        if self._last_traced is None:
            triggered = self._triggered()
            if triggered or (self._first and step + 1 == self._first):
                self._last_traced = step + TRACED_STEPS if triggered else self._last
                trace_dir = self._log_dir / f"trace_{step + 1}"
                local_dir = self._local_dir.enter_context(filesystem.staged_locally(trace_dir))
                jax.profiler.start_trace(str(local_dir))
        return None

    def _triggered(self) -> bool:
        """Whether the trigger file exists; removes it. A bucket is not checked at every step: that takes time."""
        if filesystem.is_remote(self._trigger):
            now = time.monotonic()
            if now - self._polled < POLL_SECONDS:
                return False
            self._polled = now
        if not self._trigger.exists():
            return False
        self._trigger.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Ends a trace in progress."""
        if self._last_traced is not None:
            self._last_traced = None
            jax.profiler.stop_trace()
            self._local_dir.close()
