"""A clock that does not wait."""

from collections.abc import Callable

from codellama_jax.runtime.signals import StopSignals
from launch.retry import Clock


class SimulatedClock(Clock):
    """Advances by each wait at once.

    Attributes:
        waits: the waits so far, in seconds.
        on_wait: called at the start of each wait.
    """

    def __init__(self, on_wait: Callable[["SimulatedClock"], object] = lambda clock: None):
        self.time, self.waits, self.on_wait = 0.0, list[float](), on_wait

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float, stop: StopSignals, allowed: int = 0) -> None:
        self.waits.append(seconds)
        self.time += seconds
        self.on_wait(self)
        stop.sleep(0, allowed)
