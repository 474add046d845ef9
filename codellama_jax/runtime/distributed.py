"""The processes of one run: how they start together, and how the loss of one is reported."""

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
HEARTBEAT_SECONDS = 30  # a process that sends no heartbeat for this long is considered dead
PEER_LOST = (
    "another process of this run has ended or cannot be reached; saved checkpoints are not affected, start all"
    " processes again with the same command: they resume from the last checkpoint"
)
_PEER_LOSS_WORDS = ("Gloo", "coordination service", "CoordinationService", "heartbeat", "preempted", "Connection reset")
_abort_handlers: list[Any] = []  # set by `initialize`; C code holds pointers to them, so they must stay alive
_failed = threading.Event()  # set when an error ends this process


def initialize() -> None:
    """Connects to the other processes of the run, if the environment names them or this is a TPU host.

    Call it before JAX initialises its devices.

    Raises:
        UserError: the environment variables are invalid, or the processes did not connect in time.
    """
    values = [os.environ.get(name, "") for name in ENVIRONMENT_VARIABLES]
    if not any(values):
        if tpu_chips():  # the hosts of a slice find each other
            _initialize()
        return
    address, processes, process = values
    if not (address and processes.isdigit() and process.isdigit() and int(process) < int(processes)):
        variables = " ".join(f"{name}={value}" for name, value in zip(ENVIRONMENT_VARIABLES, values, strict=True))
        raise UserError(
            f"{variables}: they must be host:port, the number of processes, and the number of this process", EXIT_USAGE
        )
    _initialize(coordinator_address=address, num_processes=int(processes), process_id=int(process))


def _initialize(**arguments: Any) -> None:
    import jax

    try:
        jax.distributed.initialize(**arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        code = EXIT_INTERRUPTED if isinstance(error, RuntimeError) else EXIT_FAILED  # RuntimeError: a process was late
        raise UserError(
            f"the processes of this run did not connect ({first_line(error)}): start all of them again", code
        ) from error
    _report_peer_loss_on_abort()


def tpu_chips() -> int:
    """The number of TPU chips of this host, from their device files: JAX would take seconds and open the chips."""
    return len(glob.glob("/dev/accel[0-9]*")) or len(glob.glob("/dev/vfio/[0-9]*"))


def check_hosts_agree(**values: str) -> None:
    """Checks that every process passes the same values. A collective: all processes must call it.

    Raises:
        UserError: a value differs; the message names its keyword. Raised in all processes.
    """
    import jax

    if jax.process_count() == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    digests = [np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8) for value in values.values()]
    all_digests = np.asarray(multihost_utils.process_allgather(np.stack(digests)))  # [hosts, values, 32]
    for name, host_digests in zip(values, all_digests.swapaxes(0, 1), strict=True):
        others = [str(host) for host, digest in enumerate(host_digests) if not np.array_equal(digest, host_digests[0])]
        if others:
            raise UserError(
                f"host {', '.join(others)} has a different {name} than host 0: install the same source, and pass the"
                " same files and flags, on every host"
            )


def from_host_0(value: Any) -> Any:
    """The NumPy array that process 0 has. A collective."""
    import jax

    if jax.process_count() == 1:
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(value))


def is_peer_loss(error: BaseException) -> bool:
    """Whether an error was caused by the loss of another process."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _PEER_LOSS_WORDS)


def reports_peer_loss(last_lines: Iterable[str]) -> bool:
    """Whether a process with these last lines of output ended because it lost another one."""
    return any(PEER_LOST in line for line in last_lines)


@contextlib.contextmanager
def peer_loss_as_user_error() -> Iterator[None]:
    """Converts errors caused by the loss of another process to UserError.

    After any error in this block, `exit_without_barrier` does not wait for the other processes.

    Raises:
        UserError: with EXIT_INTERRUPTED.
    """
    try:
        yield
    except Exception as error:
        _failed.set()
        if not is_peer_loss(error):
            raise
        raise UserError(PEER_LOST, EXIT_INTERRUPTED) from error


def exit_without_barrier(main: Callable[[], int]) -> int:
    """Runs main and returns its exit code. If it failed in a run of several processes, ends the process at once.

    A normal exit would block: JAX's exit handler waits until every process exits.
    """
    try:
        code = main()
    except Exception:
        if not _abort_handlers:
            raise
        traceback.print_exc()
        code = EXIT_FAILED
    if _abort_handlers and (code in (EXIT_FAILED, EXIT_USAGE) or _failed.is_set()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _report_peer_loss_on_abort() -> None:
    """Handles SIGABRT: when the coordinator is lost, a C++ thread of JAX aborts the process, without a Python error."""

    def on_abort(number: int) -> None:
        os.write(2, f"error: {PEER_LOST}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(on_abort)
    _abort_handlers.append(handler)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)
