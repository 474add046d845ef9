"""Compares each stage of an experiment with the stage or the checkpoint that it starts from, before anything runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.run_dir import final_step, newest_checkpoint, saved_steps
from codellama_jax.training import inheritance
from launch import cloud
from launch.executor import Experiment
from launch.remote_run_dir import RunDir


def check_inheritance(experiment: Experiment, run_dir: RunDir) -> list[str]:
    """Compares the stages that have no checkpoint yet with what they start from, where that can be read.

    Returns:
        What the user should know, one line each.

    Raises:
        UserError: a stage does not compute with its parent's parameters what they were trained for.
    """
    notes = []
    planned: dict[str, Config] = {}
    for job in experiment.jobs:
        if not saved_steps(run_dir.stage(experiment.name, job.stage)):
            path, metadata = _parent(job.config, planned, experiment.name, run_dir)
            if metadata is not None:
                notes += [f"{job.stage}: {note}" for note in inheritance.check_model(path, metadata, job.config)]
        planned[job.stage] = job.config
    return notes


def _parent(
    config: Config, planned: dict[str, Config], name: str, run_dir: RunDir
) -> tuple[str, dict[str, Any] | None]:
    """What a stage starts from: its name or path, and its metadata, None if there is none or it cannot be read."""
    parent, initial = config.stage.parent, config.checkpoints.initial
    if parent in planned:
        before = planned[parent]
        return parent, {"llama": dataclasses.asdict(before.llama), "sequence_length": before.stage.sequence_length}
    if parent is not None:
        step = final_step(run_dir.stage(name, parent))
        path = f"{run_dir.path}/{name}/{parent}/checkpoints/{step}"
        return path, None if step is None else _read(path, offline=run_dir.offline)
    return initial, None if initial == "scratch" else _read(initial, offline=run_dir.offline)


def _read(path: str, *, offline: bool) -> dict[str, Any] | None:
    """The metadata of a checkpoint on this machine or in a bucket; None if it cannot be read."""
    if not filesystem.is_remote(path):
        folder = Path(filesystem.expand_home(path))
        return inheritance.read_metadata(newest_checkpoint(folder) or folder)
    if not path.startswith(filesystem.GCS_SCHEME) or (offline and not cloud.is_installed()):
        return None
    try:
        metadata = json.loads(cloud.read_file(f"{path}/metadata/metadata"))
    except (UserError, ValueError):
        return None
    return metadata if isinstance(metadata, dict) else None
