"""Experiments, jobs, and the interface of the executors that run them.

The terms are XManager's: an *experiment* is a list of *jobs*, an *executor* runs them in one environment, and
*requirements* describe the resources. `--executor=NAME` accepts a key of EXECUTORS, `--executor=MODULE:CLASS` any class
with this interface (docs/launching.md).
"""

import argparse
import dataclasses
import difflib
import importlib
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from codellama_jax.config import gin_files
from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.planning import libtpu_flags
from codellama_jax.planning.chips import Topology
from codellama_jax.runtime import cli
from launch import source_archive

logger = logging.getLogger(__name__)

EXECUTORS = {
    "local": "launch.local.executor:Local",
    "tpu_vm": "launch.tpu_vm.executor:TpuVm",
    "gke": "launch.gke.executor:Gke",
}
RETRY_SECONDS = 24 * 3600.0  # credentials that expire in the night are renewed in the morning


# ---------------------------------------------------------------- experiments


@dataclasses.dataclass(frozen=True)
class Job:
    """One stage of one run.

    Attributes:
        stage: name of the stage.
        gin_files: absolute paths.
        bindings: "NAME=VALUE" strings.
        run_dir: the folder of all runs: an absolute path, or a folder in a bucket (gs://...).
        name: the run's folder in run_dir.
        extra_flags: further flags for codellama_jax.train.
        config: the configuration that the gin files and bindings resolve to.
    """

    stage: str
    gin_files: tuple[str, ...]
    bindings: tuple[str, ...]
    run_dir: str
    name: str
    extra_flags: tuple[str, ...] = ()
    config: Config = dataclasses.field(default_factory=Config, compare=False, repr=False)

    @property
    def arguments(self) -> tuple[str, ...]:
        """The arguments of codellama_jax.train on this machine."""
        return self._arguments(self.gin_files)

    @property
    def shipped_arguments(self) -> tuple[str, ...]:
        """The arguments on a machine whose working directory is a copy of the checkout.

        Raises:
            UserError: there is no checkout, or a gin file is outside it.
        """
        return self._arguments(tuple(map(source_archive.path_of_gin_file, self.gin_files)))

    @property
    def shipped_paths(self) -> tuple[str, ...]:
        """The gin files and the imported modules that the copy must contain, as paths relative to the checkout.

        Raises:
            UserError: there is no checkout, or one of them is outside it.
        """
        return (
            *map(source_archive.path_of_gin_file, self.gin_files),
            *map(source_archive.path_of_module, self.config.imports),
        )

    def _arguments(self, gin_files: tuple[str, ...]) -> tuple[str, ...]:
        return (
            *(f"--gin_file={file}" for file in gin_files),
            *(f"--gin.{binding}" for binding in self.bindings),
            f"--run_dir={self.run_dir}",
            f"--name={self.name}",
            *self.extra_flags,
        )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Jobs of one run, executed one after another; each starts from the result of the previous one.

    Attributes:
        name: the run's folder.
        run_dir: the folder of all runs.
        jobs: in the order in which they run.
    """

    name: str
    run_dir: str
    jobs: tuple[Job, ...]

    def source(self) -> source_archive.Archive:
        """The source code that other machines need to run the jobs.

        Raises:
            UserError: a job needs a gin file or a module that is not in the checkout.
        """
        paths = dict.fromkeys(path for job in self.jobs for path in job.shipped_paths)
        return source_archive.source(tuple(path for path in paths if Path(path).parts[0] not in source_archive.PARTS))


@dataclasses.dataclass(frozen=True)
class Requirements:
    """The resources for the jobs of an experiment.

    Attributes:
        topology: one or more TPU slices; None: the devices of this machine.
        processes: number of processes on this machine; None: one, connected to the terminal.
        devices_per_process: CPU devices of each process; None: JAX decides.
        restarts: maximum number of restarts of a job after preemptions and lost hosts.
        retry_seconds: how long failures of the cloud that may be temporary are retried.
        libtpu_bundle: name of a bundle in codellama_jax/planning/libtpu_flags.py.
    """

    topology: Topology | None = None
    processes: int | None = None
    devices_per_process: int | None = None
    restarts: int = 0
    retry_seconds: float = RETRY_SECONDS
    libtpu_bundle: str = libtpu_flags.FAST

    @property
    def slice(self) -> Topology:
        """The topology. Raises UserError if none is given."""
        if self.topology is None:
            raise UserError("a slice is needed: --topology=SLICE, such as v5p:4x4x4 or v5p-128", EXIT_USAGE)
        return self.topology

    @property
    def libtpu_init_args(self) -> str:
        """LIBTPU_INIT_ARGS for the slice's hosts, "" if unset. Raises UserError if the chip has no such bundle."""
        return libtpu_flags.libtpu_init_args(self.slice.chip, self.libtpu_bundle)


