"""Keeps what libraries write to standard error off the terminal, such as TensorFlow's start-up notes."""

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Sends what C++ code writes to standard error to nowhere.

    TF_CPP_MIN_LOG_LEVEL alone leaves some lines, which are written before it is read; only the descriptor helps.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with stderr_to(os.devnull):
        yield


@contextlib.contextmanager
def stderr_to(path: str) -> Iterator[None]:
    """Adds what is written to standard error, by C++ code and child processes too, to a file."""
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
