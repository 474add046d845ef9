"""Runs jobs on this machine: as one process each, or as several that meet through jax.distributed, as on a pod."""

import argparse
import dataclasses
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
from launch.executor import Requirements
from launch.job import ROOT, Experiment, Job
from launch.local import processes

# Of glibc, on CPUs: large pages, and freed memory is kept for the next step. Five pairs of runs of 200 or 250 steps at
# size local, on two cores that others used too (2026-11-21): 6% to 20% less processor time, start-up included, and 6%
# to 17% more memory (1.5 GB at most). The environment wins; other C libraries ignore it.
ALLOCATOR = ":".join(
    f"glibc.malloc.{name}" for name in ("hugetlb=1", "mmap_max=0", f"trim_threshold={16 << 30}", "arena_max=1")
)
LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below those that the system gives away


@dataclasses.dataclass(frozen=True)
class Local:
    """This machine (see launch.executor.Executor for what its methods promise)."""

    requirements: Requirements = dataclasses.field(default_factory=Requirements)
    remote = False

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--processes", type=int, help="so many, which meet through jax.distributed (default: one)")
        parser.add_argument("--devices_per_process", type=int, help="CPU devices of each process")

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Local":
        if options.topology is not None:
            raise UserError(
                f"--topology={options.topology} is of the cloud: add --executor=tpu_vm or gke, or leave it out",
                EXIT_USAGE,
            )
        for flag in ("processes", "devices_per_process"):
            value = getattr(options, flag)
            if value is not None and value < 1:
                raise UserError(f"--{flag}={value} must be at least 1", EXIT_USAGE)
        return cls(Requirements(processes=options.processes, devices_per_process=options.devices_per_process))

    def check(self, experiment: Experiment) -> None:
        for job in experiment.jobs:
            if not is_remote(experiment.run_dir):  # there the job finds out by itself
                check_not_in_use(Path(experiment.run_dir, experiment.name, job.stage))

    def show(self, experiment: Experiment) -> Iterator[str]:
        for job in experiment.jobs:
            for environment in self._environments(job):
                assigned = [f"{name}={value}" for name, value in environment.items()]
                yield shlex.join([*(["env", *assigned] if assigned else []), *command(job)])

    def run(self, experiment: Experiment) -> int:
        for job in experiment.jobs:
            code, asked = self._run(experiment, job)
            if asked and (code > 128 or (code == EXIT_DONE and job is not experiment.jobs[-1])):
                return EXIT_INTERRUPTED  # stopped before there was anything to save, or between two stages
            if code != EXIT_DONE:
                return code
        return EXIT_DONE

    def logs(self, run_dir: str, name: str) -> int:
        files = sorted(log_folder(run_dir, name).glob("*.log"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise UserError(
                f"no logs of {name} in {run_dir}: what one process says on a terminal is not kept; with --processes=N"
                " it is"
            )
        for file in files:
            print(f"==> {file} <==")
            print(file.read_text(encoding="utf-8", errors="replace"), end="")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        if is_remote(run_dir):
            raise UserError(
                f"{run_dir}/{name}/STAGE/.lock says which process of which host runs it: kill PROCESS there"
            )
        folders = [path.parent for path in sorted(Path(run_dir, name).glob("*/.lock"))]
        held = {folder: found for folder in folders if (found := holder(folder))}
        for folder, (process, host) in held.items():
            if host != socket.gethostname():
                raise UserError(f"{folder} is in use by process {process} on {host}: stop it there")
            os.kill(process, signal.SIGTERM)
            print(f"codellama_jax: asked process {process} to save {folder.name} and end")
        if not held:
            raise UserError(f"{name} in {run_dir} does not run")
        return EXIT_DONE

    def _environments(self, job: Job) -> list[dict[str, str]]:
        """What each process of a job has in its environment that others have not."""
        needs = self.requirements
        if needs.processes is None and needs.devices_per_process is None:
            return [{}]
        count = needs.processes or 1
        cpu = {"JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}  # processes would fight for an accelerator
        if needs.devices_per_process is not None:
            cpu["JAX_NUM_CPU_DEVICES"] = str(needs.devices_per_process)
        if count == 1:
            return [cpu]
        address = f"{LOOPBACK}:{free_port(f'{job.run_dir}/{job.name}/{job.stage}')}"
        meeting = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
        return [{**cpu, **meeting, "JAX_PROCESS_ID": str(process)} for process in range(count)]

    def _run(self, experiment: Experiment, job: Job) -> tuple[int, bool]:
        """Runs a job to its end; returns its exit code, and whether a signal asked to stop meanwhile."""
        plain = environment()
        folder = log_folder(experiment.run_dir, experiment.name)
        if self.requirements == Requirements():
            log = None if experiment.run_dir.startswith("gs://") else folder / f"{job.stage}.log"
            code, asked = processes.run_alone(command(job), plain, log)
            return _explained(job, code, asked), asked
        each = self._environments(job)
        ended = processes.run(
            [(command(job), plain | own, folder / f"{job.stage}.{number}.log") for number, own in enumerate(each)]
        )
        if ended.process is not None and not ended.saved and not (ended.asked and ended.code > 128):
            log = folder / f"{job.stage}.{ended.process}.log"
            which = f"process {ended.process} of {len(each)}"
            print(f"codellama_jax: {which} ended with code {ended.code}, its last lines ({log}):", file=sys.stderr)
            for line in ended.last_lines:
                print(f"    {line}", file=sys.stderr)
            said = [line for line in ended.last_lines if line.startswith("error: ")]
            if said and ended.code in (EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED):
                print(f"{said[-1]} ({which})", file=sys.stderr)
        return _explained(job, ended.code, ended.asked), ended.asked


def command(job: Job) -> list[str]:
    """The command line of a process of the job."""
    return [sys.executable, "-m", "codellama_jax.train", *job.arguments]


def environment() -> dict[str, str]:
    """What every process of a job has in its environment beside what this one has."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    accelerated = distributed.tpu_chips() > 0 or os.path.exists("/dev/nvidiactl")
    return {
        **({} if accelerated or "GLIBC_TUNABLES" in os.environ else {"GLIBC_TUNABLES": ALLOCATOR}),
        "CODELLAMA_JAX_LAUNCHER": str(os.getpid()),
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # a folder named tasks where the user stands is not ours
    }


def log_folder(run_dir: str, name: str) -> Path:
    """Where the processes' output is kept: on this machine also where the run is in a bucket."""
    return Path("runs" if is_remote(run_dir) else run_dir, name, "logs")


def free_port(key: str) -> int:
    """A port of this machine that nobody has: for equal keys the same one, so that what was shown is what runs."""
    for port in range(PORTS.start + zlib.crc32(key.encode()) % len(PORTS), PORTS.stop):
        with socket.socket() as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                found.bind((LOOPBACK, port))
                return port
            except OSError:
                continue
    raise UserError(f"no free port among {PORTS.start} to {PORTS.stop} of this machine for its processes to meet at")


def _explained(job: Job, code: int, asked: bool) -> int:
    """The launcher's exit code for a job's; says what can be said of one that ended without a word of its own."""
    if code in (EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED) or (asked and code > 128):
        return code
    cause = "it was killed, perhaps for want of memory" if code == 137 else f"it ended with code {code}"
    print(f"error: {job.stage} failed: {cause}; the same command goes on from the last checkpoint", file=sys.stderr)
    return EXIT_FAILED
