"""A slice of TPU VMs that is queued for, may be taken away, and is always deleted in the end."""

import functools
import sys
import time
from collections.abc import Callable

from codellama_jax.errors import UserError
from launch.command import Command, execute
from launch.signals import StopRequests
from launch.source_archive import Archive
from launch.tpu_vm.commands import TpuVmCommands

WAITING = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES", "")
ABSENT = "ABSENT"  # our word for: there is none
POLL_SECONDS = 15.0
DELETE_TRIES = 4
UNREACHABLE = 255  # of ssh, when it is not the remote command that failed


class Lost(Exception):
    """The slice, or one of its hosts, is gone: with another slice the job can go on. The message is the reason."""


class Deleted(Exception):
    """Somebody else deleted the slice, who will have meant it."""


say = functools.partial(print, flush=True)


class QueuedResource:
    """The slice of an experiment.

    Args:
        commands: about it.
        create: the command that creates it.
        archive: the source that its hosts get.
        asked: requests to stop.
        pace: seconds of waiting for each that is meant; less in tests.
    """

    def __init__(
        self, commands: TpuVmCommands, create: Command, archive: Archive, asked: StopRequests, pace: float = 1.0
    ):
        self._commands, self._create, self._archive, self._asked = commands, create, archive, asked
        self._pace, self._created, self._installed = pace, False, False

    def make_ready(self) -> None:
        """Creates the slice if there is none, waits for it, and installs the source on its hosts.

        Raises:
            UserError: it cannot be created.
            Lost: it was taken away meanwhile.
            Deleted: it was deleted meanwhile.
            Stopped: a signal asked to stop.
        """
        if not self._created:
            self._try_to_create()
        self._wait()
        if not self._installed:
            for step in (self._commands.copy(self._archive), self._commands.install(self._archive)):
                self.on_hosts(step)
            self._installed = True

    def _try_to_create(self) -> None:
        say(f"codellama_jax: creating {self._commands.resource} in {self._commands.zone}")
        made = execute(self._create)  # never cut short: what is half created would not be known of
        if made.code == 0:
            self._created = True
            return
        if "ALREADY_EXISTS" in made.err or "already exists" in made.err:
            raise UserError(
                f"{self._commands.resource} exists already in {self._commands.zone}: another launcher uses it, or one"
                f" was killed: python xm_launch.py stop NAME --executor=tpu_vm deletes it; or use another --name"
            )
        self._created = self.state()[0] != ABSENT
        raise UserError(self._refused(made.reason, made.err))

    def _refused(self, reason: str, text: str) -> str:
        if "quota" in text.lower() or "RESOURCE_EXHAUSTED" in text:
            cure = "ask for more at https://console.cloud.google.com/iam-admin/quotas, or take another --zone"
            return f"no quota for {self._commands.resource} in {self._commands.zone} ({reason}): {cure}"
        return f"{self._commands.resource} cannot be created in {self._commands.zone}: {reason}"

    def _wait(self) -> None:
        seen = None
        while True:
            state, message = self.state()
            if state == "ACTIVE":
                return
            if state != seen:
                say(f"codellama_jax: {self._commands.resource} is {state or 'not known yet'}")
            seen = state
            if state == ABSENT:
                raise Deleted
            if state == "FAILED" and message:
                raise UserError(self._refused(message, message))
            if state not in WAITING:
                raise Lost(f"the slice is {state}")
            self._asked.sleep(POLL_SECONDS * self._pace)

    def state(self) -> tuple[str, str]:
        """Its state, and what there is to say of it; "" where the cloud does not answer."""
        found = execute(self._commands.state())
        if found.code:
            absent = "NOT_FOUND" in found.err or "not found" in found.err
            return (ABSENT if absent else ""), found.reason
        state, _, message = found.out.decode().strip().partition("\t")
        return state, message.strip()

    def check_there(self) -> None:
        """Returns if it is active, or the cloud does not answer. Raises Lost or Deleted."""
        state, _ = self.state()
        if state == ABSENT:
            raise Deleted
        if state not in ("ACTIVE", ""):
            raise Lost(f"the slice was taken away ({state})")

    def on_hosts(self, command: Command, seen: Callable[[bytes], None] | None = None, allowed: int = 0) -> bytes:
        """Runs a command on hosts and returns its output.

        Raises:
            UserError: it failed there.
            Lost: a host cannot be reached, or the slice is gone.
            Deleted: the slice was deleted.
            Stopped: more than `allowed` signals asked to stop.
        """
        ended = execute(command, self._asked, allowed, seen)
        if ended.code == 0:
            return ended.out
        self.check_there()
        if ended.code == UNREACHABLE:
            raise Lost("a host cannot be reached")
        raise UserError(f"could not {command.why} (exit code {ended.code}: {ended.reason})")

    def delete(self) -> None:
        """Deletes it, if it was created; signals that come meanwhile change nothing."""
        if not self._created:
            return
        say(f"codellama_jax: deleting {self._commands.resource}")
        command = self._commands.delete()
        for number in range(DELETE_TRIES):
            ended = execute(command)
            if ended.code == 0 or self.state()[0] == ABSENT:
                self._created = self._installed = False
                return
            time.sleep(2**number * self._pace)
        lines = f"{self._commands.resource} could not be deleted ({ended.reason}) and costs money: {command.shown()}"
        print(f"codellama_jax: {lines}", file=sys.stderr)
