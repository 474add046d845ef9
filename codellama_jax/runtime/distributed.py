"""The processes of one run: how they meet, and what the user reads when one is lost."""

import contextlib
import ctypes
import glob
import hashlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from codellama_jax.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError, first_line

ENVIRONMENT_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30  # without a sign of life for so long, a process is taken for dead
PEER_LOST = (
    "another process of this run has ended, or cannot be reached; what was saved is untouched, start all of them again"
    " with the same command: they go on from the last checkpoint"
)
_SIGNS = ("Gloo", "coordination service", "CoordinationService", "heartbeat", "preempted", "Connection reset")
_kept: list[Any] = []  # what C holds on to
_failed = threading.Event()  # set once this process ends by an error


def initialize() -> None:
    """Joins the other processes of the run, if the environment names them or this is a host of TPUs; before JAX sees
    its devices.

    Raises:
        UserError: what the environment says of them cannot be.
    """
    values = [os.environ.get(name, "") for name in ENVIRONMENT_VARIABLES]
    if not any(values):
        if tpu_chips():  # the hosts of a slice find each other
            _initialize()
        return
    address, processes, process = values
    if not (address and processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        given = " ".join(f"{name}={value}" for name, value in zip(ENVIRONMENT_VARIABLES, values, strict=True))
        raise UserError(f"{given}: they are host:port, how many processes there are, and which this is", EXIT_USAGE)
    _initialize(coordinator_address=address, num_processes=int(processes), process_id=int(process))


def _initialize(**which: Any) -> None:
    import jax

    try:
        jax.distributed.initialize(**which, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        code = EXIT_INTERRUPTED if isinstance(error, RuntimeError) else EXIT_FAILED  # one came too late, or never
        line = f"the processes of this run did not meet ({first_line(error)}): start all of them again"
        raise UserError(line, code) from error
    _speak_at_abort()


def tpu_chips() -> int:
    """TPU chips of this machine, by their device files: asking JAX would take seconds, and the chips."""
    return len(glob.glob("/dev/accel[0-9]*")) or len(glob.glob("/dev/vfio/[0-9]*"))


def check_hosts_agree(**said: str) -> None:
    """Returns if every process says the same.

    Raises:
        UserError: one does not; raised in all of them.
    """
    import jax

    if jax.process_count() == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    digests = [np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8) for text in said.values()]
    every = np.asarray(multihost_utils.process_allgather(np.stack(digests)))
    for what, of_hosts in zip(said, every.swapaxes(0, 1), strict=True):
        others = [str(host) for host, digest in enumerate(of_hosts) if not np.array_equal(digest, of_hosts[0])]
        if others:
            raise UserError(
                f"host {', '.join(others)} has another {what} than host 0: install the same source, and give the same"
                " files and flags, on every host"
            )


def is_peer_loss(error: BaseException) -> bool:
    """Whether this says that another process is gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def reports_peer_loss(last_lines: Iterable[str]) -> bool:
    """Whether a process that said this last has itself only lost another."""
    return any(PEER_LOST in line for line in last_lines)


@contextlib.contextmanager
def peer_loss_as_user_error() -> Iterator[None]:
    """Turns errors that only say that another process is gone into one for people: nothing is wrong here. What is
    raised, this or another error, has the process leave at once.

    Raises:
        UserError: in their place, with EXIT_INTERRUPTED.
    """
    try:
        yield
    except Exception as error:
        _failed.set()
        if not is_peer_loss(error):
            raise
        raise UserError(PEER_LOST, EXIT_INTERRUPTED) from error


def exit_without_barrier(main: Callable[[], int]) -> int:
    """What main returns; if it ended by an error, the process ends without waiting for the others.

    Python's end would: JAX's own waits there until every process is at its end as well.
    """
    try:
        code = main()
    except Exception:
        if not _kept:
            raise
        traceback.print_exc()
        code = EXIT_FAILED
    if _kept and (code in (EXIT_FAILED, EXIT_USAGE) or _failed.is_set()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _speak_at_abort() -> None:
    """JAX aborts a process from a thread in C++ when the one that coordinates is gone: the last word should be ours."""

    def at_abort(number: int) -> None:
        os.write(2, f"error: {PEER_LOST}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(at_abort)
    _kept.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
