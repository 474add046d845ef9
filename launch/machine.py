"""What this machine is: its cores, its memory."""

import os
from pathlib import Path

from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError

BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two moments of AdamW


def devices() -> str:
    """What there is instead of a TPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'s' if cores != 1 else ''}"


def available_memory() -> int | None:
    """Bytes that a new process may take on this machine, None where that cannot be known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def check_memory(llama: Llama, size: str) -> None:
    """Raises UserError if the training state alone is more than this machine has."""
    needed, here = llama.parameters * BYTES_PER_PARAMETER, available_memory()
    if here is not None and needed > here:
        raise UserError(
            f"size {size} needs at least {needed / 2**30:,.0f} GiB for weights, gradients and optimiser; this machine"
            f" has {here / 2**30:,.0f} GiB free and no TPU: leave the size file out for size local, or run it on a pod"
        )
