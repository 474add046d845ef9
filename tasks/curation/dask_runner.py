"""Beam's runner for a Dask cluster.

It translates Create, ParDo with one output, and GroupByKey. Outputs of a ParDo are not separated by their tags, and
metrics do not exist, so pipelines use neither (engine.py).
"""

import asyncio
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import distributed
from apache_beam.runners.dask.dask_runner import DaskOptions
from apache_beam.runners.runner import create_runner

from codellama_jax.errors import UserError, first_line
from tasks.curation.runner import Runner, options

# Partitions of the exchanged data for each thread of the cluster. More partitions balance the load better; the number
# of tasks grows with their square.
PARTITIONS_PER_THREAD = 4
SECONDS_FOR_WORKERS = 30  # until the first worker connects
_RERUN = "run the same command again to resume"
_LOST = f"the connection to the Dask scheduler was lost: {_RERUN}"


class Dask(Runner):
    """DaskRunner, with as many partitions as the cluster needs unless a flag sets their number."""

    def __init__(self, name: str, flags: Sequence[str]):
        super().__init__(name, flags)
        for logger in [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]:
            logging.getLogger(logger).setLevel(logging.CRITICAL)  # it writes tracebacks of lost connections
        arguments = options(flags).view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
        self._partitions_given = not {"npartitions", "partition_size"}.isdisjoint(arguments)
        self._address = arguments.get("address")
        self._scheduler = {name: arguments[name] for name in ("address", "scheduler_file") if name in arguments}
        self._timeout = arguments.get("timeout")

    def pipeline(self, elements: int) -> beam.Pipeline:
        flags = list(self._flags)
        threads = self._count_threads()
        if not self._partitions_given:
            flags.append(f"--dask_npartitions={max(1, min(elements, PARTITIONS_PER_THREAD * threads))}")
        return beam.Pipeline(create_runner(self.name), options(flags))

    def _count_threads(self) -> int:
        """The number of threads of the cluster's workers.

        Raises:
            UserError: there is no scheduler, or it has no worker.
        """
        if not self._scheduler:
            return os.cpu_count() or 1  # Dask starts a cluster on this machine for each pipeline
        where = f"the Dask scheduler at {' '.join(map(str, self._scheduler.values()))}"
        try:
            # before the client, which writes a traceback when it fails to connect
            asyncio.run(_connect(self._address or _address_in(self._scheduler["scheduler_file"]), self._timeout))
        except (OSError, ValueError, LookupError) as error:
            raise UserError(f"{where} does not answer ({first_line(error)}): start it with `dask scheduler`") from error
        with distributed.Client(**self._scheduler, set_as_default=False) as client:
            try:
                client.wait_for_workers(1, timeout=SECONDS_FOR_WORKERS)
            except TimeoutError as error:
                raise UserError(f"{where} has no workers: start some with `dask worker ADDRESS`") from error
            return sum(client.nthreads().values())

    def message(self, error: Exception) -> str | None:
        if isinstance(error, distributed.KilledWorker):
            return (
                f"{error.allowed_failures + 1} Dask workers died in the same task: give them more memory, then {_RERUN}"
            )
        if isinstance(error, distributed.client.FutureCancelledError | distributed.comm.CommClosedError):
            return _LOST
        if "deserialization of the task graph" in str(error):
            cause = error.__cause__ or "their packages differ from those here"
            return f"Dask cannot load the pipeline ({cause}): install this package where its scheduler and workers run"
        return super().message(error)

    def _wait(self, result: Any) -> None:
        with result.client:  # at its end, the scheduler drops the data of the pipeline
            super()._wait(result)
            # the runner does not report a lost connection, after which the futures are cancelled
            if any(future.status != "finished" for future in result.futures):
                raise UserError(_LOST)


async def _connect(address: str, timeout: int | None) -> None:
    comm = await distributed.comm.connect(address, timeout=timeout)
    await comm.close()


def _address_in(scheduler_file: str) -> str:
    return json.loads(Path(scheduler_file).read_text())["address"]
