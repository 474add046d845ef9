"""Locks, which ensure that only one process at a time works in the folder of a stage.

A local folder is locked by flock, which the operating system releases when the process ends. In a bucket, the holder
creates an object and rewrites it regularly; a holder that stops doing so is considered dead, and its lock is taken
over. Both files are named .lock and contain the process ID and the host of the holder.
"""

import fcntl
import logging
import os
import re
import socket
import threading
import time
from pathlib import Path
from typing import Protocol

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0  # interval at which a holder rewrites its lock in a bucket
DEAD_SECONDS = 4 * REFRESH_SECONDS  # a holder that has not rewritten its lock for this long is considered dead
_NAME = ".lock"
_HOLDER = re.compile(r"(\d+) on (\S+)\s*")


class Lock(Protocol):
    """A folder that is locked for this process until `release`, or until the process ends."""

    def check(self) -> None:
        """Raises UserError if another process has taken over the lock, which can happen in a bucket."""

    def release(self) -> None:
        """Releases the lock."""


def acquire(folder: Path) -> Lock:
    """Locks an existing folder for this process.

    Raises:
        UserError: another process has locked it (the message names the process and its host), or the lock cannot be
            written.
    """
    return GcsLock(folder) if filesystem.is_remote(folder) else FileLock(folder)


def holder(folder: Path) -> tuple[int, str] | None:
    """The process that has locked a local folder, and its host; None if there is none.

    A process on another host is assumed to be alive: only its own host can check.
    """
    try:
        text = (folder / _NAME).read_text(encoding="utf-8")
    except OSError:
        return None
    match = _HOLDER.fullmatch(text)
    if not match:
        return None
    # The process is checked first: testing the lock could disturb a new process that is about to take it.
    if _has_ended(text) or (match[2] == socket.gethostname() and not _is_locked(folder / _NAME)):
        return None
    return int(match[1]), match[2]


def check_not_in_use(folder: Path) -> None:
    """Raises UserError, as `acquire` does, if another process has locked a local folder; locks nothing."""
    if _is_locked(folder / _NAME):
        raise _in_use(folder, (folder / _NAME).read_text(encoding="utf-8", errors="replace").strip() or "unknown")


class FileLock:
    """The lock of a local folder (see `acquire`)."""

    def __init__(self, folder: Path):
        self._descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            process = os.read(self._descriptor, 300).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise _in_use(folder, process) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{_this_process()}\n".encode())

    def check(self) -> None:
        pass

    def release(self) -> None:
        os.close(self._descriptor)


class GcsLock:
    """The lock of a folder in a bucket (see `acquire`).

    The object .lock is created only if it does not exist, and a thread rewrites it every REFRESH_SECONDS.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._process = _this_process()
        self._lost: str | None = None
        with gcs.errors_as_user_errors(folder):
            self._object = gcs.VersionedObject(folder / _NAME)
            self._generation = self._write(0) or self._take_over()
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="lock", daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost:
            raise UserError(f"{self._lost}; that process resumes from the last checkpoint")

    def release(self) -> None:
        self._released.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._object.delete(self._generation)
            except Exception:
                return  # the next process has to wait for DEAD_SECONDS

    def _write(self, generation: int) -> int | None:
        return self._object.write(f"{self._process}\n", generation)

    def _read(self) -> tuple[int, str] | None:
        """The generation and the holder; None if there is no lock."""
        current = self._object.read()
        return current and (current[0], current[1].strip())

    def _take_over(self) -> int:
        """Waits until the holder is known to have ended, and replaces its lock; returns the generation."""
        started, first, announced = time.monotonic(), self._read(), False
        while True:
            current = self._read()
            if current is None or first is None:
                generation = self._write(0)
            elif current[0] != first[0]:
                raise _in_use(self._folder, current[1])  # it was rewritten: the holder is alive
            elif time.monotonic() - started > DEAD_SECONDS or _has_ended(current[1]):
                generation = self._write(current[0])
            else:
                generation = None
                if not announced:
                    announced = True
                    logger.info(
                        "%s is locked by process %s: waiting up to %.0f s to see whether it is alive",
                        self._folder,
                        current[1],
                        DEAD_SECONDS,
                    )
                time.sleep(REFRESH_SECONDS / 5)
            if generation is not None:
                return generation
            first = first or current

    def _refresh(self) -> None:
        while not self._released.wait(REFRESH_SECONDS):
            try:
                generation = self._write(self._generation)
                if generation is None and (current := self._read()) and current[1] == self._process:
                    generation = current[0]  # an earlier write succeeded, and its answer was lost
            except Exception:
                continue  # the bucket cannot be reached; the next attempt finds out whether the lock was taken over
            if generation is None:
                self._lost = f"{self._folder} was locked by another process while the bucket could not be reached"
                return
            self._generation = generation


def _this_process() -> str:
    """This process as a lock names it: process ID and host."""
    return f"{os.getpid()} on {socket.gethostname()}"


def _has_ended(process: str) -> bool:
    """Whether the process that a lock names is known to have ended: it ran on this host, and does not exist."""
    match = _HOLDER.fullmatch(process)
    if not match or match[2] != socket.gethostname():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it exists, and belongs to another user
    return False


def _is_locked(path: Path) -> bool:
    """Whether a process of this host has locked a file; tested with a shared lock that is released at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _in_use(folder: Path, process: str) -> UserError:
    return UserError(f"{folder} is in use by process {process}: wait for it, or use another --name")
