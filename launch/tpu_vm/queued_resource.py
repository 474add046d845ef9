"""A slice of TPU VMs: created as a queued resource, possibly preempted, and always deleted at the end."""

import logging
from collections.abc import Callable

from codellama_jax.errors import UserError
from codellama_jax.runtime.signals import StopSignals
from launch import cloud
from launch.command import Command, execute
from launch.source_archive import Archive
from launch.tpu_vm.commands import TpuVmCommands

logger = logging.getLogger(__name__)

WAITING = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES", "")
ABSENT = "ABSENT"  # not a state of the API: the queued resource does not exist
POLL_SECONDS = 15.0
SSH_FAILED = 255  # exit code of ssh if the connection failed, rather than the remote command


class SliceLost(Exception):
    """The slice or one of its hosts is gone; the job can resume on another slice. The message is the reason."""


class SliceDeleted(Exception):
    """The slice was deleted externally; it is not created again."""


class QueuedResource:
    """The slice of an experiment.

    Args:
        commands: the commands for this slice.
        create: the command that creates it.
        source: the source code to install on its hosts.
        stop: counts the signals that ask the launcher to stop.
        pace: multiplier for all waits (tests use less than 1).
    """

    def __init__(self, commands: TpuVmCommands, create: Command, source: Archive, stop: StopSignals, pace: float = 1.0):
        self._commands, self._create_command, self._source = commands, create, source
        self._stop, self._pace = stop, pace
        self._created = self._installed = False

    def make_ready(self) -> None:
        """Creates the slice if it does not exist, waits until it is active, and installs the source on its hosts.

        Raises:
            UserError: it cannot be created.
            SliceLost: it was preempted meanwhile.
            SliceDeleted: it was deleted meanwhile.
            Stopped: a signal asked to stop.
        """
        if not self._created:
            self._create()
        self._wait_until_active()
        if not self._installed:
            for command in (self._commands.copy(self._source), self._commands.install(self._source)):
                self.run_on_hosts(command)
            self._installed = True

    def _create(self) -> None:
        logger.info(f"codellama_jax: creating {self._commands.resource} in {self._commands.zone}")
        result = execute(self._create_command)  # not interruptible: an incomplete creation could not be cleaned up
        if result.code == 0:
            self._created = True
            return
        if "ALREADY_EXISTS" in result.stderr or "already exists" in result.stderr:
            raise UserError(
                f"{self._commands.resource} exists already in {self._commands.zone}, from another launcher or one that"
                " was killed: python xm_launch.py stop NAME --executor=tpu_vm deletes it; or use another --name"
            )
        self._created = self.state()[0] != ABSENT
        raise self._creation_error(result.reason, result.stderr)

    def _creation_error(self, reason: str, message: str) -> UserError:
        where = f"{self._commands.resource} in {self._commands.zone}"
        if "quota" in message.lower() or "RESOURCE_EXHAUSTED" in message:
            remedy = "request more at https://console.cloud.google.com/iam-admin/quotas, or use another --zone"
            return UserError(f"no quota for {where} ({reason}): {remedy}")
        return UserError(f"cannot create {where}: {reason}")

    def _wait_until_active(self) -> None:
        previous = None
        while True:
            state, message = self.state()
            if state == "ACTIVE":
                return
            if state != previous:
                logger.info(f"codellama_jax: {self._commands.resource} is {state or 'in an unknown state'}")
            previous = state
            if state == ABSENT:
                raise SliceDeleted
            if state == "FAILED" and message:
                raise self._creation_error(message, message)
            if state not in WAITING:
                raise SliceLost(f"the slice is {state}")
            self._stop.sleep(POLL_SECONDS * self._pace)

    def state(self) -> tuple[str, str]:
        """The slice's state and the cloud's message about it; the state is "" if it cannot be read."""
        result = execute(self._commands.state())
        if result.code:
            absent = "NOT_FOUND" in result.stderr or "not found" in result.stderr
            return (ABSENT if absent else ""), result.reason
        state, _, message = result.stdout.decode().strip().partition("\t")
        return state, message.strip()

    def check_active(self) -> None:
        """Raises SliceLost or SliceDeleted if the slice is not active. An unknown state counts as active."""
        state, _ = self.state()
        if state == ABSENT:
            raise SliceDeleted
        if state not in ("ACTIVE", ""):
            raise SliceLost(f"the slice was preempted ({state})")

    def run_on_hosts(
        self, command: Command, on_output: Callable[[bytes], None] | None = None, allowed: int = 0
    ) -> bytes:
        """Runs a command on hosts and returns its output.

        Raises:
            UserError: the command failed on a host.
            SliceLost: a host cannot be reached, or the slice is gone.
            SliceDeleted: the slice was deleted.
            Stopped: more than `allowed` signals asked to stop.
        """
        result = execute(command, self._stop, allowed, on_output)
        if result.code == 0:
            return result.stdout
        self.check_active()
        if result.code == SSH_FAILED:
            raise SliceLost("a host cannot be reached")
        raise UserError(f"failed to {command.purpose} (exit code {result.code}: {result.reason})")

    def delete(self) -> None:
        """Deletes the slice if it was created, regardless of stop signals."""
        if not self._created:
            return
        logger.info(f"codellama_jax: deleting {self._commands.resource}")
        if cloud.delete(self._commands.delete(), self._commands.resource, self._is_absent, self._pace):
            self._created = self._installed = False

    def _is_absent(self) -> bool:
        return self.state()[0] == ABSENT
