"""The state of a run folder, read without JAX: which checkpoints a stage has, and whether it has finished."""

import json
from pathlib import Path

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.runtime import checksums, filesystem


def check_name(name: str) -> str:
    """Returns the name of a run if it can be the name of a folder; status, logs and stop look for runs by it.

    Raises:
        UserError: it has several parts, or stands for another folder.
    """
    if name in (".", "..") or "/" in name:
        raise UserError(f"--name={name} must be the name of one folder; --run_dir=FOLDER says where it is", EXIT_USAGE)
    return name


def final_step(stage_dir: Path) -> int | None:
    """The step at which the stage finished; None if it has not."""
    done = stage_dir / "done.json"
    if not done.exists():
        return None
    step = int(json.loads(done.read_text())["step"])
    return step if step in saved_steps(stage_dir) else None


def saved_steps(stage_dir: Path) -> list[int]:
    """The steps of the stage's complete checkpoints, in order.

    A local checkpoint is renamed when it is complete. In a bucket, where nothing can be renamed, the checksums are
    written last.
    """
    folder = stage_dir / "checkpoints"
    steps = [path for path in folder.glob("*") if path.name.isdigit()]
    if filesystem.is_remote(folder):
        steps = [path for path in steps if (path / checksums.NAME).exists()]
    return sorted(int(path.name) for path in steps)


def newest_checkpoint(stage_dir: Path) -> Path | None:
    """The checkpoint that a finished stage ended with, or else its newest complete one.

    None if there is none, or the folder is not a stage's.
    """
    if (step := final_step(stage_dir)) is not None:
        return stage_dir / "checkpoints" / str(step)
    steps = saved_steps(stage_dir)
    return stage_dir / "checkpoints" / str(steps[-1]) if steps else None


def tokenizer_file(checkpoint: Path, name: str | None = None) -> Path | None:
    """The tokenizer's file of a checkpoint: one that it carries, or that in the folder of the run.

    Args:
        checkpoint: the checkpoint.
        name: tokenizer.model or tokenizer.json; None: the first of these that there is.
    """
    if name is None:
        return tokenizer_file(checkpoint, "tokenizer.model") or tokenizer_file(checkpoint, "tokenizer.json")
    folders = [checkpoint, checkpoint / "assets"]
    if checkpoint.parent.name == "checkpoints":  # runs/NAME/STAGE/checkpoints/STEP
        folders.append(filesystem.absolute(checkpoint).parents[2])
    return next((file for folder in folders if (file := folder / name).is_file()), None)


def check_same_configuration(stage_dir: Path, operative: str) -> None:
    """Checks that the stage's checkpoints, if it has any, were written with the given operative configuration.

    Raises:
        UserError: they were written with another configuration; the message names the differences.
    """
    saved = stage_dir / "config.gin"
    if not saved.exists() or not saved_steps(stage_dir):
        return
    from codellama_jax.config import gin_files  # imports gin, which conversion does without

    differences = gin_files.differences(saved.read_text(), operative)
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise UserError(
            f"{stage_dir} was made with another configuration ({shown}): use another --name, or restore its values"
        )
