"""Signals that ask the launcher to stop, counted and handed on."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """A signal asked the launcher to stop."""


class StopRequests:
    """While this context manager is open, signals that ask to stop are counted instead of ending the process.

    Args:
        forward: is called with each of them, in the main thread.

    Attributes:
        count: how many have come.
    """

    def __init__(self, forward: Callable[[int], None] = lambda number: None):
        self.count = 0
        self._forward = forward
        self._came = threading.Event()

    def __enter__(self) -> "StopRequests":
        self._before = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        self._came.set()
        self._forward(number)

    def sleep(self, seconds: float, allowed: int = 0) -> None:
        """Waits. Raises Stopped as soon as more than `allowed` requests have come."""
        if self.count <= allowed:
            self._came.clear()
            self._came.wait(seconds)
        if self.count > allowed:
            raise Stopped
