"""The manifest of a job for Kubernetes: a JobSet with one Job for each slice and one pod for each host."""

import re
from typing import Any

import yaml

from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE
from launch.executor import Requirements
from launch.job import Job
from launch.source_archive import Archive

CONTAINER = "train"
SOURCE, ARCHIVE = "/source", "/archive"
SECONDS_AFTER_SAVE = 15  # from the end of Checkpoints.grace_seconds to the end of the pod
INDEX = "batch.kubernetes.io/job-completion-index"
JOBSET, SLICE = "jobset.sigs.k8s.io/jobset-name", "jobset.sigs.k8s.io/job-index"
FIRST = f"{SLICE}=0,{INDEX}=0"  # host 0 of the first slice, which talks


def jobset_name(run: str, stage: str = "") -> str:
    """The JobSet of a run's stage, short enough for the names that are made of it."""
    return re.sub("[^a-z0-9]+", "-", f"codellama-jax-{run}-{stage}".lower()).strip("-")[:48].strip("-")


def source_name(run: str, source: Archive) -> str:
    """The ConfigMap that holds the source."""
    return f"{jobset_name(run)}-{source.digest}"


def manifest(job: Job, requirements: Requirements, source: Archive, image: str, *, spot: bool) -> str:
    """The YAML of a job.

    A pod that ends with 1 or 2 fails the JobSet: what is wrong will be wrong again. Any other end, such as 75 after a
    preemption or a node that vanished, starts all hosts again, up to `requirements.restarts` times.
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
    unpack = ["tar", "-xzf", f"{ARCHIVE}/{source.name}", "-C", SOURCE]
    at_source, at_archive = ({"name": name, "mountPath": f"/{name}"} for name in ("source", "archive"))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        # The fastest that there is between slices. How they find each other is told to every pod by GKE, which sets
        # MEGASCALE_* for a JobSet of several; JAX and libtpu read it there.
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": int(job.config.checkpoints.grace_seconds) + SECONDS_AFTER_SAVE,
        "nodeSelector": node,
        "tolerations": tolerations,
        "initContainers": [
            {"name": "unpack", "image": image, "command": unpack, "volumeMounts": [at_source, at_archive]}
        ],
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                # no shell: Python is the process that gets SIGTERM
                "command": ["python", "-m", "codellama_jax.train", *job.shipped_arguments],
                "workingDir": SOURCE,
                "env": [{"name": name, "value": value} for name, value in environment.items()],
                "resources": {"limits": {"google.com/tpu": min(chip.host_chips, slice_.chips)}},
                "volumeMounts": [at_source, {"name": "shared-memory", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "source", "emptyDir": {}},
            {"name": "archive", "configMap": {"name": source_name(job.name, source)}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    labels = {"codellama-jax": jobset_name(job.name)}
    ends = {"containerName": CONTAINER, "operator": "In", "values": [EXIT_FAILED, EXIT_USAGE]}
    template = {
        "spec": {
            "parallelism": slice_.hosts // slice_.slices,
            "completions": slice_.hosts // slice_.slices,
            "completionMode": "Indexed",
            "backoffLimit": 0,  # the hosts of a slice live and die together
            "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": ends}]},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }
    }
    failed = {"name": "failed", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return yaml.safe_dump(
        {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {
                "name": jobset_name(job.name, job.stage),
                "labels": labels,
                # a slice is a node pool: each Job has one for itself
                "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
            },
            "spec": {
                "failurePolicy": {"maxRestarts": requirements.restarts, "rules": [failed]},
                "replicatedJobs": [{"name": "hosts", "replicas": slice_.slices, "template": template}],
            },
        },
        sort_keys=False,
    )
