"""The Kubernetes manifest of a job: a JobSet with one Job per slice and one pod per host."""

import urllib.parse
from typing import Any

import yaml

from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE
from launch import resource_names
from launch.executor import Job, Requirements
from launch.source_archive import Archive

CONTAINER = "train"
SOURCE, ARCHIVE = "/source", "/archive"
EXIT_SECONDS = 15  # from the end of Checkpoints.grace_seconds until the pod is killed
INDEX = "batch.kubernetes.io/job-completion-index"
JOBSET, SLICE = "jobset.sigs.k8s.io/jobset-name", "jobset.sigs.k8s.io/job-index"
FIRST_HOST = f"{SLICE}=0,{INDEX}=0"  # host 0 of the first slice, which logs the progress
RUN = resource_names.PREFIX  # label of everything that belongs to a run
RUN_ANNOTATION = f"{resource_names.PREFIX}/run"
REPLICATED_JOB = "hosts"
# JobSet names a pod JOBSET-REPLICATEDJOB-SLICE-HOST-abcde, with five random characters at the end, and refuses a JobSet
# for which this is longer than 63 characters. No slice has more than 9,999 hosts.
JOBSET_CHARACTERS = 63 - len(f"-{REPLICATED_JOB}-999-9999-abcde")
LABEL_CHARACTERS = 48


def run_label(run: str) -> str:
    """The value of the label RUN for a run, which is also the first part of the names of what belongs to it."""
    return resource_names.resource_name(run, LABEL_CHARACTERS)


def jobset_name(run: str, stage: str) -> str:
    """The name of the JobSet for a run's stage, short enough for the names that Kubernetes derives from it."""
    return resource_names.resource_name(run, JOBSET_CHARACTERS, stage)


def source_name(run: str, source: Archive) -> str:
    """The name of the ConfigMap that contains the source."""
    return f"{run_label(run)}-{source.digest}"


def owner(jobset: dict[str, Any]) -> str | None:
    """The full name of the run that a JobSet belongs to; None: made by an earlier version, which did not record it.

    Args:
        jobset: its description by Kubernetes.
    """
    recorded = (jobset["metadata"].get("annotations") or {}).get(RUN_ANNOTATION)
    return None if recorded is None else urllib.parse.unquote(recorded, errors="surrogatepass")


def manifest(job: Job, requirements: Requirements, source: Archive, image: str, *, spot: bool) -> str:
    """The manifest of a job as YAML.

    A pod that exits with 1 or 2 fails the JobSet, because the same error would occur again. Any other end, such as 75
    after a preemption or a lost node, restarts all hosts, up to `requirements.restarts` times.
    """
    slice_ = requirements.slice
    chip = slice_.chip
    node = {
        "cloud.google.com/gke-tpu-accelerator": chip.gke[0],
        "cloud.google.com/gke-tpu-topology": slice_.slice_name.partition(":")[2],
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}]
    if spot:
        node["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists", "effect": "NoSchedule"})
    environment = {"JAX_PLATFORMS": "tpu,cpu", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if requirements.libtpu_init_args:
        environment["LIBTPU_INIT_ARGS"] = requirements.libtpu_init_args
    unpack_command = ["tar", "-xzf", f"{ARCHIVE}/{source.name}", "-C", SOURCE]
    source_mount, archive_mount = ({"name": name, "mountPath": f"/{name}"} for name in ("source", "archive"))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        # The host network is the fastest one between slices. For a JobSet with several slices, GKE sets the
        # variables MEGASCALE_* in each pod, with which JAX and libtpu connect the slices.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": int(job.config.checkpoints.grace_seconds) + EXIT_SECONDS,
        "nodeSelector": node,
        "tolerations": tolerations,
        "initContainers": [
            {"name": "unpack", "image": image, "command": unpack_command, "volumeMounts": [source_mount, archive_mount]}
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                # no shell: SIGTERM must reach Python
                "command": ["python", "-m", "codellama_jax.train", *job.shipped_arguments],
                "workingDir": SOURCE,
                "env": [{"name": name, "value": value} for name, value in environment.items()],
                "resources": {"limits": {"google.com/tpu": min(chip.host_chips, slice_.chips)}},
                "volumeMounts": [source_mount, {"name": "shared-memory", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "source", "emptyDir": {}},
            {"name": "archive", "configMap": {"name": source_name(job.name, source)}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    labels = {RUN: run_label(job.name)}
    user_errors = {"containerName": CONTAINER, "operator": "In", "values": [EXIT_FAILED, EXIT_USAGE]}
    template = {
        "spec": {
            "parallelism": slice_.hosts // slice_.slices,
            "completions": slice_.hosts // slice_.slices,
            "completionMode": "Indexed",
            "backoffLimit": 0,  # all hosts of a slice restart together
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": user_errors}]},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
    }
    on_user_error = {"name": "failed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return yaml.safe_dump(
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": jobset_name(job.name, job.stage),
                "labels": labels,
                "annotations": {
                    # a slice is a node pool; each Job runs in a node pool of its own
                    "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
                    RUN_ANNOTATION: resource_names.recorded(job.name),
                },
            },
            "spec": {
                "failurePolicy": {"maxRestarts": requirements.restarts, "rules": [on_user_error]},
                "replicatedJobs": [{"name": REPLICATED_JOB, "replicas": slice_.slices, "template": template}],
            },
        },
        sort_keys=False,
    )
