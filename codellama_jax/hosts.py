"""The processes of one run: how they meet, and what the user reads when one is lost."""

import os

from codellama_jax.errors import EXIT_USAGE, UserError

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT_SECONDS = 30  # without a sign of life for so long, a process is taken for dead


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

    jax.distributed.initialize(address, int(processes), int(process), heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
