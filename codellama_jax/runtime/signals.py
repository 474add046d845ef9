"""Signals that ask a process to stop: SIGTERM, SIGINT and SIGHUP.

`StopSignals` counts them in place of ending the process. A training process stops after the current step and saves; a
launcher passes them on to the processes that it started.
"""

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from codellama_jax.errors import EXIT_INTERRUPTED

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked the process to stop."""


class StopSignals:
    """Counts stop signals while the context is open; on exit, the previous handlers are restored.

    Enter the context in the main thread: Python runs signal handlers there.

    Args:
        on_signal: called with the number of each signal, in the main thread.
        grace_seconds: limit for stopping. If given, the process exits with EXIT_INTERRUPTED at the second signal, or
            this long after the first one, without waiting for anything. None: no limit, however many signals arrive.
        hosts: number of processes of this run. If there are several, they must stop after the same step: each sends
            `received` with its next batch, and passes the combined flag of all hosts to `update`.

    Attributes:
        count: number of signals that this process received.
        name: name of the first signal, such as "SIGTERM"; None if none was received.
    """

    def __init__(
        self, on_signal: Callable[[int], object] | None = None, *, grace_seconds: float | None = None, hosts: int = 1
    ) -> None:
        self.count = 0
        self.name: str | None = None
        self._on_signal = on_signal
        self._grace_seconds = grace_seconds
        self._hosts = hosts
        self._any_host_received = False
        self._timer: threading.Timer | None = None
        # SimpleQueue.put, unlike Event.set, may be called by a signal handler that interrupts a waiting thread
        self._arrivals: queue.SimpleQueue[None] = queue.SimpleQueue()

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._timer:
            self._timer.cancel()

    @property
    def received(self) -> bool:
        """Whether this process received a signal."""
        return self.count > 0

    @property
    def requested(self) -> bool:
        """Whether to stop now. With several hosts, this changes only in `update`, so it is the same on all of them."""
        return self._any_host_received if self._hosts > 1 else self.received

    def update(self, any_host_received: bool) -> None:
        """Records the flag that all hosts computed together in a step: whether any of them received a signal."""
        self._any_host_received = self._any_host_received or any_host_received

    def sleep(self, seconds: float, allowed: int = 0) -> None:
        """Waits for a time.

        Args:
            seconds: how long.
            allowed: number of signals that do not end the wait.

        Raises:
            Stopped: more than `allowed` signals have arrived, before the call or during it.
        """
        deadline = time.monotonic() + seconds
        while self.count <= allowed and (remaining := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._arrivals.get(timeout=remaining)
        if self.count > allowed:
            raise Stopped

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name
        self._arrivals.put(None)
        if self._grace_seconds is not None:
            self._limit(self._grace_seconds)
        if self._on_signal:
            self._on_signal(number)

    def _limit(self, grace_seconds: float) -> None:
        if self.count > 1:
            self._exit_now("stopped at once")
        reason = f"{grace_seconds:g} s after {self.name} (Checkpoints.grace_seconds): stopped"
        self._timer = threading.Timer(grace_seconds, self._exit_now, [reason])
        self._timer.daemon = True
        self._timer.start()
        with contextlib.suppress(RuntimeError):  # the signal interrupted a write to the same stream
            logger.info("%s: finishing this step, then saving (a second signal stops at once)", self.name)

    def _exit_now(self, reason: str) -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a closed terminal must not prevent the exit
            sys.stderr.write(f"{reason}; earlier checkpoints are not affected\n")
            sys.stderr.flush()
        # not sys.exit: it would wait for a thread that writes a checkpoint
        os._exit(EXIT_INTERRUPTED)
