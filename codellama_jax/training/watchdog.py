"""Ends a process that makes no progress."""

import faulthandler
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

from codellama_jax.errors import EXIT_INTERRUPTED
from codellama_jax.runtime import filesystem

UPLOAD_SECONDS = 30.0  # limit for uploading the stacks to a bucket: the network may be what hangs


class Watchdog:
    """Ends a process that makes no progress, such as a host that hangs in a collective after another host was lost.

    While the context is open, `reset` must be called at least every `minutes`. Otherwise the watchdog writes the
    stacks of all threads and exits with EXIT_INTERRUPTED, so that the job is started again.

    Args:
        minutes: time limit without progress; 0: no limit.
        stacks: path of the file for the stacks.
    """

    def __init__(self, minutes: float, stacks: Path):
        self._seconds, self._stacks = 60 * minutes, stacks
        self._last_reset, self._closed = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def reset(self) -> None:
        """Reports progress: the limit counts from now."""
        self._last_reset = time.monotonic()

    def __enter__(self) -> "Watchdog":
        self.reset()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(self._seconds / 4, 10)):
            if time.monotonic() - self._last_reset > self._seconds:
                self._exit()

    def _exit(self) -> None:
        stacks = self._stacks
        if filesystem.is_remote(stacks):
            stacks = Path(tempfile.gettempdir()) / f"codellama_jax.{os.getpid()}.{stacks.name}"
        location = f"the stacks of all threads are in {stacks}"
        try:
            with stacks.open("w", encoding="utf-8") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if stacks != self._stacks:
                location += f" (and in {self._stacks}, if the upload succeeded)"
                text = stacks.read_bytes()
                upload = threading.Thread(target=lambda: self._stacks.write_bytes(text), daemon=True)
                upload.start()
                upload.join(UPLOAD_SECONDS)
        except OSError as error:
            location = f"the stacks of its threads could not be written ({error.strerror})"
        sys.stderr.write(
            f"error: no step for {self._seconds / 60:g} minutes (Monitoring.stall_minutes); {location}; the same"
            " command resumes from the last checkpoint\n"
        )
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)  # not sys.exit: a thread hangs, and exiting would wait for it
