"""An experiment is a list of jobs; a job is one stage of one run; an executor runs an experiment somewhere."""

import dataclasses
from pathlib import Path

from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_USAGE, UserError

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage to be run.

    Attributes:
        stage: its name.
        gin_files: absolute paths.
        bindings: "NAME=VALUE".
        run_dir: the folder of all runs: an absolute path, or one of a bucket (gs://...).
        name: the run's folder in it.
        more: other flags of codellama_jax.train.
        config: what files and bindings resolve to.
    """

    stage: str
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    run_dir: str
    name: str
    more: tuple[str, ...] = ()
    config: Config = dataclasses.field(default_factory=Config, compare=False, repr=False)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What codellama_jax.train is given on this machine."""
        return self._arguments(self.gin_files)

    @property
    def shipped_arguments(self) -> tuple[str, ...]:
        """What it is given where a copy of the checkout is the working directory.

        Raises:
            UserError: a gin file that is not in the checkout, so that no copy has it.
        """
        for file in map(Path, self.gin_files):
            if not file.is_relative_to(ROOT):
                raise UserError(
                    f"--gin_file={file}: other machines get what is in {ROOT} and nothing else: put it there",
                    EXIT_USAGE,
                )
        return self._arguments(tuple(str(Path(file).relative_to(ROOT)) for file in self.gin_files))

    def _arguments(self, gin_files: tuple[str, ...]) -> tuple[str, ...]:
        return (
            *(f"--gin_file={file}" for file in gin_files),
            *(f"--gin.{binding}" for binding in self.bindings),
            f"--run_dir={self.run_dir}",
            f"--name={self.name}",
            *self.more,
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Jobs to be run one after another in one run, each starting from what the one before it left.

    Attributes:
        name: the run's folder.
        run_dir: the folder of all runs.
        jobs: in their order.
    """

    name: str
    run_dir: str
    jobs: tuple[Job, ...]
