"""Shared by the cloud executors: flags of a slice, gcloud's settings, files in buckets, and checks."""

import argparse
import datetime
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator

from codellama_jax.config.data import STREAMS
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning import libtpu_flags
from codellama_jax.planning.chips import topology
from codellama_jax.runtime.signals import Stopped, StopSignals
from launch.answers import Answer, classify
from launch.command import Command, Result, execute
from launch.executor import RETRY_SECONDS, Experiment, Job, Requirements
from launch.retry import Clock, RetriesExhausted, Retry

logger = logging.getLogger(__name__)

UNSET = "(unset)"  # printed by gcloud config get-value
DELETE_SECONDS, DELETE_FIRST_SECONDS, DELETE_MAX_SECONDS = 600.0, 5.0, 60.0  # of a deletion at the end

# ---------------------------------------------------------------- flags


def add_slice_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of executors whose slices can be preempted."""
    parser.add_argument("--slices", type=int, default=1, help="number of slices, each with a copy of the parameters")
    parser.add_argument("--restarts", type=int, default=10, help="maximum restarts after preemption (default: 10)")
    parser.add_argument(
        "--retry_hours",
        type=float,
        default=RETRY_SECONDS / 3600,
        help="how long to retry after failures of the cloud that may be temporary, such as no capacity for a new slice"
        f" or expired credentials, 0 for not at all (default: {RETRY_SECONDS / 3600:g})",
    )
    libtpu_flags.add_flag(parser)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--spot", action="store_true", help="cheaper capacity that can be preempted at any time")
    kind.add_argument("--reserved", action="store_true", help="capacity from a reservation")


def slice_requirements(options: argparse.Namespace) -> Requirements:
    """The requirements described by --topology and the flags of add_slice_flags.

    Raises:
        UserError: the topology does not exist, or a number is out of range.
    """
    if options.restarts < 0:
        raise UserError(f"--restarts={options.restarts} must not be negative", EXIT_USAGE)
    if not 0 <= options.retry_hours < math.inf:
        raise UserError(f"--retry_hours={options.retry_hours} must be a number of at least 0", EXIT_USAGE)
    slice_ = topology(options.topology, options.slices) if options.topology is not None else None
    retry_seconds = options.retry_hours * 3600
    return Requirements(
        topology=slice_, restarts=options.restarts, retry_seconds=retry_seconds, libtpu_bundle=options.libtpu_bundle
    )


# ---------------------------------------------------------------- programs and their settings


def is_installed() -> bool:
    """Whether gcloud is installed."""
    return shutil.which("gcloud") is not None


def require(program: str = "gcloud") -> None:
    """Raises UserError, with the remedy, if the program is not installed."""
    if shutil.which(program) is None:
        page = "https://cloud.google.com/sdk/docs/install"
        then = "`gcloud components install kubectl`" if program == "kubectl" else "`gcloud auth login`"
        raise UserError(f"{program} is not installed: see {page}, then run {then}")


def setting(name: str, flag: str, value: str | None) -> str:
    """The value of a launcher flag, or of gcloud's setting if the flag is not given.

    Args:
        name: gcloud's name of the setting, such as "compute/zone".
        flag: the launcher's flag, without dashes.
        value: the flag's value, None if it is not given.

    Raises:
        UserError: neither is set.
    """
    if value:
        return value
    require()
    result = execute(Command(("gcloud", "config", "get-value", name, "--quiet")))
    value = result.stdout.decode().strip()
    if result.code or not value or value == UNSET:
        raise UserError(f"no {flag} is set: add --{flag}=VALUE, or run gcloud config set {name} VALUE", EXIT_USAGE)
    return value


# ---------------------------------------------------------------- files in buckets


def list_folder(folder: str) -> list[str]:
    """The entries of a folder in a bucket; names of folders end with a slash. Empty if the folder does not exist.

    Raises:
        UserError: it cannot be read.
    """
    result = _storage("ls", folder)
    if result.code and "matched no objects" in result.stderr:
        return []
    return _checked(result, folder).stdout.decode().split()


def read_file(path: str, last_bytes: int | None = None) -> bytes:
    """Reads a file in a bucket, or its last bytes.

    Raises:
        UserError: it cannot be read.
    """
    bounds = [] if last_bytes is None else [f"--range=-{last_bytes}"]
    return _checked(_storage("cat", *bounds, path), path).stdout


def modified_at(path: str) -> float | None:
    """When a file in a bucket was last written, as Unix time; None if it does not exist.

    Raises:
        UserError: gcloud is not installed.
    """
    result = _storage("ls", "--json", path)
    try:
        updated = json.loads(result.stdout)[0]["metadata"]["updated"]
        return datetime.datetime.fromisoformat(updated).timestamp()
    except (ValueError, LookupError):
        return None


def _storage(*arguments: str) -> Result:
    require()
    return execute(Command(("gcloud", "storage", *arguments)))


def _checked(result: Result, path: str) -> Result:
    if result.code:
        raise UserError(f"{path} cannot be read ({result.reason}): check --run_dir, and gcloud auth login")
    return result


# ---------------------------------------------------------------- checks before anything is created


def check_shared(experiment: Experiment) -> None:
    """Checks that the hosts can reach all files that the jobs read or write.

    Raises:
        UserError: a path is on this machine; the message contains the remedy.
    """
    experiment.source()
    if not experiment.run_dir.startswith("gs://"):
        raise UserError(
            f"--run_dir={experiment.run_dir} is a folder on this machine, which the hosts cannot reach: use"
            " --run_dir=gs://BUCKET/FOLDER",
            EXIT_USAGE,
        )
    for job in experiment.jobs:
        for name, path in _input_paths(job):
            if _is_local(path):
                raise UserError(
                    f"{name}={path} ({job.stage}) is a path of this machine, which the hosts cannot reach: copy it to a"
                    " bucket with gcloud storage cp -r, and use gs://BUCKET/PATH",
                    EXIT_USAGE,
                )


def _is_local(path: str) -> bool:
    """Whether a path is of this machine. The copy of the checkout contains no corpus and no checkpoint."""
    if path.startswith("tfds:"):
        directory = path.partition("data_dir=")[2].partition("&")[0]
        return bool(directory) and not directory.startswith("gs://")
    return path != "scratch" and not path.startswith(("gs://", "seqio:", "embedded:"))


def _input_paths(job: Job) -> Iterator[tuple[str, str]]:
    """The settings that name input files, and their values."""
    config = job.config
    values = {f"Corpus.{stream}": getattr(config.corpus, stream) for stream in STREAMS}
    values |= {"Tokenizer.model": config.tokenizer.model, "Checkpoints.initial": config.checkpoints.initial}
    values["Evaluation.benchmark_data"] = config.evaluation.benchmark_data
    for name, paths in values.items():
        yield from ((name, path) for path in ([paths] if isinstance(paths, str) else paths or ()))


def write_probe(folder: str) -> list[Command]:
    """The commands that test whether a folder in a bucket can be written."""
    path = f"{folder}/.codellama_jax_probe"
    return [
        Command(("gcloud", "storage", "cp", "-", path, "--quiet"), "can the run folder be written?", "probe\n"),
        Command(("gcloud", "storage", "rm", path, "--quiet")),
    ]


def check_writable(run_dir: str) -> None:
    """Raises UserError if gcloud is not installed or the bucket cannot be written. Leaves no file behind."""
    require()
    for command in write_probe(run_dir):
        if (result := execute(command)).code:
            raise UserError(
                f"--run_dir={run_dir} cannot be written ({result.reason}): is it your bucket? See gcloud storage ls"
            )


# ---------------------------------------------------------------- deletion


def delete_retry(clock: Clock, stop: StopSignals, limit_seconds: float = DELETE_SECONDS) -> Retry:
    """The waits between the tries of a deletion."""
    return Retry(clock, stop, limit_seconds, DELETE_FIRST_SECONDS, DELETE_MAX_SECONDS)


def is_absent(describe: Command) -> bool:
    """Whether a resource does not exist, from the command that describes it."""
    result = execute(describe)
    return result.code != 0 and classify(result.stderr) is Answer.NOT_FOUND


def try_delete(
    command: Command,
    retry: Retry,
    is_absent: Callable[[], bool] = lambda: False,
    *,
    allowed: int = 0,
    final: bool = True,
) -> str | None:
    """Runs a command that deletes a resource, repeatedly if it fails.

    Args:
        command: the command.
        retry: the waits between the tries.
        is_absent: called after each failure; returns whether the resource no longer exists.
        allowed: number of stop signals that do not end the tries.
        final: a further signal ends the tries; otherwise it raises Stopped.

    Returns:
        None if the resource is deleted, else why it is not.

    Raises:
        Stopped: not `final`, and more than `allowed` signals asked to stop.
    """
    while True:
        result = execute(command)
        if result.code == 0 or is_absent():
            return None
        if classify(result.stderr) is Answer.PERMANENT:
            return result.reason
        try:
            retry.wait(f"failed to {command.purpose} ({result.reason})", allowed)
        except RetriesExhausted as exhausted:
            return str(exhausted)
        except Stopped:
            if not final:
                raise
            return "stopped by a signal"


def delete(
    command: Command,
    resource: str,
    retry: Retry,
    is_absent: Callable[[], bool] = lambda: False,
    *,
    allowed: int = 0,
    final: bool = True,
) -> bool:
    """As try_delete. If the resource is not deleted, logs the command so that the user can run it.

    Args:
        command, retry, is_absent, allowed, final: as for try_delete.
        resource: name of the resource, for the message.

    Returns:
        Whether the resource is deleted.
    """
    if (failure := try_delete(command, retry, is_absent, allowed=allowed, final=final)) is None:
        return True
    logger.error(
        f"codellama_jax: {resource} could not be deleted ({failure}) and may cost money; delete it yourself:"
        f" {command.shell_text()}"
    )
    return False
