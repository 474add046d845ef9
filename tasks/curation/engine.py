"""Runs MapReduce pipelines on Beam: inputs are mapped, the results are grouped by partition and reduced, repeatedly.

The embedded runner is Beam's FnApiRunner, in this process or with worker processes. (Beam's DirectRunner would first
try Prism, a program that it downloads.) Any other runner is selected and configured by Beam's own flags (runners.py).

A pipeline is a chain of Create, ParDo with one output, and GroupByKey, which every runner supports; those of Dask and
PySpark support little else. Counters therefore pass through the same chain as the data, under a key of their own.
"""

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
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE, UserError
from codellama_jax.runtime.console import stderr_to
from tasks.curation import runners, storage, tables
from tasks.curation.counters import Counters, merge
from tasks.curation.workers import Workers

Result = Counters | tuple[int, bytes]  # counters, or a block of rows for a partition
Mapper = Callable[[Any], Iterator[Result]]
Grouped = tuple[int, Iterable[Any]]  # a partition and its blocks, or COUNTERS and counters
Reducer = Callable[[int, Any], Iterator[Result]]  # takes a partition and the table of all its rows

# For smaller inputs, starting worker processes takes longer than the work.
MULTIPROCESS_MIN_BYTES = 8 << 20
# Copies of exchanged data that the embedded runner holds: received, grouped, and in transit.
BUFFER_COPIES = 5
# After smaller pipelines, collecting garbage is not worth the time.
GARBAGE_MIN_BYTES = 1 << 20
COUNTERS = -1  # the key of counters, among the numbers of partitions
_USER_ERROR = "line for the user:"
_ROOT = Path(__file__).resolve().parents[2]


