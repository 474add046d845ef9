"""The loop of a stage, and the signals that end it early."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import jax
import numpy as np

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.training.metrics import say
from codellama_jax.training.step import Batch, TrainState


def train_loop(
    state: TrainState,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[Any],
    put: Callable[[dict[str, np.ndarray]], Batch],
    steps: range,
    *,
    log: Callable[[int, Any, dict[str, jax.Array], float], None],
    after_step: Callable[[int, TrainState, Any], bool],
    pause_after: Callable[[int], bool],
) -> TrainState:
    """Runs the steps.

    Step n is dispatched before the metrics of step n - 1 are fetched, so the device never waits for the host; only
    where `pause_after(n)` says that something will be done with the state after step n does the loop wait for it.

    Args:
        state: before the first of `steps`.
        train_step: compiled; may consume the state it is given.
        batches: host batches (with `.arrays`).
        put: host arrays to device arrays.
        steps: numbers of the steps to do, counted from 1.
        log: (step, host batch, metrics, seconds the step took).
        after_step: (step, state, host batch) after pauses; True ends the loop.
        pause_after: whether the loop should pause after this step.

    Returns:
        The state after the last step done.
    """
    pending: tuple[int, Any, dict[str, jax.Array]] | None = None
    clock = time.monotonic()

    def log_pending() -> None:
        nonlocal pending, clock
        if pending is not None:
            metrics = jax.device_get(pending[2])  # waits for that step
            now = time.monotonic()
            log(pending[0], pending[1], metrics, now - clock)
            pending, clock = None, now

    for step in steps:
        batch = next(batches)
        state, metrics = train_step(state, put(batch.arrays))
        log_pending()
        pending = step, batch, metrics
        if pause_after(step):
            log_pending()
            if after_step(step, state, batch):
                break
            clock = time.monotonic()  # validation and saving are not the next step's time
    log_pending()
    return state


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """SIGTERM, SIGINT and SIGHUP ask the loop to stop after the step in hand; a second one stops at once.

    Where there are several hosts, one that was signalled tells the others with its next batch, and all stop after the
    same step: that in which they hear of it (two steps later, as the host is a step ahead of the device).

    As a context manager it restores the handlers that were there.

    Args:
        grace_seconds: from the first signal to the end of the process, whatever is unsaved then.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.name: str | None = None
        self._grace = grace_seconds
        self._timer: threading.Timer | None = None
        self._heard = False

    def __enter__(self) -> "StopSignals":
        self._before = {sig: signal.signal(sig, self._handle) for sig in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for sig, handler in self._before.items():
            signal.signal(sig, handler)
        if self._timer:
            self._timer.cancel()

    @property
    def requested(self) -> bool:
        """Whether to stop now: the same on all hosts."""
        return self._heard if jax.process_count() > 1 else self.name is not None

    def hear(self, metrics: Mapping[str, Any]) -> None:
        """Takes what any host said with this step's batch."""
        self._heard = self._heard or bool(metrics.get("stop", False))

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.name is not None:
            self._end("stopped at once")
        self.name = signal.Signals(number).name
        self._timer = threading.Timer(
            self._grace, self._end, [f"{self._grace:g} s after {self.name} (Checkpoints.grace_seconds): stopped"]
        )
        self._timer.daemon = True
        self._timer.start()
        say(f"{self.name}: finishing this step, then saving (a second signal stops at once)")

    def _end(self, why: str) -> None:
        sys.stderr.write(f"{why}; what was saved before is untouched\n")
        sys.stderr.flush()
        # not sys.exit: a thread may be writing a checkpoint, and must not be waited for
        os._exit(EXIT_INTERRUPTED)
