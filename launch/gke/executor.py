"""Runs jobs on GKE, each as a JobSet, which restarts itself after a preemption.

The executor calls kubectl, and gcloud to check the bucket.
"""

import argparse
import dataclasses
import logging
import sys
from collections.abc import Iterator

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime.distributed import reports_peer_loss
from codellama_jax.runtime.signals import Stopped, StopSignals
from launch import capacity, cloud
from launch.command import Command, execute
from launch.executor import Experiment, Job, Requirements, error_line, log_last_lines, run_in_order
from launch.gke import jobset
from launch.source_archive import Archive

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0
LAST_LINES = 12
COMPLETED = "Completed"
INSTALLATION = "https://jobset.sigs.k8s.io/docs/installation"


@dataclasses.dataclass(frozen=True)
class Gke:
    """The cluster that kubectl is configured for (launch.executor.Executor documents the methods).

    Attributes:
        requirements: the slices, the number of restarts, and flags for the TPU compiler.
        image: a container image with Python and the packages of requirements-tpu.txt.
        namespace: the Kubernetes namespace of everything that is created.
        spot: whether to run on spot nodes.
        pace: multiplier for all waits (tests use less than 1).
    """

    requirements: Requirements
    image: str | None
    namespace: str = "default"
    spot: bool = False
    pace: float = 1.0
    remote = True

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        cloud.add_slice_flags(parser)
        parser.add_argument("--image", help="a container image with Python and the packages of requirements-tpu.txt")
        parser.add_argument("--namespace", default="default", help="the Kubernetes namespace (default: default)")

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Gke":
        if options.reserved:
            raise UserError(
                "--reserved is set on the cluster's node pool: leave it out with --executor=gke", EXIT_USAGE
            )
        needs = cloud.slice_requirements(options)
        if needs.topology and needs.topology.hosts == needs.topology.slices > 1:
            raise UserError(
                f"--slices={options.slices}: GKE connects only slices of several hosts, and {options.topology} has one",
                EXIT_USAGE,
            )
        return cls(needs, options.image, options.namespace, options.spot)

    # ---------------------------------------------------------------- the commands

    def _kubectl(self, purpose: str, *words: str, stdin: str = "") -> Command:
        return Command(("kubectl", *words, f"--namespace={self.namespace}"), purpose, stdin)

    def _create_source(self, name: str, source: Archive) -> Command:
        words = ("create", "configmap", jobset.source_name(name, source), f"--from-file={source.path}")
        return self._kubectl("upload the source", *words)

    def _delete_source(self, name: str, source: Archive) -> Command:
        words = ("delete", "configmap", jobset.source_name(name, source), "--ignore-not-found")
        return self._kubectl("delete the source", *words)

    def _create(self, job: Job, source: Archive) -> Command:
        if self.image is None:
            raise UserError("--image=IMAGE is needed: docs/launching.md shows how to build one", EXIT_USAGE)
        manifest = jobset.manifest(job, self.requirements, source, self.image, spot=self.spot)
        return self._kubectl(f"start {job.stage} on every host", "create", "--filename=-", stdin=manifest)

    def _state(self, job: Job) -> Command:
        words = ("get", "jobset", jobset.jobset_name(job.name, job.stage))
        fields = "--output=jsonpath={.status.terminalState},{.status.restarts}"
        return self._kubectl("wait until it ends (repeated)", *words, fields)

    def _follow(self, job: Job, since: str) -> Command:
        pods = f"--selector={jobset.JOBSET}={jobset.jobset_name(job.name, job.stage)},{jobset.FIRST_HOST}"
        return self._kubectl("follow host 0", "logs", pods, f"--container={jobset.CONTAINER}", "--follow", since)

    def _last_lines(self, job: Job) -> Command:
        pods = f"--selector={jobset.JOBSET}={jobset.jobset_name(job.name, job.stage)}"
        hosts = f"--max-log-requests={self.requirements.slice.hosts}"
        container = f"--container={jobset.CONTAINER}"
        words = ("logs", pods, container, "--prefix", f"--tail={LAST_LINES}", hosts)
        return self._kubectl("the last lines of every host", *words)

    def _delete(self, job: Job) -> Command:
        words = ("delete", "jobset", jobset.jobset_name(job.name, job.stage), "--ignore-not-found")
        return self._kubectl("delete it; running hosts save first", *words, "--cascade=foreground")

    # ---------------------------------------------------------------- checks before anything is created

    def _check_offline(self, experiment: Experiment) -> None:
        slice_ = self.requirements.slice
        cloud.check_shared(experiment)
        capacity.check_slice(experiment.jobs, slice_)

    def check(self, experiment: Experiment) -> None:
        self._check_offline(experiment)
        for job in experiment.jobs:
            self._create(job, experiment.source())
        cloud.require("kubectl")
        result = execute(self._kubectl("", "get", "customresourcedefinition", "jobsets.jobset.x-k8s.io"))
        if result.code:
            no_jobset = "NotFound" in result.stderr
            login = "gcloud container clusters get-credentials CLUSTER"
            remedy = f"install JobSet in it: {INSTALLATION}" if no_jobset else login
            raise UserError(f"the cluster cannot be used ({result.reason}): {remedy}")
        for job in experiment.jobs:
            if execute(self._state(job)).code == 0:
                name = jobset.jobset_name(job.name, job.stage)
                raise UserError(
                    f"JobSet {name} exists already, from another launcher or one that was killed: python xm_launch.py"
                    f" stop {job.name} --executor=gke deletes it; or use another --name"
                )
        cloud.check_writable(experiment.run_dir)

    def show(self, experiment: Experiment) -> Iterator[str]:
        self._check_offline(experiment)
        source = experiment.source()
        commands = [*cloud.write_probe(experiment.run_dir), self._create_source(experiment.name, source)]
        for job in experiment.jobs:
            commands += [self._create(job, source), self._state(job), self._follow(job, "--tail=-1"), self._delete(job)]
        yield f"# {source.path}: the source in its current state, written first"
        yield from (command.shell_text() for command in [*commands, self._delete_source(experiment.name, source)])

    # ---------------------------------------------------------------- running

    def run(self, experiment: Experiment) -> int:
        source = experiment.source()
        source.write()
        with StopSignals() as stop:
            self._execute(self._create_source(experiment.name, source))
            try:
                return run_in_order(experiment.jobs, lambda job: self._run(job, source, stop))
            except Stopped:
                return EXIT_INTERRUPTED
            finally:
                cloud.delete(self._delete_source(experiment.name, source), "the source", pause_seconds=self.pace)

    def _run(self, job: Job, source: Archive, stop: StopSignals) -> int:
        stop.sleep(0)
        self._execute(self._create(job, source))  # not interruptible: an incomplete creation could not be cleaned up
        try:
            state = self._wait(job, stop)
            if state == COMPLETED:
                return EXIT_DONE
            if not state:
                logger.info(f"codellama_jax: {job.stage} was deleted externally; the same command resumes")
                return EXIT_INTERRUPTED
            return self._report_failure(job)
        except Stopped:
            logger.info("codellama_jax: stopping: the job saves and is deleted")
            raise
        finally:
            cloud.delete(self._delete(job), jobset.jobset_name(job.name, job.stage), pause_seconds=self.pace)

    def _wait(self, job: Job, stop: StopSignals) -> str:
        """Follows the job until it ends; returns its terminal state, or "" if it was deleted."""
        since, restarts = "--tail=-1", "0"
        while True:
            result = execute(self._state(job), stop)
            if result.code and "NotFound" in result.stderr:
                return ""
            if not result.code:
                state, _, restarts_now = result.stdout.decode().strip().partition(",")
                if state:
                    return state
                if (restarts_now or "0") != restarts:
                    since, restarts = "--tail=-1", restarts_now or "0"
                    logger.info(
                        f"codellama_jax: {job.stage} was preempted or lost a host; it starts again (restart {restarts})"
                    )
            output = execute(self._follow(job, since), stop, on_output=_print)
            if output.stdout:
                since = f"--since={2 * POLL_SECONDS:.0f}s"  # the connection broke, or the pod ended
            stop.sleep(POLL_SECONDS * self.pace)

    def _report_failure(self, job: Job) -> int:
        lines = execute(self._last_lines(job)).stdout.decode(errors="replace").splitlines()
        log_last_lines(f"{job.stage} failed; the last lines of its hosts", lines)
        output = [line.partition("] ")[2] for line in lines if not reports_peer_loss([line])]  # without [pod/NAME/...]
        logger.error(error_line(output) or f"error: {job.stage} failed; earlier checkpoints are not affected")
        return EXIT_FAILED

    def _execute(self, command: Command) -> None:
        result = execute(command)
        if result.code:
            raise UserError(f"could not {' '.join(command.argv[:3])}: {result.reason}")

    # ---------------------------------------------------------------- runs of other launchers

    def logs(self, run_dir: str, name: str) -> int:
        cloud.require("kubectl")
        pods = f"--selector={jobset.FIRST_HOST},{jobset.RUN}={jobset.jobset_name(name)}"
        result = execute(self._kubectl("", "logs", pods, f"--container={jobset.CONTAINER}", "--tail=-1"))
        if result.code or not result.stdout:
            raise UserError(f"no logs of {name}: {result.reason if result.code else 'it is not running'}")
        print(result.stdout.decode(errors="replace"), end="")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        cloud.require("kubectl")
        selector = f"--selector={jobset.RUN}={jobset.jobset_name(name)}"
        result = execute(self._kubectl("", "delete", "jobset", selector, "--cascade=foreground"))
        if result.code or b"deleted" not in result.stdout:
            raise UserError(f"{name} is not running: {result.reason if result.code else 'there is no such JobSet'}")
        logger.info(f"codellama_jax: {name} has saved and is deleted")
        return EXIT_DONE


def _print(chunk: bytes) -> None:
    sys.stdout.write(chunk.decode(errors="replace"))
    sys.stdout.flush()
