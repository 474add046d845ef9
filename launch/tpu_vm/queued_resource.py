"""A slice of TPU VMs: created as a queued resource, possibly preempted, and always deleted at the end."""

import logging

from codellama_jax.errors import UserError
from codellama_jax.runtime.signals import StopSignals
from launch import cloud
from launch.answers import Answer, can_change, cannot_be_installed, classify, is_connection_failure
from launch.command import Command, execute
from launch.retry import MAX_SECONDS, Clock, RetriesExhausted, Retry
from launch.source_archive import Archive
from launch.tpu_vm.commands import TpuVmCommands

logger = logging.getLogger(__name__)

WAITING = ("ACCEPTED", "CREATING", "PROVISIONING", "WAITING_FOR_RESOURCES")
DELETING = "DELETING"
ABSENT = "ABSENT"  # not a state of the API: the queued resource does not exist
UNREADABLE = ""  # not a state of the API: the state cannot be read
POLL_SECONDS = 15.0
STATE_MAX_SECONDS = 60.0  # the longest wait between two tries to read the state
# A new host may accept connections only minutes after its slice is ACTIVE, and a network or a package index can fail
# for minutes. A slice whose hosts cannot be used for this long is given up.
HOST_SECONDS, HOST_FIRST_SECONDS, HOST_MAX_SECONDS = 600.0, 5.0, 60.0


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
        clock: measures and waits.
        retry_seconds: how long failures of the cloud that may be temporary are retried.

    Attributes:
        was_active: whether a slice was active before. From then on, most failures of the cloud are retried.
    """

    def __init__(
        self,
        commands: TpuVmCommands,
        create: Command,
        source: Archive,
        stop: StopSignals,
        clock: Clock,
        retry_seconds: float,
    ):
        self._commands, self._create_command, self._source = commands, create, source
        self._stop, self._clock, self._retry_seconds = stop, clock, retry_seconds
        self.was_active = False
        self._created = self._installed = False
        self._may_exist = False  # a creation failed, and the slice may exist nevertheless

    @property
    def may_exist(self) -> bool:
        """Whether a slice of this launcher may exist."""
        return self._created or self._may_exist

    def make_ready(self) -> None:
        """Creates the slice if it does not exist, waits until it is active, and installs the source on its hosts.

        Raises:
            UserError: it cannot be created.
            RetriesExhausted: it could not be created within the time limit.
            SliceLost: it was preempted meanwhile, or its hosts cannot be used.
            SliceDeleted: it was deleted meanwhile.
            Stopped: a signal asked to stop.
        """
        retry = self._cloud_retry()
        while True:
            if not self._created:
                self._create(retry)
            if (refusal := self._wait_until_active()) is None:
                break
            self.delete(final=False)
            retry.wait(refusal)
        if not self._installed:
            self.run_on_hosts(self._commands.copy(self._source))
            self.run_on_hosts(self._commands.install(self._source), installs=True)
            self._installed = True

    # ---------------------------------------------------------------- creation

    def _create(self, retry: Retry) -> None:
        """Creates the slice; repeats the command after failures that may be temporary."""
        resource = self._commands.resource
        logger.info(f"codellama_jax: creating {resource} in {self._commands.zone}")
        while True:
            result = execute(self._create_command)  # not interruptible: an incomplete creation could not be cleaned up
            if result.code == 0:
                self._created, self._may_exist = True, False
                return
            answer, (state, _) = classify(result.stderr), self.state()
            reason = f"{resource} cannot be created ({result.reason})"
            if answer is Answer.EXISTS:
                if self._may_exist and state not in (ABSENT, DELETING, UNREADABLE):
                    self._created = True  # by an earlier try, the answer to which was a failure
                    return
                if not self._may_exist and not self.was_active and state not in (ABSENT, DELETING):
                    raise self._exists_error()
                reason = f"{resource} exists until its deletion is finished ({state or 'its state cannot be read'})"
            else:
                unclear = state == UNREADABLE and answer not in (Answer.PERMANENT, Answer.CREDENTIALS, Answer.NOT_FOUND)
                self._may_exist = unclear or state not in (ABSENT, DELETING, UNREADABLE)
                if not can_change(answer, first=not self.was_active):
                    raise self._creation_error(result.reason, answer)
            retry.wait(reason)

    def check_absent(self) -> None:
        """Raises UserError if the slice exists and is not being deleted, or if its state cannot be read for good."""
        state, message = self.state()
        if state == UNREADABLE and classify(message) in (Answer.PERMANENT, Answer.CREDENTIALS):
            raise self._unreadable_error(message)
        if state not in (ABSENT, DELETING, UNREADABLE):
            raise self._exists_error()

    def _exists_error(self) -> UserError:
        return UserError(
            f"{self._commands.resource} exists already in {self._commands.zone}, from another launcher or one that"
            " was killed: python xm_launch.py stop NAME --executor=tpu_vm deletes it; or use another --name"
        )

    def _unreadable_error(self, reason: str) -> UserError:
        remedy = ": run gcloud auth login" if classify(reason) is Answer.CREDENTIALS else ""
        return UserError(f"the state of {self._commands.resource} cannot be read: {reason}{remedy}")

    def _creation_error(self, reason: str, answer: Answer) -> UserError:
        where = f"{self._commands.resource} in {self._commands.zone}"
        if answer is Answer.EXHAUSTED or "quota" in reason.lower():
            remedy = "request more at https://console.cloud.google.com/iam-admin/quotas, or use another --zone"
            return UserError(f"no quota for {where} ({reason}): {remedy}")
        remedy = ": run gcloud auth login" if answer is Answer.CREDENTIALS else ""
        return UserError(f"cannot create {where}: {reason}{remedy}")

    def _wait_until_active(self) -> str | None:
        """Waits until the slice is active; returns None, or the reason if the cloud cannot create it at the moment."""
        previous, unreadable = None, self._cloud_retry(STATE_MAX_SECONDS)
        while True:
            state, message = self.state(self._stop)
            if state == "ACTIVE":
                self.was_active = True
                return None
            if state == UNREADABLE:
                if classify(message) is Answer.PERMANENT:  # a slice that nobody uses would cost money
                    raise self._unreadable_error(message)
                unreadable.wait(f"the state of {self._commands.resource} cannot be read ({message})")
                continue
            unreadable.reset()
            if state != previous:
                logger.info(f"codellama_jax: {self._commands.resource} is {state}")
            previous = state
            if state == ABSENT:
                raise SliceDeleted
            if state == "FAILED" and message:
                answer = classify(message)
                if not can_change(answer, first=not self.was_active):
                    raise self._creation_error(message, answer)
                return f"{self._commands.resource} cannot be created ({message})"
            if state not in WAITING:
                raise SliceLost(f"the slice is {state}")
            self._clock.sleep(POLL_SECONDS, self._stop)

    # ---------------------------------------------------------------- the state

    def state(self, stop: StopSignals | None = None, allowed: int = 0) -> tuple[str, str]:
        """The slice's state, UNREADABLE or ABSENT, and the cloud's message about it.

        Raises:
            Stopped: more than `allowed` signals asked to stop.
        """
        result = execute(self._commands.state(), stop, allowed)
        if result.code:
            return (ABSENT if classify(result.stderr) is Answer.NOT_FOUND else UNREADABLE), result.reason
        state, _, message = result.stdout.decode().strip().partition("\t")
        return state, message.strip()

    def check_active(self, allowed: int = 0) -> str:
        """Returns the slice's state: ACTIVE, or UNREADABLE, which counts as active.

        Raises:
            SliceLost, SliceDeleted: it is not active.
            Stopped: more than `allowed` signals asked to stop.
        """
        state, _ = self.state(self._stop, allowed)
        if state == ABSENT:
            raise SliceDeleted
        if state not in ("ACTIVE", UNREADABLE):
            raise SliceLost(f"the slice was preempted ({state})")
        return state

    # ---------------------------------------------------------------- its hosts

    def run_on_hosts(self, command: Command, *, installs: bool = False, allowed: int = 0) -> bytes:
        """Runs a command on hosts and returns its output. Repeats it if a host cannot be reached.

        Args:
            command: the command; hosts on which it ran accept it again.
            installs: whether it installs packages, which is also repeated after other failures that may be temporary.
            allowed: number of stop signals that do not end it.

        Raises:
            UserError: the command failed on a host.
            SliceLost: a host could not be reached for HOST_SECONDS, or the slice is gone.
            SliceDeleted: the slice was deleted.
            Stopped: more than `allowed` signals asked to stop.
        """
        retry = HostRetry(self, self._stop, self._clock, self._retry_seconds)
        while True:
            result = execute(command, self._stop, allowed)
            if result.code == 0:
                return result.stdout
            state = self.check_active(allowed)
            failure = f"failed to {command.purpose} (exit code {result.code}: {result.reason})"
            can_pass = is_connection_failure(result.code, result.stderr)
            if not can_pass and not (installs and not cannot_be_installed(result.stderr)):
                raise UserError(failure)
            retry.wait(state, failure, allowed)

    # ---------------------------------------------------------------- deletion

    def delete(self, *, final: bool) -> None:
        """Deletes the slice if it may exist.

        Args:
            final: the launcher ends. Stop signals that have arrived are ignored, and the time limit is short; a slice
                that could not be deleted is logged with the command that deletes it.

        Raises:
            Stopped: not `final`, and a signal asked to stop.
        """
        if not self.may_exist:
            return
        logger.info(f"codellama_jax: deleting {self._commands.resource}")
        limit = cloud.DELETE_SECONDS if final else self._retry_seconds
        retry = cloud.delete_retry(self._clock, self._stop, limit)
        allowed = self._stop.count if final else 0
        command, resource = self._commands.delete(), self._commands.resource
        if cloud.delete(command, resource, retry, lambda: self.state()[0] == ABSENT, allowed=allowed, final=final):
            self._created = self._installed = self._may_exist = False

    def _cloud_retry(self, max_seconds: float = MAX_SECONDS) -> Retry:
        """The waits after failures of the cloud."""
        return Retry(self._clock, self._stop, self._retry_seconds, max_seconds=max_seconds)


class HostRetry:
    """The waits after failures to reach a host.

    While the cloud does not answer either, the slice is not given up: the network of this machine may have failed.

    Args:
        slice_: the slice of the host.
        stop: signals that end a wait.
        clock: measures and waits.
        retry_seconds: how long to wait while the cloud does not answer either.
    """

    def __init__(self, slice_: QueuedResource, stop: StopSignals, clock: Clock, retry_seconds: float):
        self._slice = slice_
        self._host = Retry(clock, stop, HOST_SECONDS, HOST_FIRST_SECONDS, HOST_MAX_SECONDS)
        self._cloud = Retry(clock, stop, retry_seconds, HOST_FIRST_SECONDS, HOST_MAX_SECONDS)

    def reset(self) -> None:
        """The host was reached: the next failure is the first one."""
        self._host.reset()
        self._cloud.reset()

    def wait(self, state: str, reason: str, allowed: int = 0) -> None:
        """Waits after a failure.

        Args:
            state: of the slice, from `check_active`.
            reason: why the last try failed.
            allowed: number of stop signals that do not end the wait.

        Raises:
            SliceLost: the cloud answers, but the host cannot be reached for HOST_SECONDS.
            RetriesExhausted: neither can be reached for the time limit.
            Stopped: more than `allowed` signals asked to stop.
        """
        if state == UNREADABLE:
            self._host.reset()
            self._cloud.wait(f"{reason}; the state of the slice cannot be read either", allowed)
            return
        self._cloud.reset()
        try:
            self._host.wait(reason, allowed)
        except RetriesExhausted as exhausted:
            raise SliceLost(str(exhausted)) from exhausted
