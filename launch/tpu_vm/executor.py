"""Runs jobs on a slice of Cloud TPU VMs, which is created, recreated after a preemption, and deleted at the end.

The executor calls only gcloud, with the commands of launch/tpu_vm/commands.py.
"""

import argparse
import contextlib
import dataclasses
import functools
import logging
import random
from collections.abc import Iterator

from codellama_jax.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime.signals import Stopped, StopSignals
from launch import capacity, cloud
from launch.answers import Answer, classify
from launch.command import Command, execute
from launch.executor import Experiment, Job, Requirements, run_in_order
from launch.retry import FIRST_SECONDS, JITTER, MAX_SECONDS, Clock, RetriesExhausted, duration
from launch.source_archive import Archive
from launch.tpu_vm.attempt import Attempt
from launch.tpu_vm.commands import TpuVmCommands
from launch.tpu_vm.queued_resource import QueuedResource, SliceDeleted, SliceLost

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """A slice of TPU VMs (launch.executor.Executor documents the methods).

    Attributes:
        requirements: the slice, the number of restarts, and flags for the TPU compiler.
        project, zone: location of the slice; None: gcloud's settings.
        create_flags: further flags for `gcloud compute tpus queued-resources create`.
        runtime_version: runtime version of the TPU VMs; None: the default of the TPU generation.
        clock: measures and waits.
    """

    requirements: Requirements
    project: str | None = None
    zone: str | None = None
    create_flags: tuple[str, ...] = ()
    runtime_version: str | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)
    remote = True

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        cloud.add_slice_flags(parser)
        parser.add_argument("--project", help="the project of the slice (default: gcloud's setting)")
        parser.add_argument("--zone", help="the zone of the slice (default: gcloud's setting)")
        parser.add_argument("--network", help="the network of the slice (default: the project's default network)")
        parser.add_argument(
            "--runtime_version", help="runtime version of the TPU VMs (default: that of the TPU generation)"
        )

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "TpuVm":
        if options.slices > 1:
            raise UserError(f"--slices={options.slices}: only --executor=gke supports several slices", EXIT_USAGE)
        create_flags = [f"--{kind}" for kind in ("spot", "reserved") if getattr(options, kind)]
        create_flags += [f"--network={options.network}"] if options.network else []
        needs = cloud.slice_requirements(options)
        return cls(needs, options.project, options.zone, tuple(create_flags), options.runtime_version)

    # ---------------------------------------------------------------- the commands

    @functools.cached_property
    def _location(self) -> tuple[str, str]:
        """Project and zone."""
        zone = cloud.setting("compute/zone", "zone", self.zone)
        return cloud.setting("project", "project", self.project), zone

    def _commands(self, name: str) -> TpuVmCommands:
        return TpuVmCommands(name, *self._location)

    def _create(self, name: str) -> Command:
        slice_ = self.requirements.slice
        kind, shape = slice_.cloud_name.partition("-")[0], slice_.slice_name.partition(":")[2]
        accelerator = [f"--accelerator-type={slice_.cloud_name}"]
        if not slice_.has_default_shape:
            accelerator = [f"--type={kind}", f"--topology={shape}"]
        version = self.runtime_version or slice_.chip.runtime_version or ""
        return self._commands(name).create(accelerator, version, self.create_flags)

    # ---------------------------------------------------------------- checks before anything is created

    def _check_offline(self, experiment: Experiment) -> None:
        slice_ = self.requirements.slice
        if slice_.chip.runtime_version is None:
            raise UserError(f"the Cloud TPU API does not offer {slice_.chip.name}: use --executor=gke", EXIT_USAGE)
        if not slice_.has_default_shape and slice_.chip.name != "v4":
            raise UserError(
                f"--topology={slice_.slice_name}: gcloud creates {slice_.cloud_name} only in its default shape: use"
                f" --topology={slice_.cloud_name}, or use --executor=gke",
                EXIT_USAGE,
            )
        _ = self.requirements.libtpu_init_args  # raises if there is no such bundle
        cloud.check_shared(experiment)
        capacity.check_slice(experiment.jobs, slice_, capacity.estimator(self.requirements.libtpu_bundle))

    def check(self, experiment: Experiment) -> None:
        self._check_offline(experiment)
        cloud.require()
        _ = self._location  # raises if the project or the zone is not set
        self._slice(experiment.name, experiment.source(), StopSignals()).check_absent()
        cloud.check_writable(experiment.run_dir)

    def show(self, experiment: Experiment) -> Iterator[str]:
        self._check_offline(experiment)
        source, about = experiment.source(), self._commands(experiment.name)
        commands = [*cloud.write_probe(experiment.run_dir), self._create(experiment.name), about.state()]
        commands += [about.copy(source), about.install(source)]
        for job in experiment.jobs:
            commands.append(about.start(job, 0, source, self.requirements.libtpu_init_args))
            commands += [about.watch(job, 0, source, 0), about.result(job, 0, source)]
        yield f"# {source.path}: the source in its current state, written first"
        yield from (command.shell_text() for command in commands)
        if self.requirements.restarts:
            yield (
                "# after a preemption or the loss of a host: deleted and created again, up to"
                f" {self.requirements.restarts} times; failures of the cloud that may be temporary are retried for"
                f" {duration(self.requirements.retry_seconds)}"
            )
        yield "# at the end, also after a failure:"
        yield about.delete().shell_text()

    # ---------------------------------------------------------------- running

    def run(self, experiment: Experiment) -> int:
        source = experiment.source()
        source.write()
        commands = self._commands(experiment.name)
        with StopSignals() as stop:
            slice_ = self._slice(experiment.name, source, stop)
            try:
                return run_in_order(experiment.jobs, lambda job: self._run(job, commands, source, slice_, stop))
            except Stopped:
                return EXIT_INTERRUPTED
            except SliceDeleted:
                logger.info(f"codellama_jax: {commands.resource} was deleted externally; the same command resumes")
                return EXIT_INTERRUPTED
            except RetriesExhausted as exhausted:
                if not slice_.was_active:
                    raise UserError(f"{exhausted} (--retry_hours)") from exhausted
                logger.error(f"error: {exhausted} (--retry_hours): the same command resumes from the last checkpoint")
                return EXIT_INTERRUPTED
            finally:
                slice_.delete(final=True)
                if stop.received and not slice_.may_exist:
                    logger.info("codellama_jax: stopped; no slice is left running")

    def _slice(self, name: str, source: Archive, stop: StopSignals) -> QueuedResource:
        """The slice of a run."""
        retry_seconds = self.requirements.retry_seconds
        return QueuedResource(self._commands(name), self._create(name), source, stop, self.clock, retry_seconds)

    def _run(
        self, job: Job, commands: TpuVmCommands, source: Archive, slice_: QueuedResource, stop: StopSignals
    ) -> int:
        """Runs a job until it ends. Restarts it, on a new slice if necessary, up to the maximum number of restarts."""
        reason, restarts = "", self.requirements.restarts
        for number in range(restarts + 1):
            if number:
                seconds = min(FIRST_SECONDS * 2 ** (number - 1), MAX_SECONDS) * random.uniform(1 - JITTER, 1 + JITTER)
                logger.info(f"codellama_jax: {reason}; {job.stage} resumes in {duration(seconds)} (restart {number})")
                self.clock.sleep(seconds, stop)
            try:
                slice_.make_ready()
                retry_seconds = self.requirements.retry_seconds
                attempt = Attempt(job, number, commands, source, slice_, stop, self.clock, retry_seconds)
                code, reason = attempt.run(self.requirements.libtpu_init_args)
                if code != EXIT_INTERRUPTED or stop.received or not reason:
                    return code
                slice_.check_active()
            except SliceLost as lost:
                reason = str(lost)
                if number < restarts:
                    slice_.delete(final=False)
        logger.error(
            f"error: {job.stage}: {reason}; it was started again {restarts} times (--restarts): the same command"
            " resumes from the last checkpoint"
        )
        return EXIT_INTERRUPTED

    # ---------------------------------------------------------------- runs of other launchers

    def _check_owner(self, name: str) -> TpuVmCommands:
        """The commands for the slice of a run.

        Raises:
            UserError: there is none, it cannot be read, or the slice of this name belongs to another run.
        """
        cloud.require()
        commands = self._commands(name)
        result = execute(commands.describe())
        where = f"{commands.resource} in {commands.zone}"
        if result.code and classify(result.stderr) is Answer.NOT_FOUND:
            raise UserError(f"{name} is not running: there is no {where}")
        if result.code:
            raise UserError(f"{where} cannot be read ({result.reason}); nothing was changed")
        if (owner := commands.owner(result.stdout)) != name:
            of = f"belongs to the run {owner}" if owner else "was not created by this launcher"
            raise UserError(f"{name} is not running: {where} {of}; nothing was changed")
        return commands

    def logs(self, run_dir: str, name: str) -> int:
        command = self._check_owner(name).logs()
        result = execute(command, on_output=lambda chunk: print(chunk.decode(errors="replace"), end=""))
        if result.code:
            raise UserError(f"no logs of {name}: {result.reason}")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        commands = self._check_owner(name)
        with StopSignals() as stop:
            with contextlib.suppress(Stopped):  # then the slice is deleted without waiting for the save
                execute(commands.stop_any(), stop)  # a slice that cannot be reached is also deleted
            retry = cloud.delete_retry(self.clock, stop)
            is_absent = functools.partial(cloud.is_absent, commands.state())
            if failure := cloud.try_delete(commands.delete(), retry, is_absent, allowed=stop.count):
                raise UserError(f"{commands.resource} is not deleted and may cost money: {failure}")
        logger.info(f"codellama_jax: {name} was asked to save, and {commands.resource} is deleted")
        return EXIT_DONE
