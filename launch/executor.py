"""What an executor is: the one interface behind which a place to run hides.

XManager's words: an *experiment* is a list of *jobs*, an *executor* runs them somewhere, *requirements* say on what.
`--executor=NAME` takes one of EXECUTORS, `--executor=MODULE:CLASS` any class of this form (docs/launching.md).
"""

import argparse
import dataclasses
import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import Topology, topology
from codellama_jax.runtime import cli
from launch import libtpu_flags
from launch.job import Experiment

EXECUTORS = {
    "local": "launch.local.executor:Local",
    "tpu_vm": "launch.tpu_vm.executor:TpuVm",
    "gke": "launch.gke.executor:Gke",
}


@dataclasses.dataclass(frozen=True)
class Requirements:
    """What the jobs of an experiment are to run on.

    Attributes:
        topology: the slice of TPUs, or several; None: whatever there is.
        processes: so many on this machine; None: one, which has the terminal for itself.
        devices_per_process: CPU devices of each; None: JAX decides.
        restarts: times that a job is started again after it was preempted or lost a host.
        libtpu_bundle: of launch/libtpu_flags.py.
    """

    topology: Topology | None = None
    processes: int | None = None
    devices_per_process: int | None = None
    restarts: int = 0
    libtpu_bundle: str = libtpu_flags.NONE

    @property
    def slice(self) -> Topology:
        """The topology. Raises UserError if none was asked for."""
        if self.topology is None:
            raise UserError("a slice is needed: --topology=SLICE, such as v5p:4x4x4 or v5p-128", EXIT_USAGE)
        return self.topology

    @property
    def libtpu_init_args(self) -> str:
        """LIBTPU_INIT_ARGS of the slice's hosts, "" if unset. Raises UserError if they have no such bundle."""
        return libtpu_flags.libtpu_init_args(self.slice.chip, self.libtpu_bundle)


class Executor(Protocol):
    """A place where experiments run. Everything but `run` and `stop` only looks and says.

    Attributes:
        remote: whether jobs run on other machines, which have a copy of this checkout and no other file of this one.
        requirements: what the experiment is to run on.
    """

    remote: bool
    requirements: Requirements

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """Adds the flags that are its own."""

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Executor":
        """The executor that the flags describe.

        Raises:
            UserError: they contradict each other, or ask for what there is not.
        """

    def check(self, experiment: Experiment) -> None:
        """Returns if the experiment can be run.

        Raises:
            UserError: it cannot; nothing has been created, and the message has the cure.
        """

    def show(self, experiment: Experiment) -> Iterable[str]:
        """What run() would do, as commands that could be typed instead. Touches nothing."""

    def run(self, experiment: Experiment) -> int:
        """Runs the jobs one after another; returns an exit code (0 done, 1 failed, 2 wrong usage, 75 stopped after
        saving). Whatever it created for them is gone when it returns or raises.

        Raises:
            UserError: as check, or something that the user can mend went wrong meanwhile.
        """

    def logs(self, run_dir: str, name: str) -> int:
        """Prints what the processes of a run said; returns an exit code. Raises UserError if there is nothing."""

    def stop(self, run_dir: str, name: str) -> int:
        """Asks a run to save and end; returns an exit code. Raises UserError if it does not run."""


def find(name: str) -> type[Executor]:
    """The executor of that name, or the class that MODULE:CLASS names.

    Raises:
        UserError: there is none; names the nearest.
    """
    if ":" not in name and name not in EXECUTORS:
        near = difflib.get_close_matches(name, EXECUTORS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"--executor={name}: {hint}There are {', '.join(EXECUTORS)}, or MODULE:CLASS", EXIT_USAGE)
    module, _, attribute = EXECUTORS.get(name, name).partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--executor={name}: {error}", EXIT_USAGE) from error
    return found


def add_slice_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of executors that run on a slice which may be taken away."""
    parser.add_argument("--slices", type=int, default=1, help="so many, with a copy of the parameters on each")
    parser.add_argument("--restarts", type=int, default=10, help="after preemption, so often (default: 10)")
    parser.add_argument("--libtpu_bundle", default=libtpu_flags.NONE, help="named flags of the TPU's compiler")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--spot", action="store_true", help="cheaper, and may be taken away at any time")
    kind.add_argument("--reserved", action="store_true", help="out of a reservation")


def slice_requirements(options: argparse.Namespace) -> Requirements:
    """What --topology and the flags of add_slice_flags ask for.

    Raises:
        UserError: a topology that there is not, or a number that cannot be.
    """
    if options.restarts < 0:
        raise UserError(f"--restarts={options.restarts} must not be negative", EXIT_USAGE)
    slice_ = topology(options.topology, options.slices) if options.topology is not None else None
    return Requirements(topology=slice_, restarts=options.restarts, libtpu_bundle=options.libtpu_bundle)


def run_with_executor(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[gin_files.Flags, argparse.Namespace, Executor], int],
) -> int:
    """Runs a program whose flags are those of the parser, --executor and what this executor adds; returns its code."""
    chooser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chooser.add_argument("--executor", default="local")
    name = chooser.parse_known_args(argv)[0].executor

    def chosen(flags: gin_files.Flags, options: argparse.Namespace) -> int:
        return body(flags, options, kind.from_flags(options))

    parser.add_argument(
        "--executor", default="local", help=f"where to run: {', '.join(EXECUTORS)} or MODULE:CLASS (default: local)"
    )
    try:
        kind = find(name)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    kind.add_flags(parser)
    return cli.run(parser, argv, chosen)
