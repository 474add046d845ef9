"""Traces of training steps, for the profile page of TensorBoard."""

import contextlib
import math
import time
from pathlib import Path

import jax

from codellama_jax.runtime import filesystem

POLL_SECONDS = 30.0  # interval between checks for a trigger file in a bucket
TRACED_STEPS = 3  # number of steps in a trace that the trigger file requests


class Profiler:
    """Traces the configured steps, and the next steps whenever a trigger file is created.

    Args:
        first, last: steps to trace; 0: none.
        trigger: if this file exists, it is removed and the next TRACED_STEPS steps are traced.
        log_dir: log directory of TensorBoard. Each trace is a run trace_STEP in it. JAX writes only to local disks, so
            a trace for a bucket is copied there.
    """

    def __init__(self, first: int, last: int, trigger: Path, log_dir: Path):
        self._first, self._last, self._trigger, self._log_dir = first, last, trigger, log_dir
        self._last_traced: int | None = None  # last step of the trace in progress
        self._polled = -math.inf  # when a bucket was last checked for the trigger
        self._local_dir = contextlib.ExitStack()  # holds the local folder of the trace in progress

    def step_done(self, step: int) -> str | None:
        """Starts or ends a trace after a step; returns a message for the user if a trace was written."""
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
        """Whether the trigger file exists; removes it. A bucket is not checked after every step: a check takes time."""
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
