"""What the folder of a run says of itself, without JAX: whether a stage is finished, and whose folder it is."""

import fcntl
import json
import os
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
        UserError: another process has it.
    """
    descriptor = os.open(stage_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 100).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(f"{stage_dir} is in use by process {holder}: wait for it, or use another --name") from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
