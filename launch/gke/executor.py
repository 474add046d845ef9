"""Runs jobs on GKE, each as a JobSet, which restarts itself after a preemption.

The executor calls kubectl, and gcloud to check the bucket.
"""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Iterator

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime.distributed import reports_peer_loss
from codellama_jax.runtime.signals import Stopped, StopSignals
from launch import capacity, cloud, resource_names
from launch.answers import Answer, can_change, classify
from launch.command import Command, Result, execute
from launch.executor import Experiment, Job, Requirements, error_line, log_last_lines, run_in_order
from launch.gke import jobset
from launch.retry import FIRST_SECONDS, MAX_SECONDS, Clock, RetriesExhausted, Retry
from launch.source_archive import Archive

logger = logging.getLogger(__name__)

POLL_SECONDS, STATE_MAX_SECONDS = 10.0, 60.0
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
        clock: measures and waits.
    """

    requirements: Requirements
    image: str | None
    namespace: str = "default"
    spot: bool = False
    clock: Clock = dataclasses.field(default_factory=Clock)
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
        fields = "--output=jsonpath={.status.terminalState},{.status.restarts},{.metadata.deletionTimestamp}"
        return self._kubectl("wait until it ends (repeated)", *words, fields)

    def _list(self, name: str) -> Command:
        selector = f"--selector={jobset.RUN}={jobset.run_label(name)}"
        return self._kubectl("which JobSets belong to the run?", "get", "jobsets", selector, "--output=json")

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
        capacity.check_slice(experiment.jobs, slice_, capacity.estimator(self.requirements.libtpu_bundle))

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
            result = execute(self._state(job))
            if result.code == 0 and not _fields(result)[2]:  # one that is being deleted makes _create_jobset wait
                raise self._exists_error(job)
            if result.code and classify(result.stderr) in (Answer.PERMANENT, Answer.CREDENTIALS):
                raise UserError(f"the JobSets of --namespace={self.namespace} cannot be read: {result.reason}")
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
        uploaded = False
        with StopSignals() as stop:
            try:
                self._create_source_once(experiment.name, source, stop)
                uploaded = True
                first = experiment.jobs[:1]
                return run_in_order(experiment.jobs, lambda job: self._run(job, source, stop, first=job in first))
            except Stopped:
                return EXIT_INTERRUPTED
            except RetriesExhausted as exhausted:
                message = f"{exhausted} (--retry_hours): the same command resumes from the last checkpoint, if any"
                raise UserError(message, EXIT_INTERRUPTED if uploaded else EXIT_FAILED) from exhausted
            finally:
                if uploaded:
                    self._finally_delete(self._delete_source(experiment.name, source), "the source", stop)

    def _create_source_once(self, name: str, source: Archive, stop: StopSignals) -> None:
        """Uploads the source. A ConfigMap of the same name has the same content, because a digest is in its name."""
        command, retry = self._create_source(name, source), self._retry(stop)
        while (result := execute(command)).code and (answer := classify(result.stderr)) is not Answer.EXISTS:
            if not can_change(answer, first=True):
                raise _creation_error(command, result, answer)
            retry.wait(f"failed to {command.purpose} ({result.reason})")

    def _run(self, job: Job, source: Archive, stop: StopSignals, *, first: bool) -> int:
        stop.sleep(0)
        self._create_jobset(job, source, stop, first=first)
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
            self._finally_delete(self._delete(job), jobset.jobset_name(job.name, job.stage), stop)

    def _create_jobset(self, job: Job, source: Archive, stop: StopSignals, *, first: bool) -> None:
        """Creates the JobSet of a job; repeats the command after failures that may be temporary.

        Args:
            first: no JobSet of this experiment was created before: only temporary failures are retried.
        """
        command, retry, name = self._create(job, source), self._retry(stop), jobset.jobset_name(job.name, job.stage)
        may_exist = False  # a try failed, and the JobSet may exist nevertheless
        try:
            # not interruptible: an incomplete creation could not be cleaned up
            while (result := execute(command)).code:
                answer, reason = classify(result.stderr), f"JobSet {name} cannot be created ({result.reason})"
                if answer is Answer.EXISTS:
                    state = execute(self._state(job))
                    deleting = _fields(state)[2] or classify(state.stderr) is Answer.NOT_FOUND
                    if may_exist and not state.code and not deleting:
                        return  # an earlier try created it, although the answer was a failure
                    if not deleting and not may_exist:
                        raise self._exists_error(job)
                    reason = f"JobSet {name} exists until its deletion is finished"
                elif can_change(answer, first=first):
                    may_exist = True
                else:
                    raise _creation_error(command, result, answer)
                retry.wait(reason)
        except BaseException:
            if may_exist:
                self._finally_delete(self._delete(job), name, stop)
            raise

    def _exists_error(self, job: Job) -> UserError:
        return UserError(
            f"JobSet {jobset.jobset_name(job.name, job.stage)} exists already, from another launcher or one that was"
            f" killed: python xm_launch.py stop {job.name} --executor=gke deletes it; or use another --name"
        )

    def _retry(
        self, stop: StopSignals, first_seconds: float = FIRST_SECONDS, max_seconds: float = MAX_SECONDS
    ) -> Retry:
        """The waits after failures of the cluster."""
        return Retry(self.clock, stop, self.requirements.retry_seconds, first_seconds, max_seconds)

    def _finally_delete(self, command: Command, resource: str, stop: StopSignals) -> None:
        """Deletes a resource at the end of a run or of a job; only a further stop signal ends the tries."""
        cloud.delete(command, resource, cloud.delete_retry(self.clock, stop), allowed=stop.count)

    def _wait(self, job: Job, stop: StopSignals) -> str:
        """Follows the job until it ends; returns its terminal state, or "" if it was deleted."""
        since, restarts = "--tail=-1", "0"
        retry = self._retry(stop, POLL_SECONDS, STATE_MAX_SECONDS)
        while True:
            result = execute(self._state(job), stop)
            if result.code and classify(result.stderr) is Answer.NOT_FOUND:
                return ""
            if result.code:
                retry.wait(f"the state of {job.stage} cannot be read ({result.reason})")
                continue
            retry.reset()
            state, restarts_now, _ = _fields(result)
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
            self.clock.sleep(POLL_SECONDS, stop)

    def _report_failure(self, job: Job) -> int:
        lines = execute(self._last_lines(job)).stdout.decode(errors="replace").splitlines()
        log_last_lines(f"{job.stage} failed; the last lines of its hosts", lines)
        output = [line.partition("] ")[2] for line in lines if not reports_peer_loss([line])]  # without [pod/NAME/...]
        logger.error(error_line(output) or f"error: {job.stage} failed; earlier checkpoints are not affected")
        return EXIT_FAILED

    # ---------------------------------------------------------------- runs of other launchers

    def _own_jobsets(self, name: str) -> list[str]:
        """The names of the JobSets of a run.

        Raises:
            UserError: there is none, or they cannot be read.
        """
        cloud.require("kubectl")
        result = execute(self._list(name))
        if result.code:
            raise UserError(f"the JobSets of {name} cannot be read ({result.reason}); nothing was changed")
        jobsets = json.loads(result.stdout or b"{}").get("items", [])
        # earlier versions recorded no full name, and changed some names, but none into that of another run's label
        unchanged = resource_names.is_unchanged(name, jobset.run_label(name))
        owners = {item["metadata"]["name"]: jobset.owner(item) or (name if unchanged else "") for item in jobsets}
        if not (own := [jobset_name for jobset_name, owner in owners.items() if owner == name]):
            others = f"; nothing was changed: {', '.join(owners)} belongs to another run" if owners else ""
            raise UserError(f"{name} is not running: there is no such JobSet{others}")
        return own

    def logs(self, run_dir: str, name: str) -> int:
        self._own_jobsets(name)
        pods = f"--selector={jobset.FIRST_HOST},{jobset.RUN}={jobset.run_label(name)}"
        result = execute(self._kubectl("", "logs", pods, f"--container={jobset.CONTAINER}", "--tail=-1"))
        if result.code or not result.stdout:
            raise UserError(f"no logs of {name}: {result.reason if result.code else 'it has not written any'}")
        print(result.stdout.decode(errors="replace"), end="")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        names = self._own_jobsets(name)
        command = self._kubectl(
            "delete the run", "delete", "jobset", *names, "--cascade=foreground", "--ignore-not-found"
        )
        with StopSignals() as stop:
            if failure := cloud.try_delete(command, cloud.delete_retry(self.clock, stop)):
                raise UserError(f"{name} is not deleted and may cost money: {failure}")
        logger.info(f"codellama_jax: {name} has saved and is deleted")
        return EXIT_DONE


def _fields(result: Result) -> tuple[str, str, str]:
    """Terminal state, number of restarts and time of deletion of a JobSet, "" if it has none."""
    state, restarts, deleted, *_ = [*result.stdout.decode().strip().split(","), "", "", ""]
    return state, restarts, deleted


def _creation_error(command: Command, result: Result, answer: Answer) -> UserError:
    remedy = ": gcloud container clusters get-credentials CLUSTER" if answer is Answer.CREDENTIALS else ""
    return UserError(f"could not {' '.join(command.argv[:3])}: {result.reason}{remedy}")


def _print(chunk: bytes) -> None:
    sys.stdout.write(chunk.decode(errors="replace"))
    sys.stdout.flush()
