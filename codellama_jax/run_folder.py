"""What the folder of a run says of itself, without JAX: whether a stage is finished, and whose folder it is."""

import fcntl
import json
import os
import re
import socket
from pathlib import Path

from codellama_jax import configuration
from codellama_jax.errors import UserError


def final_step(stage_dir: Path) -> int | None:
    """The step at which this stage was finished, None if it is not."""
    done = stage_dir / "done.json"
    if not done.exists():
        return None
    step = int(json.loads(done.read_text())["step"])
    return step if (stage_dir / "checkpoints" / str(step)).is_dir() else None


def saved_steps(stage_dir: Path) -> list[int]:
    """Steps of the stage's whole checkpoints, in order."""
    return sorted(int(path.name) for path in (stage_dir / "checkpoints").glob("*") if path.name.isdigit())


def check_same_configuration(stage_dir: Path, operative: str) -> None:
    """Raises UserError that names what differs, if the checkpoints there were made by another configuration."""
    saved = stage_dir / "config.gin"
    if not saved.exists() or not saved_steps(stage_dir):
        return
    differences = configuration.differences(saved.read_text(), operative)
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise UserError(f"{stage_dir} was made by another configuration ({shown}): use another --name, or its values")


def lock(stage_dir: Path) -> int:
    """Takes the folder for this process, as long as it lives; returns the descriptor that holds it.

    Raises:
        UserError: another process has it; names it and its host.
    """
    descriptor = os.open(stage_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        noted = os.read(descriptor, 300).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(f"{stage_dir} is in use by process {noted}: wait for it, or use another --name") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def holder(stage_dir: Path) -> tuple[int, str] | None:
    """The process that has the folder and its host, None if nobody has. Of a process on another host it is taken to
    live: only its own host knows."""
    try:
        noted = (stage_dir / ".lock").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.fullmatch(r"(\d+) on (\S+)\s*", noted)
    if not found:
        return None
    process, host = int(found[1]), found[2]
    if host == socket.gethostname():
        try:
            os.kill(process, 0)  # asked first, so that the lock is left alone while a new process is about to take it
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # somebody else's
        if not _locked(stage_dir / ".lock"):
            return None
    return process, host


def check_not_in_use(stage_dir: Path) -> None:
    """Raises UserError, as lock does, if another process has the folder; takes nothing."""
    if _locked(stage_dir / ".lock"):
        noted = (stage_dir / ".lock").read_text(encoding="utf-8", errors="replace").strip() or "unknown"
        raise UserError(f"{stage_dir} is in use by process {noted}: wait for it, or use another --name")


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
