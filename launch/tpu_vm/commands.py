"""The gcloud commands of the TPU VM executor, built by pure functions."""

import dataclasses
import json
import shlex
import urllib.parse
from collections.abc import Sequence

from launch import resource_names
from launch.command import Command
from launch.executor import Job
from launch.source_archive import LOCK, Archive

PYTHON = "3.12"  # installed on the hosts, whose own Python is too old
FOLDER = "codellama_jax"  # in the home directory of a host
NAME_CHARACTERS = 60  # of a queued resource and of a TPU VM


@dataclasses.dataclass(frozen=True)
class TpuVmCommands:
    """The commands for one queued resource.

    Attributes:
        run: the full name of the run.
        project, zone: the location of the queued resource.
    """

    run: str
    project: str
    zone: str

    @property
    def resource(self) -> str:
        """The name of the queued resource and of its TPU VM."""
        return resource_names.resource_name(self.run, NAME_CHARACTERS)

    # ---------------------------------------------------------------- the slice

    def create(self, accelerator: Sequence[str], runtime_version: str, flags: Sequence[str]) -> Command:
        return self._gcloud(
            "create the slice",
            *("queued-resources", "create", self.resource, f"--node-id={self.resource}"),
            *accelerator,
            f"--runtime-version={runtime_version}",
            *flags,
            f"--labels={resource_names.PREFIX}={self.resource}",
            f"--metadata={resource_names.RUN}={resource_names.recorded(self.run)}",
            "--quiet",
        )

    def state(self) -> Command:
        return self._gcloud(
            "wait until it is ACTIVE (repeated)",
            *("queued-resources", "describe", self.resource),
            "--format=value(state.state,state.failedData.error.message)",
        )

    def describe(self) -> Command:
        words = ("queued-resources", "describe", self.resource, "--format=json")
        return self._gcloud("whose slice is it?", *words)

    def owner(self, description: bytes) -> str | None:
        """The run that a queued resource belongs to; None: not known.

        Args:
            description: the output of `describe`.
        """
        try:
            nodes = [spec.get("node", {}) for spec in json.loads(description)["tpu"]["nodeSpec"]]
            metadata = {name: value for node in nodes for name, value in (node.get("metadata") or {}).items()}
            labels = {name: value for node in nodes for name, value in (node.get("labels") or {}).items()}
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
        if (recorded := metadata.get(resource_names.RUN)) is not None:
            return urllib.parse.unquote(recorded, errors="surrogatepass")
        # Earlier versions recorded no full name. Of the names that they changed, none is a current name.
        is_ours = labels.get(resource_names.PREFIX) == self.resource
        return self.run if is_ours and resource_names.is_unchanged(self.run, self.resource) else None

    def delete(self) -> Command:
        return self._gcloud(
            "delete the slice",
            *("queued-resources", "delete", self.resource, "--force", "--quiet"),
        )

    # ---------------------------------------------------------------- the hosts

    def copy(self, archive: Archive) -> Command:
        return self._gcloud(
            "copy the source to every host",
            *("tpu-vm", "scp", str(archive.path), f"{self.resource}:{archive.name}", "--worker=all", "--quiet"),
        )

    def install(self, archive: Archive) -> Command:
        source, environment = f"{FOLDER}/{archive.digest}", f"{FOLDER}/{_environment(archive)}"
        uv = "python3 -m uv --quiet"
        steps = [
            "set -e",
            f"mkdir -p {source}",
            f"tar -xzf {archive.name} -C {source}",
            f"if [ ! -e {environment}/installed ]; then python3 -m pip install --user --quiet uv",
            f"{uv} venv --clear --python {PYTHON} {environment}",
            f"{uv} pip install --python {environment}/bin/python -r {source}/{LOCK}",
            f"touch {environment}/installed",
            "fi",
        ]
        return self._ssh("install the packages on every host", "all", "; ".join(steps))

    def start(self, job: Job, attempt: int, archive: Archive, libtpu_init_args: str) -> Command:
        python = f"../{_environment(archive)}/bin/python"
        environment = {"JAX_PLATFORMS": "tpu,cpu", "PYTHONUNBUFFERED": "1"}
        if libtpu_init_args:
            environment["LIBTPU_INIT_ARGS"] = libtpu_init_args
        words = [
            *("env", *(f"{name}={value}" for name, value in environment.items())),
            *(python, "-m", "launch.tpu_vm.agent", "start", f"{job.stage}.{attempt}", "--"),
            *(python, "-m", "codellama_jax.train", *job.shipped_arguments),
        ]
        remote = f"cd {FOLDER}/{archive.digest} && {shlex.join(words)}"
        return self._ssh(f"start {job.stage} on every host, detached from the connection", "all", remote)

    def watch(self, job: Job, attempt: int, archive: Archive, offset: int) -> Command:
        arguments = [f"{job.stage}.{attempt}", f"--offset={offset}"]
        return self._ssh(f"follow host 0 until {job.stage} ends", "0", _agent(archive, "watch", *arguments))

    def result(self, job: Job, attempt: int, archive: Archive) -> Command:
        remote = _agent(archive, "result", f"{job.stage}.{attempt}")
        return self._ssh("report how it ended on every host", "all", remote)

    def stop(self, archive: Archive) -> Command:
        return self._ssh("stop every host after saving", "all", _agent(archive, "stop", "-", "--seconds=0"))

    # ---------------------------------------------------------------- runs of other launchers

    def stop_any(self) -> Command:
        newest = f"cd {FOLDER} && cd $(ls -td [0-9a-f]*/launch | head -n 1)/.."
        return self._ssh(
            "stop every host after saving", "all", f"{newest} && python3 -m launch.tpu_vm.agent stop - --seconds=120"
        )

    def logs(self) -> Command:
        return self._ssh("the output of host 0", "0", f"tail -n +1 {FOLDER}/jobs/*/log")

    # ---------------------------------------------------------------- all commands

    def _ssh(self, purpose: str, worker: str, remote: str) -> Command:
        flags = (f"--worker={worker}", "--quiet", f"--command={remote}")
        return self._gcloud(purpose, "tpu-vm", "ssh", self.resource, *flags)

    def _gcloud(self, purpose: str, *words: str) -> Command:
        location = (f"--project={self.project}", f"--zone={self.zone}")
        return Command(("gcloud", "compute", "tpus", *words[:3], *location, *words[3:]), purpose)


def _environment(archive: Archive) -> str:
    return f"packages-{archive.lock}"


def _agent(archive: Archive, action: str, *arguments: str) -> str:
    """The remote command that runs launch/tpu_vm/agent.py."""
    return f"cd {FOLDER}/{archive.digest} && {shlex.join(['python3', '-m', 'launch.tpu_vm.agent', action, *arguments])}"
