"""The processes of one run: how they meet, and what the user reads when one is lost."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE, UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30  # without a sign of life for so long, a process is taken for dead
LOST = (
    "another process of this run has ended, or cannot be reached; what was saved is untouched, start all of them again"
    " with the same command: they go on from the last checkpoint"
)
_SIGNS = ("Gloo", "coordination service", "CoordinationService", "heartbeat", "preempted", "Connection reset")
_kept: list[Any] = []  # what C holds on to


def join() -> None:
    """Joins the other processes of the run, if the environment names them; before JAX sees its devices.

    Raises:
        UserError: what the environment says of them cannot be.
    """
    values = [os.environ.get(name, "") for name in VARIABLES]
    if not any(values):
        return
    address, processes, process = values
    if not (address and processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        given = " ".join(f"{name}={value}" for name, value in zip(VARIABLES, values, strict=True))
        raise UserError(f"{given}: they are host:port, how many processes there are, and which this is", EXIT_USAGE)
    import jax

    try:
        jax.distributed.initialize(address, int(processes), int(process), heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"the {processes} processes of this run did not meet at {address} ({reason})") from error
    _speak_at_abort()


def lost(error: BaseException) -> bool:
    """Whether this says that another process is gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def leave_at_once(main: Callable[[], int]) -> int:
    """What main returns; if it fails, and there are other processes, the process ends without waiting for them.

    Python's end would: JAX's own waits there until every process is at its end as well.
    """
    try:
        code = main()
    except Exception:
        if not _kept:
            raise
        traceback.print_exc()
        code = EXIT_FAILED
    if code in (EXIT_FAILED, EXIT_USAGE) and _kept:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _speak_at_abort() -> None:
    """JAX aborts a process from a thread in C++ when the one that coordinates is gone: the last word should be ours."""

    def at_abort(number: int) -> None:
        os.write(2, f"error: {LOST}\n".encode())
        os._exit(EXIT_FAILED)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(at_abort)
    _kept.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
