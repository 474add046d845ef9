"""Repeats operations of a cloud that fail for a time: increasing waits with jitter, up to a time limit."""

import logging
import random
import time

from codellama_jax.runtime.signals import StopSignals

logger = logging.getLogger(__name__)

FIRST_SECONDS, MAX_SECONDS = 10.0, 600.0  # the wait after the first failure, and the longest wait
JITTER = 0.25  # each wait is changed at random by up to this share, so that launchers do not act at the same time


class RetriesExhausted(Exception):
    """An operation failed until its time limit. The message is the reason of the last failure and the limit."""


class Clock:
    """Time as the launcher sees it. Tests replace it, so that waits take no time."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float, stop: StopSignals, allowed: int = 0) -> None:
        """Waits. Raises Stopped if more than `allowed` signals asked to stop."""
        stop.sleep(seconds, allowed)


class Retry:
    """The waits between the tries of one operation.

    Args:
        clock: measures and waits.
        stop: signals that end a wait.
        limit_seconds: how long after the first failure the last try starts.
        first_seconds: the first wait; each further one is twice as long.
        max_seconds: the longest wait.
    """

    def __init__(
        self,
        clock: Clock,
        stop: StopSignals,
        limit_seconds: float,
        first_seconds: float = FIRST_SECONDS,
        max_seconds: float = MAX_SECONDS,
    ):
        self._clock, self._stop = clock, stop
        self._limit_seconds, self._first_seconds, self._max_seconds = limit_seconds, first_seconds, max_seconds
        self.reset()

    def reset(self) -> None:
        """The operation has succeeded: the next failure is the first one."""
        self._failures, self._since = 0, 0.0

    def wait(self, reason: str, allowed: int = 0) -> None:
        """Waits after a failure, and logs the reason and when the next try starts.

        Args:
            reason: why the last try failed.
            allowed: number of stop signals that do not end the wait.

        Raises:
            RetriesExhausted: the time limit is reached.
            Stopped: more than `allowed` signals asked to stop.
        """
        if not self._failures:
            self._since = self._clock.now()
        remaining = self._since + self._limit_seconds - self._clock.now()
        if remaining <= 0:
            tried = f"; tried for {duration(self._limit_seconds)}" if self._limit_seconds else ""
            raise RetriesExhausted(reason + tried)
        seconds = min(self._first_seconds * 2.0 ** min(self._failures, 30), self._max_seconds)
        seconds = min(seconds * random.uniform(1 - JITTER, 1 + JITTER), remaining)
        self._failures += 1
        logger.info(f"codellama_jax: {reason}; next try in {duration(seconds)}")
        self._clock.sleep(seconds, self._stop, allowed)


def duration(seconds: float) -> str:
    """A time for a message: "40 s", "10 min" or "24 h"."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
