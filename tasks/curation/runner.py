"""A runner of Beam other than the embedded one: its options, its pipelines and its errors."""

import argparse
import contextlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState, create_runner

from codellama_jax.errors import EXIT_USAGE, UserError, first_line

# Flags that name the programs that Beam would otherwise download
_FILES = "--flink_job_server_jar, --spark_job_server_jar or --prism_location"


class Runner:
    """A runner that Beam's flags select.

    Attributes:
        name: as in the flags.
    """

    def __init__(self, name: str, flags: Sequence[str]):
        self.name, self._flags = name, list(flags)

    def pipeline(self, elements: int) -> beam.Pipeline:
        """A new pipeline that starts with this many elements.

        Raises:
            UserError: the engine is known not to be ready.
        """
        try:
            return beam.Pipeline(create_runner(self.name), options(self._flags))
        except ValueError as error:  # flags that the runner requires
            lines = "; ".join(line.rstrip(".") for line in str(error).splitlines() if line.strip())
            raise UserError(f"--runner={self.name}: {lines}", EXIT_USAGE) from error

    def run(self, pipeline: beam.Pipeline) -> None:
        """Runs a pipeline. It is cancelled if this process is interrupted.

        Raises:
            UserError: the pipeline ended without an error but is not done.
        """
        result = pipeline.run()
        try:
            self._wait(result)
        except BaseException:
            with contextlib.suppress(Exception):
                result.cancel()
            raise

    def _wait(self, result: Any) -> None:
        if (state := result.wait_until_finish()) not in (None, PipelineState.DONE):
            raise UserError(f"{self.name} ended the pipeline as {state}: run the same command again to resume")

    def message(self, error: Exception) -> str | None:
        """The message for the user, if this error is one of the engine's that they can fix."""
        if (line := first_line(error, 1000)).startswith("Unable to fetch remote"):
            return f"{line}: download it elsewhere and name the file with {_FILES}"
        if isinstance(error, grpc.FutureTimeoutError):
            return "the job server does not answer: check --job_endpoint, and start the server"
        return None


def options(flags: Sequence[str]) -> PipelineOptions:
    """Beam's options.

    Raises:
        UserError: Beam does not know a flag or cannot read its value.
    """
    if unknown := unknown_flags(_kinds(), flags):
        raise UserError(f"Beam has no flag {unknown[0]}: Beam's flags follow --, see docs/dataset.md", EXIT_USAGE)
    return PipelineOptions(list(flags))


def _kinds() -> list[type[PipelineOptions]]:
    """All classes of options."""
    kinds = list(PipelineOptions.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    return kinds


def unknown_flags(kinds: Sequence[type[PipelineOptions]], flags: Sequence[str]) -> list[str]:
    """The flags that none of the classes of options takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for kind in kinds:
        if "_add_argparse_args" in vars(kind):
            kind._add_argparse_args(parser)
    try:
        return parser.parse_known_args(list(flags))[1]
    except argparse.ArgumentError as error:
        raise UserError(f"Beam's flags: {error}", EXIT_USAGE) from None