# ---------------------------------------------------------------- executors


class Executor(Protocol):
    """An environment in which experiments run. Only `run` and `stop` change anything.

    Attributes:
        remote: whether jobs run on other machines, which have a copy of the checkout and no other files from this one.
        requirements: the resources for the experiment.
    """

    remote: bool
    requirements: Requirements

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """Adds the flags of this executor."""

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Executor":
        """The executor that the flags describe.

        Raises:
            UserError: the flags contradict each other, or name something that does not exist.
        """

    def check(self, experiment: Experiment) -> None:
        """Checks that the experiment can be run. Creates nothing.

        Raises:
            UserError: it cannot be run; the message contains the remedy.
        """

    def show(self, experiment: Experiment) -> Iterable[str]:
        """The commands that `run` executes, as lines for a shell. Executes none of them."""

    def run(self, experiment: Experiment) -> int:
        """Runs the jobs one after another; returns an exit code (0 done, 1 failed, 2 wrong usage, 75 stopped after
        saving). Releases the resources that it created before it returns or raises.

        Raises:
            UserError: for the same reasons as `check`, or for another error that the user can fix.
        """

    def logs(self, run_dir: str, name: str) -> int:
        """Prints the output of a run's processes; returns an exit code. Raises UserError if there is none."""

    def stop(self, run_dir: str, name: str) -> int:
        """Asks a run to save and stop; returns an exit code. Raises UserError if it is not running."""


def run_in_order(jobs: Iterable[Job], run_job: Callable[[Job], int]) -> int:
    """Runs jobs until one of them fails or is stopped; returns the exit code of the last one that ran."""
    return next((code for job in jobs if (code := run_job(job)) != EXIT_DONE), EXIT_DONE)


def error_line(output: Sequence[str]) -> str | None:
    """The last line of the output that reports an error ("error: ..."); None if there is none."""
    return next((line for line in reversed(output) if line.startswith("error: ")), None)


def log_last_lines(heading: str, lines: Iterable[str]) -> None:
    """Logs the last lines of a process that failed."""
    logger.warning("\n".join([f"codellama_jax: {heading}:", *(f"    {line}" for line in lines)]))


def executor_class(name: str) -> type[Executor]:
    """The class of a built-in executor, or of one given as MODULE:CLASS.

    Raises:
        UserError: there is no such executor; the message suggests the nearest name.
    """
    if ":" not in name and name not in EXECUTORS:
        nearest = difflib.get_close_matches(name, EXECUTORS, 1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise UserError(
            f"--executor={name}: {hint}The executors are {', '.join(EXECUTORS)} and MODULE:CLASS", EXIT_USAGE
        )
    module, _, attribute = EXECUTORS.get(name, name).partition(":")
    try:
        executor: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--executor={name}: {error}", EXIT_USAGE) from error
    return executor


def run_with_executor(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[gin_files.Flags, argparse.Namespace, Executor], int],
) -> int:
    """Runs a command with the flags of the parser, --executor and the flags of the selected executor.

    Args:
        parser: the parser of the command's own flags.
        argv: the command line without the program's name; None: that of this process.
        body: implements the command; returns an exit code.

    Returns:
        The exit code.
    """
    first_pass = cli.Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    first_pass.add_argument("--executor", default="local")
    parser.add_argument(
        "--executor", default="local", help=f"where to run: {', '.join(EXECUTORS)} or MODULE:CLASS (default: local)"
    )
    try:
        executor = executor_class(first_pass.parse_known_args(argv)[0].executor)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    executor.add_flags(parser)
    return cli.run(parser, argv, lambda flags, options: body(flags, options, executor.from_flags(options)))
