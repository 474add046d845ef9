"""What jobs on other machines need: a run folder and files that all of them can reach."""

from collections.abc import Iterator

from codellama_jax.config.data import STREAMS
from codellama_jax.errors import EXIT_USAGE, UserError
from launch import cloud
from launch.command import execute
from launch.job import Experiment, Job


def check_shared(experiment: Experiment) -> None:
    """Returns if nothing that the jobs read or write lies on this machine.

    Raises:
        UserError: something does; with the cure.
    """
    if not experiment.run_dir.startswith("gs://"):
        raise UserError(
            f"--run_dir={experiment.run_dir} is a folder of this machine, and the hosts share none: write"
            " --run_dir=gs://BUCKET/FOLDER",
            EXIT_USAGE,
        )
    for job in experiment.jobs:
        for setting, path in _places(job):
            if path.startswith(("/", "~", ".")):
                raise UserError(
                    f"{setting}={path} ({job.stage}) is a path of this machine, which the hosts do not have: copy it"
                    " with gcloud storage cp -r to a bucket, and give gs://BUCKET/PATH",
                    EXIT_USAGE,
                )
        _ = job.shipped_arguments


def check_writable(run_dir: str) -> None:
    """Raises UserError if gcloud, or leave to write to the bucket, is missing; leaves nothing in it."""
    cloud.require()
    for command in cloud.probe(run_dir):
        if (ended := execute(command)).code:
            raise UserError(
                f"--run_dir={run_dir} cannot be written ({ended.reason}): is it a bucket of yours? See gcloud storage"
                " ls"
            )


def _places(job: Job) -> Iterator[tuple[str, str]]:
    """Settings that name files, and what they name."""
    config = job.config
    named = {f"Corpus.{stream}": getattr(config.corpus, stream) for stream in STREAMS}
    named |= {"Tokenizer.model": config.tokenizer.model, "Checkpoints.initial": config.checkpoints.initial}
    for setting, places in named.items():
        yield from ((setting, place) for place in ([places] if isinstance(places, str) else places or ()))
