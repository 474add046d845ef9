"""An experiment is a list of jobs; a job is one stage of one run; an executor runs a job somewhere."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage to be run.

    Attributes:
        stage: its name.
        arguments: what codellama_jax.train is given.
    """

    stage: str
    arguments: tuple[str, ...]


def make_job(
    stage: str, gin_files: Sequence[str], bindings: Sequence[str], run_dir: Path, name: str, more: Sequence[str] = ()
) -> Job:
    """The job of a stage with these gin files, `NAME=VALUE` bindings, run folder, and other flags of train."""
    arguments = (
        *(f"--gin_file={file}" for file in gin_files),
        *(f"--gin.{binding}" for binding in bindings),
        f"--run_dir={run_dir}",
        f"--name={name}",
        *more,
    )
    return Job(stage, arguments)
