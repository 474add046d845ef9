"""Progress of a compilation on standard error."""

import sys
import time


class Progress:
    """Reports progress: on a terminal in one line that is overwritten, otherwise in a new line for every
    title and every 30 seconds.

    Attributes:
        title: what is being compiled. Set by the caller; printed before every message.
    """

    SECONDS = 30.0

    def __init__(self) -> None:
        self.title = ""
        self._reported_at, self._reported_title = time.monotonic(), ""

    def __call__(self, message: str) -> None:
        """Reports a message; "" clears the line."""
        now = time.monotonic()
        if sys.stderr.isatty():
            text = f"{self.title}: {message}" if message else ""
            sys.stderr.write(f"\r\033[K{text[:118]}")
        elif message and (self.title != self._reported_title or now - self._reported_at > self.SECONDS):
            self._reported_at, self._reported_title = now, self.title
            sys.stderr.write(f"{self.title}: {message}\n")
        sys.stderr.flush()
