"""Terminal output: log messages for the user, without the output of libraries.

Modules log through the standard library, `logging.getLogger(__name__)`; only commands print, and only
their results. `configure_logging` is called by the commands: importing the package as a library installs no handler.
"""

import _thread
import contextlib
import errno
import logging
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

from codellama_jax.errors import UserError

LOGGERS = ("codellama_jax", "tasks", "launch", "xm_launch")


class TerminalHandler(logging.Handler):
    """Writes each message as a line, above a progress bar if there is one.

    Messages go to standard output; warnings and errors go to standard error. Errors of a closed terminal or pipe are
    ignored: they must neither end a run nor prevent a save.
    """

    def emit(self, record: logging.LogRecord) -> None:
        # looked up each time: tests and notebooks replace these streams
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self.write(line, stream)

    def write(self, line: str, stream: TextIO) -> None:
        if tqdm := sys.modules.get("tqdm"):
            tqdm.tqdm.write(line, file=stream)
        else:
            stream.write(line + "\n")
        stream.flush()


class DroppingHandler(TerminalHandler):
    """Drops messages that nobody reads: a full pipe, or a terminal that was stopped, does not block the caller.

    The first message that is dropped waits a moment for a reader. The next one that is written comes after a line with
    the number of those that were dropped.
    """

    _WAIT = 0.1  # seconds
    _PIECE = 1000  # characters; what a stream that can be written to takes without blocking (PIPE_BUF: 4,096 bytes)

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0

    def write(self, line: str, stream: TextIO) -> None:
        text = line + "\n"
        if self.dropped:
            text = f"\n({self.dropped:,} lines before this one were dropped, because nobody read them)\n{text}"
        for start in range(0, len(text), self._PIECE):
            if not select.select([], [stream], [], 0 if self.dropped else self._WAIT)[1]:
                self.dropped += 1
                return
            stream.write(text[start : start + self._PIECE])
            stream.flush()
        self.dropped = 0


def drop_unread_messages() -> None:
    """From now on, messages that nobody reads are dropped."""
    for name in LOGGERS:
        logging.getLogger(name).handlers = [DroppingHandler()]


def configure_logging() -> None:
    """Makes the loggers of this project write to the terminal; the loggers of libraries do not change. Idempotent."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, TerminalHandler) for handler in logger.handlers):
            logger.addHandler(TerminalHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # absl, which TensorFlow and Orbax import, adds a handler to the root logger


def silence_threads() -> None:
    """Keeps the tracebacks of libraries' threads off the terminal.

    Use it only where what fails in such a thread is raised in the main thread too, as in Orbax and JAX.
    """
    threading.excepthook = _ignore
    sys.unraisablehook = _ignore  # of C++ threads


def _ignore(_: object) -> None:
    pass


@contextlib.contextmanager
def stdout_may_close() -> Iterator[None]:
    """Ends the block without an error if the reader of standard output, such as head, closes the pipe.

    Raises:
        UserError: the disk of the file that standard output is redirected to is full.
    """
    try:
        yield
        if sys.stdout is not None:  # it is closed
            sys.stdout.flush()
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and (error.errno != errno.ENOSPC or error.filename is not None):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes when it exits
        if error.errno == errno.ENOSPC:
            raise UserError(f"standard output cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def interrupts_are_kept() -> Iterator[None]:
    """Raises a KeyboardInterrupt again that a callback has lost, such as those of JAX at garbage collection."""

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.05, _thread.interrupt_main).start()  # when the callback has returned
        else:
            previous(unraisable)

    previous, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards what C++ code writes to standard error, such as TensorFlow's start-up notes.

    Some lines are written before TF_CPP_MIN_LOG_LEVEL is read; only redirecting the file descriptor removes them.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_to(os.devnull):
        yield


@contextlib.contextmanager
def stderr_to(path: str) -> Iterator[None]:
    """Appends standard error to a file, including the output of C++ code and child processes."""
    sys.stderr.flush()
    saved = os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(file)
