"""What the folder of a run says of itself, without JAX: whether a stage is finished, and whose folder it is."""

import fcntl
import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from codellama_jax.config import gin_files
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums, filesystem


def final_step(stage_dir: Path) -> int | None:
    """The step at which this stage was finished, None if it is not."""
    done = stage_dir / "done.json"
    if not done.exists():
        return None
    step = int(json.loads(done.read_text())["step"])
    return step if step in saved_steps(stage_dir) else None


def saved_steps(stage_dir: Path) -> list[int]:
    """Steps of the stage's whole checkpoints, in order. On this machine a folder gets its name when it is whole; in a
    bucket, where nothing can be renamed, its checksums come last."""
    folder = stage_dir / "checkpoints"
    steps = [path for path in folder.glob("*") if path.name.isdigit()]
    if filesystem.is_remote(folder):
        steps = [path for path in steps if (path / checksums.NAME).exists()]
    return sorted(int(path.name) for path in steps)


def check_same_configuration(stage_dir: Path, operative: str) -> None:
    """Raises UserError that names what differs, if the checkpoints there were made by another configuration."""
    saved = stage_dir / "config.gin"
    if not saved.exists() or not saved_steps(stage_dir):
        return
    differences = gin_files.differences(saved.read_text(), operative)
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise UserError(f"{stage_dir} was made by another configuration ({shown}): use another --name, or its values")


_HOLDER = re.compile(r"(\d+) on (\S+)\s*")


def this_process() -> str:
    """How a lock names its holder."""
    return f"{os.getpid()} on {socket.gethostname()}\n"


def has_ended(noted: str) -> bool:
    """Whether the holder that a lock names is known to have ended: it is of this host, and not there any more."""
    found = _HOLDER.fullmatch(noted)
    if not found or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's
    return False


def in_use(stage_dir: Path, noted: str) -> UserError:
    """What the user reads where another process has the folder."""
    return UserError(f"{stage_dir} is in use by process {noted}: wait for it, or use another --name")


class Locked(Protocol):
    """A folder that is taken for this process, as long as it lives."""

    def check(self) -> None:
        """Raises UserError if it is not any more: another process took it, as can happen in a bucket."""

    def release(self) -> None:
        """Lets go of it."""


def lock(stage_dir: Path, say: Callable[[str], object] = print) -> Locked:
    """Takes the folder for this process; `say` is told where there is something to wait for.

    Raises:
        UserError: another process has it; names it and its host. Or it cannot be written.
    """
    if filesystem.is_remote(stage_dir):
        from codellama_jax.runtime import gcs  # its client is imported only where there is a bucket

        return gcs.Lock(stage_dir, say)
    return _FileLock(stage_dir)


class _FileLock:
    """The lock of a folder of this machine: the system ends it with the process."""

    def __init__(self, stage_dir: Path):
        self._descriptor = os.open(stage_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            noted = os.read(self._descriptor, 300).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise in_use(stage_dir, noted) from error
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, this_process().encode())

    def check(self) -> None:
        pass

    def release(self) -> None:
        os.close(self._descriptor)


def holder(stage_dir: Path) -> tuple[int, str] | None:
    """The process that has the folder and its host, None if nobody has. Of a process on another host it is taken to
    live: only its own host knows."""
    try:
        noted = (stage_dir / ".lock").read_text(encoding="utf-8")
    except OSError:
        return None
    found = _HOLDER.fullmatch(noted)
    if not found:
        return None
    # asked first, so that the lock is left alone while a new process is about to take it
    if has_ended(noted) or (found[2] == socket.gethostname() and not _locked(stage_dir / ".lock")):
        return None
    return int(found[1]), found[2]


def check_not_in_use(stage_dir: Path) -> None:
    """Raises UserError, as lock does, if another process has the folder; takes nothing."""
    if _locked(stage_dir / ".lock"):
        noted = (stage_dir / ".lock").read_text(encoding="utf-8", errors="replace").strip() or "unknown"
        raise in_use(stage_dir, noted)


def _locked(path: Path) -> bool:
    """Whether a process of this host holds the lock; asked with a shared one, held for no time."""
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
