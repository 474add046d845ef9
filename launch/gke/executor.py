"""Runs jobs on GKE, each as a JobSet, which starts itself again when it is preempted. Nothing but kubectl is called."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError
from codellama_jax.runtime.distributed import reports_peer_loss
from launch import capacity, cloud, source_archive
from launch.command import Command, execute
from launch.executor import Requirements, add_slice_flags, slice_requirements
from launch.gke import jobset
from launch.job import Experiment, Job
from launch.shared import check_shared, check_writable
from launch.signals import Stopped, StopRequests
from launch.tpu_vm.queued_resource import say

POLL_SECONDS = 10.0
LAST_LINES = 12
COMPLETED = "Completed"
INSTALL = "https://jobset.sigs.k8s.io/docs/installation"


@dataclasses.dataclass(frozen=True)
class Gke:
    """The cluster that kubectl is set to (see launch.executor.Executor for what its methods promise).

    Attributes:
        requirements: the slice, how often it may be lost, flags of its compiler.
        image: a container image with Python and the packages of requirements-tpu.txt.
        namespace: of everything that is created.
        spot: whether to run on spot nodes.
        pace: seconds of waiting for each that is meant; less in tests.
    """

    requirements: Requirements
    image: str | None
    namespace: str = "default"
    spot: bool = False
    pace: float = 1.0
    remote = True

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        add_slice_flags(parser)
        parser.add_argument("--image", help="a container image with Python and the packages of requirements-tpu.txt")
        parser.add_argument("--namespace", default="default", help="of the cluster (default: default)")

    @classmethod
    def from_flags(cls, options: argparse.Namespace) -> "Gke":
        if options.reserved:
            pool = "--reserved is of a cluster's node pool"
            raise UserError(f"{pool}: leave it out with --executor=gke", EXIT_USAGE)
        needs = slice_requirements(options)
        if needs.topology and needs.topology.hosts == needs.topology.slices > 1:
            raise UserError(
                f"--slices={options.slices}: GKE connects slices of several hosts only, {options.topology} has one",
                EXIT_USAGE,
            )
        return cls(needs, options.image, options.namespace, options.spot)

    # ---------------------------------------------------------------- the commands

    def _kubectl(self, why: str, *words: str, stdin: str = "") -> Command:
        return Command(("kubectl", *words, f"--namespace={self.namespace}"), why, stdin)

    def _create_source(self, name: str, source: source_archive.Archive) -> Command:
        file = f"--from-file={source.path}"
        return self._kubectl("the source", "create", "configmap", jobset.source_name(name, source), file)

    def _delete_source(self, name: str, source: source_archive.Archive) -> Command:
        what = ("delete", "configmap", jobset.source_name(name, source), "--ignore-not-found")
        return self._kubectl("delete the source", *what)

    def _create(self, job: Job, source: source_archive.Archive) -> Command:
        if self.image is None:
            raise UserError("--image=IMAGE is needed: docs/launching.md shows how to make one", EXIT_USAGE)
        text = jobset.manifest(job, self.requirements, source, self.image, spot=self.spot)
        return self._kubectl(f"start {job.stage} on every host", "create", "--filename=-", stdin=text)

    def _state(self, job: Job) -> Command:
        what = ("get", "jobset", jobset.jobset_name(job.name, job.stage))
        fields = "--output=jsonpath={.status.terminalState},{.status.restarts}"
        return self._kubectl("wait for its end: this is asked again and again", *what, fields)

    def _follow(self, job: Job, since: str) -> Command:
        pods = f"--selector={jobset.JOBSET}={jobset.jobset_name(job.name, job.stage)},{jobset.FIRST}"
        return self._kubectl("follow host 0", "logs", pods, f"--container={jobset.CONTAINER}", "--follow", since)

    def _last_lines(self, job: Job) -> Command:
        pods = f"--selector={jobset.JOBSET}={jobset.jobset_name(job.name, job.stage)}"
        hosts = f"--max-log-requests={self.requirements.slice.hosts}"
        container = f"--container={jobset.CONTAINER}"
        return self._kubectl(
            "what every host said last", "logs", pods, container, "--prefix", f"--tail={LAST_LINES}", hosts
        )

    def _delete(self, job: Job) -> Command:
        what = ("delete", "jobset", jobset.jobset_name(job.name, job.stage), "--ignore-not-found")
        return self._kubectl("delete it; hosts that still run save first", *what, "--cascade=foreground")

    # ---------------------------------------------------------------- before anything is created

    def _check_without_cloud(self, experiment: Experiment) -> None:
        slice_ = self.requirements.slice
        check_shared(experiment)
        capacity.check(experiment.jobs, slice_)

    def check(self, experiment: Experiment) -> None:
        self._check_without_cloud(experiment)
        for job in experiment.jobs:
            self._create(job, source_archive.source())
        cloud.require("kubectl")
        found = execute(self._kubectl("", "get", "customresourcedefinition", "jobsets.jobset.x-k8s.io"))
        if found.code:
            absent = "NotFound" in found.err
            cure = f"install JobSet in it: {INSTALL}" if absent else "gcloud container clusters get-credentials CLUSTER"
            raise UserError(f"the cluster cannot be used ({found.reason}): {cure}")
        for job in experiment.jobs:
            if not execute(self._state(job)).code:
                name = jobset.jobset_name(job.name, job.stage)
                raise UserError(
                    f"JobSet {name} exists already: another launcher uses it, or one was killed: python xm_launch.py"
                    f" stop {job.name} --executor=gke deletes it; or use another --name"
                )
        check_writable(experiment.run_dir)

    def show(self, experiment: Experiment) -> Iterator[str]:
        self._check_without_cloud(experiment)
        source = source_archive.source()
        shown = [*cloud.probe(experiment.run_dir), self._create_source(experiment.name, source)]
        for job in experiment.jobs:
            shown += [self._create(job, source), self._state(job), self._follow(job, "--tail=-1"), self._delete(job)]
        yield f"# {source.path}: the source as it is now, written before the rest"
        yield from (command.shown() for command in [*shown, self._delete_source(experiment.name, source)])

    # ---------------------------------------------------------------- running

    def run(self, experiment: Experiment) -> int:
        source = source_archive.source()
        source.write()
        with StopRequests() as asked:
            self._must(self._create_source(experiment.name, source))
            try:
                for job in experiment.jobs:
                    code = self._run(job, source, asked)
                    if code != EXIT_DONE:
                        return code
                return EXIT_DONE
            except Stopped:
                return EXIT_INTERRUPTED
            finally:
                self._must_go([self._delete_source(experiment.name, source)])

    def _run(self, job: Job, source: source_archive.Archive, asked: StopRequests) -> int:
        asked.sleep(0)
        self._must(self._create(job, source))  # never cut short: what is half created would not be known of
        try:
            state = self._wait(job, asked)
            if state == COMPLETED:
                return EXIT_DONE
            if not state:
                say(f"codellama_jax: {job.stage} was deleted by somebody else; the same command goes on")
                return EXIT_INTERRUPTED
            return self._failed(job)
        except Stopped:
            say("codellama_jax: stopping: the job saves and is deleted")
            raise
        finally:
            self._must_go([self._delete(job)])

    def _wait(self, job: Job, asked: StopRequests) -> str:
        """Follows the job until it is at its end; returns how it ended, "" if it was deleted."""
        since, before = "--tail=-1", "0"
        while True:
            found = execute(self._state(job), asked, 0)
            if found.code and "NotFound" in found.err:
                return ""
            state, _, restarts = found.out.decode().strip().partition(",")
            if not found.code and state:
                return state
            if not found.code and (restarts or "0") != before:
                before, since = restarts or "0", "--tail=-1"
                say(f"codellama_jax: {job.stage} was preempted or lost a host; it starts again (restart {before})")
            seen = execute(self._follow(job, since), asked, 0, _print)
            if seen.out:
                since = f"--since={2 * POLL_SECONDS:.0f}s"  # the connection broke, or the pod ended
            asked.sleep(POLL_SECONDS * self.pace)

    def _failed(self, job: Job) -> int:
        lines = execute(self._last_lines(job)).out.decode(errors="replace").splitlines()
        for line in lines:
            print(f"    {line}", file=sys.stderr)
        said = [line.partition("error: ")[2] for line in lines if "] error: " in line and not reports_peer_loss([line])]
        print(f"error: {said[-1] if said else f'{job.stage} failed; what was saved is untouched'}", file=sys.stderr)
        return EXIT_FAILED

    def _must(self, command: Command) -> None:
        ended = execute(command)
        if ended.code:
            raise UserError(f"could not {' '.join(command.argv[:3])}: {ended.reason}")

    def _must_go(self, commands: Sequence[Command]) -> None:
        for command in commands:
            for _ in range(3):
                ended = execute(command)
                if not ended.code:
                    break
            else:
                print(
                    f"codellama_jax: this has to be done by hand ({ended.reason}): {command.shown()}", file=sys.stderr
                )

    # ---------------------------------------------------------------- runs of other launchers

    def logs(self, run_dir: str, name: str) -> int:
        cloud.require("kubectl")
        pods = f"--selector={jobset.FIRST},codellama-jax={jobset.jobset_name(name)}"
        ended = execute(self._kubectl("", "logs", pods, f"--container={jobset.CONTAINER}", "--tail=-1"))
        if ended.code or not ended.out:
            raise UserError(f"no logs of {name}: {ended.reason if ended.code else 'it does not run'}")
        print(ended.out.decode(errors="replace"), end="")
        return EXIT_DONE

    def stop(self, run_dir: str, name: str) -> int:
        cloud.require("kubectl")
        which = f"--selector=codellama-jax={jobset.jobset_name(name)}"
        ended = execute(self._kubectl("", "delete", "jobset", which, "--cascade=foreground"))
        if ended.code or b"deleted" not in ended.out:
            raise UserError(f"{name} does not run: {ended.reason if ended.code else 'there is no such JobSet'}")
        print(f"codellama_jax: {name} has saved and is deleted")
        return EXIT_DONE


def _print(chunk: bytes) -> None:
    sys.stdout.write(chunk.decode(errors="replace"))
    sys.stdout.flush()
