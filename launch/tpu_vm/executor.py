"""Runs jobs on a slice of Cloud TPU VMs: queued for, installed, watched, created anew when it is taken away, deleted.

Nothing but gcloud is called, and by the commands of launch/tpu_vm/commands.py alone.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Iterator

from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from launch import capacity, cloud, source_archive
from launch.command import Command, execute
from launch.executor import Requirements, add_slice_flags, slice_requirements
from launch.job import Experiment, Job
from launch.shared import check_shared, check_writable
from launch.signals import Stopped, StopRequests
from launch.tpu_vm import commands
from launch.tpu_vm.attempt import Attempt
from launch.tpu_vm.queued_resource import Deleted, Lost, QueuedResource, say

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 10.0, 600.0


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A slice of TPU VMs (see launch.executor.Executor for what its methods promise).

    Attributes:
        requirements: the slice, how often it may be lost, flags of its compiler.
        project, zone: where; None: what gcloud is set to.
        more: flags of `gcloud compute tpus queued-resources create`.
        runtime_version: what the hosts run; None: what the generation has.
        pace: seconds of waiting for each that is meant; less in tests.
    """

    requirements: Requirements
    project: str | None = None
    zone: str | None = None
    more: tuple[str, ...] = ()
    runtime_version: str | None = None
    pace: float = 1.0
    remote = True

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        add_slice_flags(parser)
        parser.add_argument("--project", help="default: what gcloud is set to")
        parser.add_argument("--zone", help="default: what gcloud is set to")
        parser.add_argument("--network", help="default: the project's default network")
        parser.add_argument("--runtime_version", help="default: what the generation has")

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "TpuVm":
        if options.slices > 1:
            raise UserError(f"--slices={options.slices}: several slices are for --executor=gke alone", EXIT_USAGE)
        more = [f"--{kind}" for kind in ("spot", "reserved") if getattr(options, kind)]
        more += [f"--network={options.network}"] if options.network else []
        place = options.project, options.zone
        return cls(slice_requirements(options), *place, tuple(more), options.runtime_version)

    # ---------------------------------------------------------------- the commands

    @functools.cached_property
    def _place(self) -> tuple[str, str]:
        zone = cloud.setting("compute/zone", "zone", self.zone)
        return cloud.setting("project", "project", self.project), zone

    def _commands(self, name: str) -> commands.TpuVmCommands:
        return commands.TpuVmCommands(commands.resource_name(name), *self._place)

    def _create(self, name: str) -> Command:
        slice_ = self.requirements.slice
        kind, shape = slice_.cloud_name.partition("-")[0], slice_.slice_name.partition(":")[2]
        accelerator = [f"--accelerator-type={slice_.cloud_name}"]
        if not slice_.has_default_shape:
            accelerator = [f"--type={kind}", f"--topology={shape}"]
        version = self.runtime_version or slice_.chip.runtime_version or ""
        return self._commands(name).create(accelerator, version, self.more)

    # ---------------------------------------------------------------- before anything is created

    def _check_without_cloud(self, experiment: Experiment) -> None:
        slice_ = self.requirements.slice
        if slice_.chip.runtime_version is None:
            raise UserError(f"the Cloud TPU API has no {slice_.chip.name}: use --executor=gke", EXIT_USAGE)
        if not slice_.has_default_shape and slice_.chip.name != "v4":
            raise UserError(
                f"--topology={slice_.slice_name}: gcloud makes {slice_.cloud_name} in its usual shape only: write"
                f" --topology={slice_.cloud_name}, or use --executor=gke",
                EXIT_USAGE,
            )
        _ = self.requirements.libtpu_init_args
        check_shared(experiment)
        capacity.check(experiment.jobs, slice_)

    def check(self, experiment: Experiment) -> None:
        self._check_without_cloud(experiment)
        cloud.require()
        _ = self._place
        check_writable(experiment.run_dir)

    def show(self, experiment: Experiment) -> Iterator[str]:
        self._check_without_cloud(experiment)
        source, commands = source_archive.source(), self._commands(experiment.name)
        shown = [*cloud.probe(experiment.run_dir), self._create(experiment.name), commands.state()]
        shown += [commands.copy(source), commands.install(source)]
        for job in experiment.jobs:
            shown.append(commands.start(job, 0, source, self.requirements.libtpu_init_args))
            shown += [commands.watch(job, 0, source, 0), commands.result(job, 0, source)]
        yield f"# {source.path}: the source as it is now, written before the rest"
        yield from (command.shown() for command in shown)
        if self.requirements.restarts:
            yield f"# if it is preempted or loses a host: deleted and created again, {self.requirements.restarts} times"
        yield commands.delete().shown()

    # ---------------------------------------------------------------- running

    def run(self, experiment: Experiment) -> int:
        source = source_archive.source()
        source.write()
        commands, create = self._commands(experiment.name), self._create(experiment.name)
        with StopRequests() as asked:
            slice_ = QueuedResource(commands, create, source, asked, self.pace)
            try:
                for job in experiment.jobs:
                    code = self._run(job, commands, source, slice_, asked)
                    if code != EXIT_DONE:
                        return code
                return EXIT_DONE
            except Stopped:
                return EXIT_INTERRUPTED
            except Deleted:
                say(f"codellama_jax: {commands.resource} was deleted by somebody else; the same command goes on")
                return EXIT_INTERRUPTED
            finally:
                slice_.delete()

    def _run(
        self,
        job: Job,
        commands: commands.TpuVmCommands,
        source: source_archive.Archive,
        slice_: QueuedResource,
        asked: StopRequests,
    ) -> int:
        """Runs a job to its end, on as many slices, one after another, as it takes and is allowed."""
        reason = ""
        for attempt in range(self.requirements.restarts + 1):
            if attempt:
                seconds = min(BACKOFF_SECONDS * 2 ** (attempt - 1), LONGEST_BACKOFF_SECONDS)
                say(f"codellama_jax: {reason}; {job.stage} goes on in {seconds:.0f} s (restart {attempt})")
                asked.sleep(seconds * self.pace)
            try:
                slice_.make_ready()
                started = Attempt(job, attempt, commands, source, slice_, asked, self.pace)
                code, reason = started.run(self.requirements.libtpu_init_args)
                if code != EXIT_INTERRUPTED or asked.count or not reason:
                    return code
                slice_.check_there()
            except Lost as lost:
                reason = str(lost)
                slice_.delete()
        print(
            f"error: {job.stage}: {reason}; it was started again {self.requirements.restarts} times (--restarts): the"
            " same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED

    def logs(self, run_dir: str, name: str) -> int:
        cloud.require()
        ended = execute(self._commands(name).logs(), seen=lambda chunk: print(chunk.decode(errors="replace"), end=""))
        if ended.code:
            raise UserError(f"no logs of {name}: {ended.reason}")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        cloud.require()
        commands = self._commands(name)
        if execute(commands.state()).code:
            raise UserError(f"{name} does not run: there is no {commands.resource} in {commands.zone}")
        execute(commands.stop_any())  # a slice that cannot be reached is deleted all the same
        ended = execute(commands.delete())
        if ended.code:
            raise UserError(f"{commands.resource} cannot be deleted: {ended.reason}")
        print(f"codellama_jax: {name} was asked to save, and {commands.resource} is deleted")
        return EXIT_DONE
