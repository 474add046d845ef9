"""Runs jobs on this machine, each with one process or with several processes that connect through jax.distributed."""

import argparse
import dataclasses
import logging
import os
import shlex
import signal
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime import distributed
from codellama_jax.runtime.filesystem import is_remote
from codellama_jax.runtime.lock import check_not_in_use, holder
from launch import source_archive
from launch.executor import Experiment, Job, Requirements, error_line, log_last_lines
from launch.local import processes
from launch.local.processes import Outcome

logger = logging.getLogger(__name__)

# Settings of glibc's allocator for CPUs: use large pages, and keep freed memory for the next step. In five pairs of
# runs of 200 or 250 steps at size local, on two cores shared with other programs (2026-11-21), these settings reduced
# processor time by 6% to 20%, including start-up, and increased memory by 6% to 17% (at most 1.5 GB). GLIBC_TUNABLES in
# the environment overrides them; other C libraries ignore them.
ALLOCATOR = ":".join(
    f"glibc.malloc.{name}" for name in ("hugetlb=1", "mmap_max=0", f"trim_threshold={16 << 30}", "arena_max=1")
)
LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below the range of ephemeral ports
REPORTED_CODES = (EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED)  # the job itself reports why it ended


@dataclasses.dataclass(frozen=True)
class Local:
    """This machine (launch.executor.Executor documents the methods)."""

    requirements: Requirements = dataclasses.field(default_factory=Requirements)
    remote = False

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--processes", type=int, help="processes that connect through jax.distributed (default: 1)")
        parser.add_argument("--devices_per_process", type=int, help="CPU devices of each process")

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Local":
        if options.topology is not None:
            raise UserError(
                f"--topology={options.topology} is for the cloud: add --executor=tpu_vm or gke, or leave it out",
                EXIT_USAGE,
            )
        for flag in ("processes", "devices_per_process"):
            value = getattr(options, flag)
            if value is not None and value < 1:
                raise UserError(f"--{flag}={value} must be at least 1", EXIT_USAGE)
        return cls(Requirements(processes=options.processes, devices_per_process=options.devices_per_process))

    def check(self, experiment: Experiment) -> None:
        for job in experiment.jobs:
            if not is_remote(experiment.run_dir):  # in a bucket, the job itself checks
                check_not_in_use(Path(experiment.run_dir, experiment.name, job.stage))

    def show(self, experiment: Experiment) -> Iterator[str]:
        for job in experiment.jobs:
            for variables in self._process_environments(job):
                assignments = [f"{name}={value}" for name, value in variables.items()]
                yield shlex.join([*(["env", *assignments] if assignments else []), *command(job)])

    def run(self, experiment: Experiment) -> int:
        for job in experiment.jobs:
            outcome = self._run(experiment, job)
            code = exit_code(job, outcome)
            if outcome.signalled and (code > 128 or (code == EXIT_DONE and job is not experiment.jobs[-1])):
                return EXIT_INTERRUPTED  # stopped before there was anything to save, or between two stages
            if code != EXIT_DONE:
                return code
        return EXIT_DONE

    def logs(self, run_dir: str, name: str) -> int:
        files = sorted(log_folder(run_dir, name).glob("*.log"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise UserError(
                f"no logs of {name} in {run_dir}: the output of a single process on a terminal is not kept; add"
                " --processes=N to keep it"
            )
        for file in files:
            print(f"==> {file} <==")
            print(file.read_text(encoding="utf-8", errors="replace"), end="")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        if is_remote(run_dir):
            raise UserError(f"{run_dir}/{name}/STAGE/.lock names its process and host: run kill PROCESS on that host")
        folders = [path.parent for path in sorted(Path(run_dir, name).glob("*/.lock"))]
        holders = {folder: found for folder in folders if (found := holder(folder))}
        if not holders:
            raise UserError(f"{name} in {run_dir} is not running")
        for folder, (process, host) in holders.items():
            if host != socket.gethostname():
                raise UserError(f"{folder} is in use by process {process} on {host}: stop it on that host")
            os.kill(process, signal.SIGTERM)
            logger.info(f"codellama_jax: asked process {process} to save {folder.name} and exit")
        return EXIT_DONE

    def _process_environments(self, job: Job) -> list[dict[str, str]]:
        """The environment variables of each process of a job, in addition to those of `environment`."""
        needs = self.requirements
        if needs.processes is None and needs.devices_per_process is None:
            return [{}]
        count = needs.processes or 1
        variables = {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}  # processes cannot share an accelerator
        if needs.devices_per_process is not None:
            variables["JAX_NUM_CPU_DEVICES"] = str(needs.devices_per_process)
        if count == 1:
            return [variables]
        variables["JAX_COORDINATOR_ADDRESS"] = f"{LOOPBACK}:{free_port(f'{job.run_dir}/{job.name}/{job.stage}')}"
        variables["JAX_NUM_PROCESSES"] = str(count)
        return [{**variables, "JAX_PROCESS_ID": str(process)} for process in range(count)]

    def _run(self, experiment: Experiment, job: Job) -> Outcome:
        """Runs a job until it ends. If one of several processes failed, logs the last lines of its output."""
        shared = environment()
        folder = log_folder(experiment.run_dir, experiment.name)
        if self.requirements == Requirements():
            log = None if experiment.run_dir.startswith("gs://") else folder / f"{job.stage}.log"
            return processes.run_one(command(job), shared, log)
        environments = self._process_environments(job)
        outcome = processes.run_group(
            [
                (command(job), shared | own, folder / f"{job.stage}.{number}.log")
                for number, own in enumerate(environments)
            ]
        )
        stopped = outcome.saved or (outcome.signalled and outcome.code > 128)
        if outcome.process is not None and not stopped:
            process = f"process {outcome.process} of {len(environments)}"
            log = folder / f"{job.stage}.{outcome.process}.log"
            log_last_lines(f"{process} ended with code {outcome.code}, its last lines ({log})", outcome.last_lines)
            if (error := error_line(outcome.last_lines)) and outcome.code in REPORTED_CODES:
                logger.error(f"{error} ({process})")
        return outcome


def command(job: Job) -> list[str]:
    """The command line of each process of the job."""
    return [sys.executable, "-m", "codellama_jax.train", *job.arguments]


def environment() -> dict[str, str]:
    """The environment variables of each process, in addition to those of this process."""
    variables = {
        "CODELLAMA_JAX_LAUNCHER": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a folder named tasks in the working directory must not hide our package
    }
    if source_archive.is_checkout():  # an installed package is found without PYTHONPATH
        path = (str(source_archive.ROOT), os.environ.get("PYTHONPATH"))
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    on_accelerator = distributed.tpu_chips() > 0 or os.path.exists("/dev/nvidiactl")
    if not on_accelerator and "GLIBC_TUNABLES" not in os.environ:
        variables["GLIBC_TUNABLES"] = ALLOCATOR
    return variables


def log_folder(run_dir: str, name: str) -> Path:
    """The folder for the output of the processes, on this machine even for a run in a bucket."""
    return Path("runs" if is_remote(run_dir) else run_dir, name, "logs")


def free_port(key: str) -> int:
    """A free port of this machine. Equal keys give the same port, so that --dry_run prints the port that a run uses."""
    for port in range(PORTS.start + zlib.crc32(key.encode()) % len(PORTS), PORTS.stop):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((LOOPBACK, port))
                return port
            except OSError:
                continue
    raise UserError(f"no free port from {PORTS.start} to {PORTS.stop} on this machine for its processes to connect")


def exit_code(job: Job, outcome: Outcome) -> int:
    """The launcher's exit code for a job. If the job could not report why it ended, logs the known cause."""
    if outcome.code in REPORTED_CODES or (outcome.signalled and outcome.code > 128):
        return outcome.code
    killed = outcome.code == 128 + signal.SIGKILL
    cause = "it was killed, possibly out of memory" if killed else f"it ended with code {outcome.code}"
    logger.error(f"error: {job.stage} failed: {cause}; the same command resumes from the last checkpoint")
    return EXIT_FAILED
