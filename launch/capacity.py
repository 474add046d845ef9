"""Checks that stages fit into the memory of their devices, and estimates their cost, before anything is created."""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from codellama_jax.config.lora import OFF, Lora
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning import libtpu_flags
from codellama_jax.planning.chips import CHIPS, GiB, Topology, topology
from launch.executor import Job

# ---------------------------------------------------------------- slices of TPUs

# If the calculated peak exceeds this multiple of a device's memory, the slice is ruled out without compiling. The error
# of the calculation is smaller.
TOO_LARGE_FACTOR = 1.15


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The planner's estimate for a stage on a slice.

    Attributes:
        peak_bytes: memory that each device needs.
        fits: whether each device has this much memory.
        chip_hours: for the complete stage; None if it does not fit.
        method: how the estimate was made, for messages.
    """

    peak_bytes: int
    fits: bool
    chip_hours: float | None
    method: str


Estimator = Callable[[Config, Topology], Estimate]


def estimate_stage(
    config: Config, slice_: Topology, *, calculate: bool = False, libtpu_bundle: str = libtpu_flags.FAST
) -> Estimate:
    """The planner's estimate: from the compiler or its cache, or calculated with formulas.

    Args:
        config: the configuration of the stage.
        slice_: the slice.
        calculate: use formulas even if libtpu, which has the compiler, is installed.
        libtpu_bundle: flags of the compiler (planning/libtpu_flags.py).

    Raises:
        UserError: the stage cannot be sharded over the slice with its mesh settings.
    """
    from codellama_jax.planning import estimate
    from codellama_jax.planning.aot_compile import Compiler
    from codellama_jax.planning.progress import Progress
    from codellama_jax.planning.step_config import with_vocabulary
    from codellama_jax.planning.summary import summarize

    config = with_vocabulary(config, config.tokenizer)
    if calculate or importlib.util.find_spec("libtpu") is None:
        peak = estimate.peak_bytes(config, slice_)
        fits = peak <= slice_.chip.hbm_bytes
        hours = estimate.chip_hours(config, slice_) if fits else None
        return Estimate(peak, fits, hours, "calculated without the compiler, which needs libtpu")
    progress = Progress()
    progress.title = f"{config.stage.size} {config.stage.name} on {slice_.name}"
    facts = Compiler(progress, libtpu_bundle).analyze(config, slice_, estimate=False)
    if not facts["fits"]:
        return Estimate(facts["peak_bytes"], False, None, "compiled")
    summary = summarize(config, slice_, facts)
    if summary["chip_hours"]:
        return Estimate(facts["peak_bytes"], True, summary["chip_hours"], "compiled, time estimated")
    return Estimate(facts["peak_bytes"], True, summary["bound_chip_hours"], "compiled, lower bound of the time")


def estimator(libtpu_bundle: str) -> Estimator:
    """estimate_stage with these flags of the compiler."""
    return functools.partial(estimate_stage, libtpu_bundle=libtpu_bundle)


def check_slice(jobs: Sequence[Job], slice_: Topology, estimator: Estimator = estimate_stage) -> list[Estimate]:
    """Returns the estimate for each job on the slice.

    Raises:
        UserError: a job does not fit or cannot be sharded over the slice; names the smallest slice that fits all jobs.
    """
    estimates = []
    for job in jobs:
        estimate = estimator(job.config, slice_)
        estimates.append(estimate)
        if not estimate.fits:
            needed, available = estimate.peak_bytes / GiB, slice_.chip.hbm_bytes / GiB
            raise UserError(
                f"{job.config.stage.size} {job.stage} does not fit {slice_.name}: it needs {needed:,.1f} GiB per"
                f" device, which has {available:.1f} ({estimate.method}); {_remedy(jobs, slice_, estimator)}",
                EXIT_USAGE,
            )
    return estimates


def _remedy(jobs: Sequence[Job], slice_: Topology, estimator: Estimator) -> str:
    smallest = next((larger for larger in standard_slices(slice_) if _all_fit(jobs, larger, estimator)), None)
    search = "python -m codellama_jax.plan --search looks for settings that fit"
    if smallest is None:
        others = ", ".join(name for name in CHIPS if name != slice_.chip.name)
        return f"no slice of {slice_.chip.name} fits with the present settings: {search}; or use {others}"
    fitting = f"--topology={smallest.slice_name} ({smallest.cloud_name})"
    return f"the smallest slice that fits is {fitting}; {search} this one"


def standard_slices(like: Topology) -> Iterator[Topology]:
    """The slices of the same generation in the default shapes of the cloud, from one host up."""
    power = 1
    while True:
        try:
            yield topology(f"{like.chip.name}-{like.chip.host_chips * like.chip.cloud[1] * power}", like.slices)
        except UserError:
            return
        power *= 2


def _all_fit(jobs: Sequence[Job], slice_: Topology, estimator: Estimator) -> bool:
    try:
        limit = TOO_LARGE_FACTOR * slice_.chip.hbm_bytes
        if any(estimate_stage(job.config, slice_, calculate=True).peak_bytes > limit for job in jobs):
            return False
        return all(estimator(job.config, slice_).fits for job in jobs)
    except UserError:
        return False  # cannot be sharded over this slice


# ---------------------------------------------------------------- this machine

BYTES_PER_PARAMETER = 16  # float32 weight, gradient and the two moments of AdamW


def cpus() -> str:
    """The CPU cores that this process may use, such as "8 CPU cores"."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} CPU core{'s' if cores != 1 else ''}"


def available_memory() -> int | None:
    """Bytes of memory that a new process can allocate on this machine; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def check_memory(llama: Llama, size: str, lora: Lora = OFF) -> None:
    """Raises UserError if the training state alone exceeds the memory of this machine."""
    needed, available = llama.parameters * BYTES_PER_PARAMETER, available_memory()
    if lora.rank:
        needed = lora.frozen_bytes(llama) + lora.parameters(llama) * BYTES_PER_PARAMETER
    if available is not None and needed > available:
        raise UserError(
            f"size {size} needs at least {needed / 2**30:,.0f} GiB for weights, gradients and optimizer state; this"
            f" machine has {available / 2**30:,.0f} GiB free and no TPU: leave the size file out for size local, or run"
            " on a TPU slice (docs/launching.md)"
        )
