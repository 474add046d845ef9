"""Runs pipelines: inputs go to work, what it gives is grouped by number, and goes on to the next work, and so on.

The embedded runner is Beam's own FnApiRunner, in this process or with worker processes. (What Beam calls DirectRunner
tries Prism first, a program that it downloads.) Any other runner that the flags of Beam name is Beam's affair.
"""

import argparse
import contextlib
import errno
import gc
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE, UserError
from codellama_jax.runtime.console import stderr_to
from tasks.curation import storage, tables
from tasks.curation.counters import Counters, added
from tasks.curation.workers import Workers

Result = Counters | tuple[int, bytes]
Work = Callable[[Any], Iterator[Result]]
Receive = Callable[[int, Any], Iterator[Result]]  # number, table of all rows that were given to it

EMBEDDED = ("DirectRunner", "FnApiRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner")
# Below this, to start worker processes takes longer than the work.
SMALL = 8 << 20
# Beam's runner holds what is exchanged as it comes, grouped, and on its way: about so many times.
HELD = 5
# What a pipeline of less than this leaves behind is not worth looking for.
HELD_ON = 1 << 20
_TELLS = "line for the user:"
_ROOT = Path(__file__).resolve().parents[2]


class Engine:
    """Attributes:
    embedded: whether it all runs on this machine.
    """

    def __init__(self, workers: int, arguments: Sequence[str], memory: int, log: str | None = None):
        """Takes the number of worker processes of the embedded runner, Beam's flags, Build.memory, and a local file
        that gets what workers write to standard error.

        Raises:
            UserError: Beam does not know a flag.
        """
        parsed, unknown = _parsed(arguments)
        if unknown:
            raise UserError(
                f"Beam knows no flag {unknown[0]}: its flags stand after --, see docs/dataset.md", EXIT_USAGE
            )
        name = parsed.view_as(StandardOptions).runner
        self.embedded = name is None or name.rpartition(".")[2] in EMBEDDED
        if workers > 1 and not self.embedded:
            raise UserError(f"--workers is for this machine alone: {name} has flags of its own, after --", EXIT_USAGE)
        self._workers, self._arguments, self._memory, self._log = workers, list(arguments), memory, log
        self._processes: Workers | None = None
        self._spreads = not self.embedded  # one process has nothing to spread work over
        # worker processes import this package
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(_ROOT) not in path:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), *path]))
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)

    def close(self) -> None:
        """Ends what it has started."""
        if self._processes is not None:
            self._processes.close()

    def slices(self, partitions: int, size: int) -> Iterator[range]:
        """Ranges of partitions that one pass each takes, so that what is exchanged, `size` bytes in all, fits."""
        passes = min(partitions, self.passes(size))
        for number in range(passes):
            yield range(partitions * number // passes, partitions * (number + 1) // passes)

    def partitions(self, size: int, largest: int) -> int:
        """How many partitions it takes for what one call sees to be no more than `largest` bytes, nor too much of what
        may be held."""
        return size // (min(largest, self._memory // (2 * HELD)) if self.embedded else largest) + 1

    def passes(self, size: int) -> int:
        """How many passes it takes to exchange so many bytes."""
        return max(1, -(-size * HELD // self._memory)) if self.embedded else 1

    def of_pass(self, size: int) -> int:
        """How many of so many bytes a pass exchanges."""
        return size // self.passes(size)

    def run(
        self, name: str, folder: str, inputs: Iterable[Any], work: Work, *receivers: Receive, size: int
    ) -> Counters:
        """Runs a pipeline to its end.

        Args:
            name: of the pipeline, without spaces.
            folder: where its tally is written.
            inputs: what work is called with, one after the other.
            work: gives tallies, and (number, block of a table) for the first receiver.
            receivers: each is called with a number and all rows that came for it, in no order; the last gives tallies.
            size: of what is read, in bytes, about.

        Returns:
            The sum of the tallies.

        Raises:
            UserError: something the user can mend went wrong in the pipeline.
        """
        path = storage.join(folder, f"{name}.json")
        pipeline = beam.Pipeline(*self._runner(size))
        elements = pipeline | "Inputs" >> beam.Create(list(inputs), reshuffle=False)
        if self._spreads:
            elements |= "Spread" >> beam.Reshuffle()
        results = elements | f"{name}-0" >> beam.ParDo(_Do(work)).with_outputs("tallies", main="blocks")
        counted = [results.tallies]
        for number, receive in enumerate(receivers, 1):
            results = (
                results.blocks
                | f"Group{number}" >> beam.GroupByKey()
                | f"{name}-{number}" >> beam.ParDo(_Do(_Receiver(receive))).with_outputs("tallies", main="blocks")
            )
            counted.append(results.tallies)
        _ = (
            tuple(counted)
            | "AllTallies" >> beam.Flatten()
            | "OneKey" >> beam.WithKeys(0)  # there are few: CombineGlobally would be five stages
            | "Together" >> beam.GroupByKey()
            | "Write" >> beam.ParDo(_Do(_Writer(path)))
        )
        self._finish(pipeline)
        if size > HELD_ON:
            gc.collect()  # a pipeline that has run holds what went through it, in circles
        data = storage.read(path)
        return Counters() if data is None else Counters.of_json(json.loads(data))  # none where there was nothing to do

    def _runner(self, size: int) -> tuple[Any, PipelineOptions]:
        if not self.embedded:
            return None, PipelineOptions(self._arguments)
        workers = self._workers if size > SMALL else 1
        environment = None
        if workers > 1:
            environment = SubprocessSDKEnvironment.from_command_string(self._worker_command())
        return FnApiRunner(environment), PipelineOptions([*self._arguments, f"--direct_num_workers={workers}"])

    def _worker_command(self) -> str:
        self._spreads = True
        if sys.platform != "linux":  # elsewhere what has been imported does not bear a fork
            return shlex.join([sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"])
        self._processes = self._processes or Workers(self._log)
        return self._processes.command

    def _finish(self, pipeline: beam.Pipeline) -> None:
        try:
            # Beam's threads and worker processes tell of every channel
            with stderr_to(self._log or os.devnull) if self.embedded else contextlib.nullcontext():
                pipeline.run().wait_until_finish()
        except Exception as error:
            if told := re.search(rf"{_TELLS} (\{{.*?\}}) end of line", str(error)):
                line = json.loads(told[1])
                raise UserError(line["line"], line["code"]) from error
            if "Channel closed prematurely" in str(error):
                cure = "if it was for memory, take fewer --workers or a smaller Build.memory"
                said = f" (see {self._log})" if self._log else ""
                line = f"a worker process died{said}: the same command goes on where it stopped; {cure}"
                raise UserError(line) from error
            raise


class _Do(beam.DoFn):
    """Calls a function that yields results; what it tells the user gets through whatever a runner wraps it in."""

    def __init__(self, function: Work):
        self._function = function

    def process(self, element: Any) -> Iterator[Any]:
        try:
            for result in self._function(element):
                yield beam.pvalue.TaggedOutput("tallies", result) if isinstance(result, Counters) else result
        except UserError as error:
            raise _told(str(error), error.exit_code) from error
        except OSError as error:
            raise _told(_line(error), EXIT_FAILED) from error


class _Receiver:
    def __init__(self, receive: Receive):
        self._receive = receive

    def __call__(self, element: tuple[int, Iterable[bytes]]) -> Iterator[Result]:
        number, blocks = element
        return self._receive(number, tables.joined(blocks))


class _Writer:
    def __init__(self, path: str):
        self._path = path

    def __call__(self, element: tuple[int, Iterable[Counters]]) -> Iterator[Result]:
        with storage.open_output(self._path) as file:
            file.write(json.dumps(added(element[1]).as_json()).encode())
        yield from ()


def _told(line: str, code: int) -> RuntimeError:
    return RuntimeError(f"{_TELLS} {json.dumps({'line': line, 'code': code})} end of line")


def _line(error: OSError) -> str:
    """What went wrong with a file, and the cure."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left for {error.filename}: free some, then the same command goes on where it stopped"
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}: mend it, then the same command goes on where it stopped"


def _parsed(arguments: Sequence[str]) -> tuple[PipelineOptions, list[str]]:
    """Beam's options, and the arguments that none of them takes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    kinds = list(PipelineOptions.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
        if "_add_argparse_args" in vars(kind):
            kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    return PipelineOptions([argument for argument in arguments if argument not in unknown]), unknown
