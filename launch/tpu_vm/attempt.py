"""One start of a job on the hosts of a slice: followed through broken connections, and its end understood."""

import json
import re
import sys
from typing import Any

from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from codellama_jax.runtime.distributed import reports_peer_loss
from launch.command import execute
from launch.job import Job
from launch.signals import Stopped, StopRequests
from launch.source_archive import Archive
from launch.tpu_vm.agent import MARK
from launch.tpu_vm.commands import TpuVmCommands
from launch.tpu_vm.queued_resource import Lost, QueuedResource, say

DROPS = 8  # broken connections in a row, with nothing said between them, after which host 0 is taken for lost
DROP_SECONDS = 5.0


_MARK = re.compile(MARK.format(r"(\d+)").encode())


class Follower:
    """Puts together what a job says from connections that break: each begins with the byte at which it begins.

    gcloud makes a broken connection again by itself, with the same command, so that what was seen comes twice.

    Attributes:
        position: bytes that were printed.
    """

    def __init__(self) -> None:
        self.position = 0
        self._at = 0  # where the connection in hand is
        self._held = b""  # a line that is not whole

    def begin(self) -> None:
        """A new connection."""
        self._held = b""

    def feed(self, chunk: bytes) -> None:
        """Prints what is new."""
        # A line that was cut by the end of a connection stands before the mark of the next one, and comes again.
        first, *others = _MARK.split(self._held + chunk)
        self._held = self._print(first)
        for position, text in zip(others[::2], others[1::2], strict=True):
            self._at = int(position)
            self._held = self._print(text)

    def _print(self, text: bytes) -> bytes:
        """Prints the whole lines that are new; returns what is behind them."""
        *lines, rest = text.split(b"\n")
        for line in lines:
            self._at += len(line) + 1
            if self._at > self.position:
                self.position = self._at
                sys.stdout.write(line.decode(errors="replace") + "\n")
                sys.stdout.flush()
        return rest


class Attempt:
    """One start of a job.

    Args:
        job: what to start.
        number: which start of it this is.
        commands: about the slice.
        source: that its hosts have.
        slice_: where.
        asked: requests to stop: the first has the job save and end, the second leaves it.
        pace: seconds of waiting for each that is meant.
    """

    def __init__(
        self,
        job: Job,
        number: int,
        commands: TpuVmCommands,
        source: Archive,
        slice_: QueuedResource,
        asked: StopRequests,
        pace: float,
    ):
        self._job, self._number, self._commands, self._source = job, number, commands, source
        self._slice, self._asked, self._pace = slice_, asked, pace

    def run(self, libtpu_init_args: str) -> tuple[int, str]:
        """Starts the job and follows it to its end; returns the exit code and, if it may go on, why it ended.

        Raises:
            Lost, Deleted: the slice or a host is gone.
            UserError: the job could not be started.
            Stopped: a signal asked to stop before there was anything to save, or a second one did not want to wait.
        """
        self._slice.on_hosts(self._commands.start(self._job, self._number, self._source, libtpu_init_args))
        follower = Follower()
        try:
            self._follow(follower, allowed=0)
        except Stopped:
            say("codellama_jax: stopping: the job saves, then the slice is deleted (a second signal does not wait)")
            self._slice.on_hosts(self._commands.stop(self._source), allowed=1)
            self._follow(follower, allowed=1)
        return self._ended(self._results())

    def _follow(self, follower: Follower, allowed: int) -> None:
        """Returns when the job has ended on host 0."""
        drops, position = 0, follower.position
        while True:
            follower.begin()
            command = self._commands.watch(self._job, self._number, self._source, follower.position)
            if execute(command, self._asked, allowed, follower.feed).code == 0:
                return
            self._slice.check_there()
            drops = 1 if follower.position > position else drops + 1
            position = follower.position
            if drops > DROPS:
                raise Lost("host 0 cannot be reached")
            self._asked.sleep(DROP_SECONDS * self._pace, allowed)

    def _results(self) -> list[dict[str, Any]]:
        command = self._commands.result(self._job, self._number, self._source)
        out = self._slice.on_hosts(command, allowed=1)
        return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]

    def _ended(self, results: list[dict[str, Any]]) -> tuple[int, str]:
        codes = [result["code"] for result in results]
        stage = self._job.stage
        if results and all(code == EXIT_DONE for code in codes):
            return EXIT_DONE, ""
        if any(result["asked"] for result in results):
            return EXIT_INTERRUPTED, ""
        for result in results:
            if result["code"] in (EXIT_FAILED, EXIT_USAGE):
                return self._failed(result), ""
        stopped = [result for result in results if result["code"] == EXIT_INTERRUPTED]
        if not all(reports_peer_loss(result["last_lines"]) for result in stopped):
            return EXIT_INTERRUPTED, f"{stage} was preempted after saving"
        for result in results:
            if result["code"] not in (EXIT_DONE, EXIT_INTERRUPTED):
                how = "without a code" if result["code"] is None else f"with code {result['code']}"
                raise Lost(f"{stage} ended {how} on {result['host']}: {' / '.join(result['last_lines'][-2:])}")
        raise Lost("a host was lost")

    def _failed(self, result: dict[str, Any]) -> int:
        print(f"codellama_jax: {result['host']} ended with code {result['code']}, its last lines:", file=sys.stderr)
        for line in result["last_lines"]:
            print(f"    {line}", file=sys.stderr)
        said = [line for line in result["last_lines"] if line.startswith("error: ")]
        line = said[-1] if said else f"error: {self._job.stage} failed; what was saved is untouched"
        print(f"{line} ({result['host']})", file=sys.stderr)
        return result["code"]
