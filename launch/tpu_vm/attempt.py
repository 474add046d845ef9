"""One attempt to run a job on the hosts of a slice: follows its log across connections, and determines how it ended."""

import json
import logging
import re
import sys
from typing import Any

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from codellama_jax.runtime.distributed import reports_peer_loss
from codellama_jax.runtime.signals import Stopped, StopSignals
from launch.command import execute
from launch.executor import Job, error_line, log_last_lines
from launch.retry import Clock
from launch.source_archive import Archive
from launch.tpu_vm.agent import OFFSET_MARK
from launch.tpu_vm.commands import TpuVmCommands
from launch.tpu_vm.queued_resource import HostRetry, QueuedResource, SliceLost

logger = logging.getLogger(__name__)

_OFFSET_MARK = re.compile(OFFSET_MARK.format(r"(\d+)").encode())


class LogFollower:
    """Prints each line of a log once, although the log arrives over several connections.

    The output of each connection starts with an OFFSET_MARK, which contains the offset of the first byte in the log.
    After a broken connection, gcloud itself reconnects and repeats the command, so that some output arrives twice.

    Attributes:
        printed: number of bytes of the log that were printed.
    """

    def __init__(self) -> None:
        self.printed = 0
        self._offset = 0  # in the log, of the next byte of this connection that is not in _partial_line
        self._partial_line = b""

    def start_connection(self) -> None:
        """Prepares for the output of a new connection."""
        self._partial_line = b""

    def feed(self, chunk: bytes) -> None:
        """Prints the complete lines of `chunk` that are new."""
        # A line that was cut off by the end of a connection precedes the next mark; it is sent again.
        first, *rest = _OFFSET_MARK.split(self._partial_line + chunk)
        self._partial_line = self._print(first)
        for offset, text in zip(rest[::2], rest[1::2], strict=True):
            self._offset = int(offset)
            self._partial_line = self._print(text)

    def _print(self, text: bytes) -> bytes:
        """Prints the complete lines of `text` that are new; returns the incomplete line at its end."""
        *lines, partial_line = text.split(b"\n")
        for line in lines:
            self._offset += len(line) + 1
            if self._offset > self.printed:
                self.printed = self._offset
                sys.stdout.write(line.decode(errors="replace") + "\n")
                sys.stdout.flush()
        return partial_line


class Attempt:
    """One attempt to run a job.

    Args:
        job: the job.
        number: 0 for the first attempt.
        commands: the commands for the slice.
        source: the source code on its hosts.
        slice_: the slice.
        stop: counts stop signals: at the first, the job saves and exits; at the second, the launcher stops waiting.
        clock: measures and waits.
        retry_seconds: how long to reconnect while the cloud does not answer either.
    """

    def __init__(
        self,
        job: Job,
        number: int,
        commands: TpuVmCommands,
        source: Archive,
        slice_: QueuedResource,
        stop: StopSignals,
        clock: Clock,
        retry_seconds: float,
    ):
        self._job, self._number, self._commands, self._source = job, number, commands, source
        self._slice, self._stop, self._clock, self._retry_seconds = slice_, stop, clock, retry_seconds

    def run(self, libtpu_init_args: str) -> tuple[int, str]:
        """Starts the job and follows it until it ends.

        Returns:
            The exit code, and the reason why the job ended if it may be started again, otherwise "".

        Raises:
            SliceLost, SliceDeleted: the slice or a host is gone.
            UserError: the job could not be started.
            Stopped: a stop signal arrived before the job was started, or a second one arrived.
        """
        self._slice.run_on_hosts(self._commands.start(self._job, self._number, self._source, libtpu_init_args))
        follower = LogFollower()
        try:
            self._follow(follower, allowed=0)
        except Stopped:
            logger.info(
                "codellama_jax: stopping: the job saves, then the slice is deleted (a second signal deletes it at once)"
            )
            self._slice.run_on_hosts(self._commands.stop(self._source), allowed=1)
            self._follow(follower, allowed=1)
        return self._interpret(self._results())

    def _follow(self, follower: LogFollower, allowed: int) -> None:
        """Prints the log of host 0 until the job has ended there."""
        printed = follower.printed
        retry = HostRetry(self._slice, self._stop, self._clock, self._retry_seconds)
        while True:
            follower.start_connection()
            command = self._commands.watch(self._job, self._number, self._source, follower.printed)
            result = execute(command, self._stop, allowed, follower.feed)
            if result.code == 0:
                return
            state = self._slice.check_active(allowed)
            if follower.printed > printed:
                retry.reset()
            printed = follower.printed
            retry.wait(state, f"the connection to host 0 ended ({result.reason})", allowed)

    def _results(self) -> list[dict[str, Any]]:
        """How the job ended on each host, as agent.result reports it."""
        command = self._commands.result(self._job, self._number, self._source)
        output = self._slice.run_on_hosts(command, allowed=1)
        return [json.loads(line) for line in output.splitlines() if line.startswith(b"{")]

    def _interpret(self, results: list[dict[str, Any]]) -> tuple[int, str]:
        """The return value of `run`, from the results of all hosts."""
        stage = self._job.stage
        if results and all(result["code"] == EXIT_DONE for result in results):
            return EXIT_DONE, ""
        if any(result["stop_requested"] for result in results):
            return EXIT_INTERRUPTED, ""
        for result in results:
            if result["code"] in (EXIT_FAILED, EXIT_USAGE):
                self._report_failure(result)
                return result["code"], ""
        interrupted = [result for result in results if result["code"] == EXIT_INTERRUPTED]
        if not all(reports_peer_loss(result["last_lines"]) for result in interrupted):
            return EXIT_INTERRUPTED, f"{stage} was preempted after saving"
        for result in results:
            if result["code"] not in (EXIT_DONE, EXIT_INTERRUPTED):
                end = "without an exit code" if result["code"] is None else f"with code {result['code']}"
                raise SliceLost(f"{stage} ended {end} on {result['host']}: {' / '.join(result['last_lines'][-2:])}")
        raise SliceLost("a host was lost")

    def _report_failure(self, result: dict[str, Any]) -> None:
        host, lines = result["host"], result["last_lines"]
        log_last_lines(f"{host} ended with code {result['code']}, its last lines", lines)
        error = error_line(lines) or f"error: {self._job.stage} failed; earlier checkpoints are not affected"
        logger.error(f"{error} ({host})")