class Engine:
    """Runs pipelines with the configured runner.

    Attributes:
        embedded: whether the embedded runner is used, that is, everything runs on this machine.
    """

    def __init__(
        self, workers: int, flags: Sequence[str], memory: int, log: str | None = None, preload: Sequence[str] = ()
    ):
        """Configures the runner.

        Args:
            workers: number of worker processes of the embedded runner.
            flags: Beam's flags.
            memory: Build.memory, in bytes.
            log: local file to which workers' standard error is appended; None discards it.
            preload: modules to import before worker processes are forked.

        Raises:
            UserError: Beam does not know a flag, or the runner cannot be used.
        """
        self._runner = runners.select(flags)
        self.embedded = self._runner is None
        if workers > 1 and self._runner is not None:
            name = self._runner.name.rpartition(".")[2]
            raise UserError(f"--workers applies to this machine only: {name} has its own flags, after --", EXIT_USAGE)
        self._workers, self._flags, self._memory, self._log = workers, list(flags), memory, log
        self._preload = preload
        self._server: Workers | None = None
        self._reshuffle = not self.embedded  # a single process does not need it
        # worker processes import this package
        path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if str(_ROOT) not in path:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), *path]))
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)

    def close(self) -> None:
        """Ends the worker processes."""
        if self._server is not None:
            self._server.close()

    def passes(self, partitions: int, size: int) -> Iterator[range]:
        """The partitions of each pass, where `size` bytes are exchanged in total and each pass fits in memory."""
        count = min(partitions, self.pass_count(size))
        for number in range(count):
            yield range(partitions * number // count, partitions * (number + 1) // count)

    def pass_count(self, size: int) -> int:
        """How many passes are needed to exchange this many bytes."""
        return max(1, -(-size * BUFFER_COPIES // self._memory)) if self.embedded else 1

    def pass_size(self, size: int) -> int:
        """How many of `size` bytes are exchanged in one pass."""
        return size // self.pass_count(size)

    def partition_count(self, size: int, largest: int) -> int:
        """How many partitions are needed so that a reducer receives at most `largest` bytes, and a small part of the
        memory."""
        return size // (min(largest, self._memory // (2 * BUFFER_COPIES)) if self.embedded else largest) + 1

    def run(
        self, name: str, folder: str, inputs: Iterable[Any], mapper: Mapper, *reducers: Reducer, size: int
    ) -> Counters:
        """Runs a pipeline and waits for it.

        Args:
            name: name of the pipeline, without spaces.
            folder: where the counters are written.
            inputs: the mapper is called with each of them.
            mapper: yields counters, and (partition, block) for the first reducer.
            reducers: each is called with a partition and all rows for it, in no particular order. A reducer yields
                what a mapper yields, for the next one; the last yields counters only.
            size: approximate number of bytes that are read.

        Returns:
            The sum of all counters.

        Raises:
            UserError: the pipeline failed for a reason that the user can fix.
        """
        elements = list(enumerate(inputs))
        if not elements:
            return Counters()
        path = storage.join(folder, f"{name}.json")
        pipeline = self._pipeline(len(elements), size)
        results = pipeline | "Inputs" >> beam.Create(elements, reshuffle=False)
        if self._reshuffle:
            # not beam.Reshuffle, because the keys of its groups are random
            results |= "Distribute" >> beam.GroupByKey()
        else:
            results |= "Single" >> beam.MapTuple(lambda number, element: (number, [element]))
        results |= f"{name}-0" >> beam.ParDo(_Do(_Map(mapper)))
        for number, reducer in enumerate(reducers, 1):
            results |= f"Group{number}" >> beam.GroupByKey()
            results |= f"{name}-{number}" >> beam.ParDo(_Do(_Reduce(reducer)))
        results |= "GroupCounters" >> beam.GroupByKey()
        _ = results | "WriteCounters" >> beam.ParDo(_Do(_WriteCounters(path)))
        self._run(pipeline)
        if size > GARBAGE_MIN_BYTES:
            gc.collect()  # a finished pipeline keeps the exchanged data in reference cycles
        if (data := storage.read(path)) is None:
            raise UserError(
                f"the workers have written {path}, but it is not here: --out must be a folder that this machine and all"
                " workers share"
            )
        return Counters.from_json(json.loads(data))

    def _pipeline(self, elements: int, size: int) -> beam.Pipeline:
        if self._runner is not None:
            return self._runner.pipeline(elements)
        workers = self._workers if size > MULTIPROCESS_MIN_BYTES else 1
        environment = None
        if workers > 1:
            environment = SubprocessSDKEnvironment.from_command_string(self._worker_command())
        options = PipelineOptions([*self._flags, f"--direct_num_workers={workers}"])
        return beam.Pipeline(FnApiRunner(environment), options)

    def _worker_command(self) -> str:
        self._reshuffle = True
        if sys.platform != "linux":  # elsewhere the imported libraries are not fork-safe
            return shlex.join([sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"])
        self._server = self._server or Workers(self._log, self._preload)
        return self._server.command

    def _run(self, pipeline: beam.Pipeline) -> None:
        try:
            if self._runner is not None:
                self._runner.run(pipeline)
                return
            # Beam's threads and worker processes write a line for every closed channel
            with stderr_to(self._log or os.devnull):
                pipeline.run().wait_until_finish()
        except Exception as error:
            if match := re.search(rf"{_USER_ERROR} (\{{.*?\}}) end of line", str(error)):
                message = json.loads(match[1])
                raise UserError(message["line"], message["code"]) from error
            if self._runner is not None and (line := self._runner.message(error)):
                raise UserError(line) from error
            if "Channel closed prematurely" in str(error):
                log = f" (see {self._log})" if self._log else ""
                raise UserError(
                    f"a worker process died{log}: run the same command again to resume; if it ran out of memory,"
                    " use fewer --workers or a smaller Build.memory"
                ) from error
            raise


class _Do(beam.DoFn):
    """Calls a mapper or reducer.

    Errors that the user can fix are encoded in the message of a RuntimeError, because runners wrap exceptions in
    different ways but keep their messages.
    """

    def __init__(self, function: Mapper):
        self._function = function

    def process(self, element: Any) -> Iterator[Any]:
        try:
            for result in self._function(element):
                yield (COUNTERS, result) if isinstance(result, Counters) else result
        except UserError as error:
            raise _encoded(str(error), error.exit_code) from error
        except OSError as error:
            raise _encoded(_file_error(error), EXIT_FAILED) from error


class _Map:
    def __init__(self, mapper: Mapper):
        self._mapper = mapper

    def __call__(self, element: Grouped) -> Iterator[Result]:
        yield Counters()  # so that a pipeline always writes a file of counters
        for value in element[1]:
            yield from self._mapper(value)


class _Reduce:
    def __init__(self, reducer: Reducer):
        self._reducer = reducer

    def __call__(self, element: Grouped) -> Iterator[Result]:
        partition, values = element
        if partition == COUNTERS:
            yield merge(values)
        else:
            yield from self._reducer(partition, tables.concat_blocks(values))


class _WriteCounters:
    def __init__(self, path: str):
        self._path = path

    def __call__(self, element: Grouped) -> Iterator[Result]:
        with storage.open_output(self._path) as file:
            file.write(json.dumps(merge(element[1]).to_json()).encode())
        yield from ()


def _encoded(line: str, code: int) -> RuntimeError:
    return RuntimeError(f"{_USER_ERROR} {json.dumps({'line': line, 'code': code})} end of line")


def _file_error(error: OSError) -> str:
    """The message for a file error, with the fix."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left for {error.filename}: free some space, then run the same command again to resume"
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}: fix this, then run the same command again to resume"
