"""Whether stages fit the slice that they are to run on, and what they cost: asked before anything is created."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Sequence

from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import CHIPS, GiB, Topology, topology
from launch.job import Job

# A slice that arithmetic finds this much too small for a stage is not tried on the compiler.
SURELY_TOO_SMALL = 1.15


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is known of a stage on a slice.

    Attributes:
        peak_bytes: what a device needs.
        fits: whether it has that.
        chip_hours: of the whole stage; None if it does not fit.
        source: where this is from, in a few words.
    """

    peak_bytes: int
    fits: bool
    chip_hours: float | None
    source: str


Ask = Callable[[Config, Topology], Answer]


def ask(config: Config, slice_: Topology) -> Answer:
    """The planner's answer, from its cache or the compiler; by arithmetic where libtpu is not installed.

    Raises:
        UserError: the stage cannot be cut for the slice as its mesh says.
    """
    from codellama_jax.planning import estimate
    from codellama_jax.planning.aot_compile import Compiler
    from codellama_jax.planning.progress import Progress
    from codellama_jax.planning.step_config import with_vocabulary
    from codellama_jax.planning.summary import summarize

    config = with_vocabulary(config, config.tokenizer)
    if importlib.util.find_spec("libtpu") is None:
        peak = estimate.peak_bytes(config, slice_)
        fits = peak <= slice_.chip.hbm_bytes
        hours = estimate.chip_hours(config, slice_) if fits else None
        return Answer(peak, fits, hours, "arithmetic; with libtpu installed its compiler is asked")
    progress = Progress()
    progress.title = f"{config.stage.size} {config.stage.name} on {slice_.name}"
    facts = Compiler(progress).analyze(config, slice_, estimate=False)
    if not facts["fits"]:
        return Answer(facts["peak_bytes"], False, None, "compiled")
    planned = summarize(config, slice_, facts)
    if planned["chip_hours"]:
        return Answer(facts["peak_bytes"], True, planned["chip_hours"], "compiled, estimated")
    return Answer(facts["peak_bytes"], True, planned["bound_chip_hours"], "compiled, at the least")


def check(jobs: Sequence[Job], slice_: Topology, asked: Ask = ask) -> list[Answer]:
    """What is known of each job on the slice.

    Raises:
        UserError: one does not fit, or cannot be cut for it; names the smallest slice that fits all of them.
    """
    answers = []
    for job in jobs:
        answer = asked(job.config, slice_)
        answers.append(answer)
        if not answer.fits:
            need, have = answer.peak_bytes / GiB, slice_.chip.hbm_bytes / GiB
            raise UserError(
                f"{job.config.stage.size} {job.stage} does not fit {slice_.name}: {need:,.1f} GiB a device, which has"
                f" {have:.1f} ({answer.source}); {_cure(jobs, slice_, asked)}",
                EXIT_USAGE,
            )
    return answers


def _cure(jobs: Sequence[Job], slice_: Topology, asked: Ask) -> str:
    smallest = next((found for found in usual_slices(slice_) if _fit(jobs, found, asked)), None)
    search = "python -m codellama_jax.plan --search finds bindings with which it may"
    if smallest is None:
        others = ", ".join(name for name in CHIPS if name != slice_.chip.name)
        return f"no slice of {slice_.chip.name} fits as the gin files have it: {search}; or take {others}"
    fitting = f"--topology={smallest.slice_name} ({smallest.cloud_name})"
    return f"the smallest slice that fits is {fitting}; {search} on this one"


def usual_slices(like: Topology) -> Iterator[Topology]:
    """The generation's slices of the shapes that the cloud gives them, from one host up."""
    power = 1
    while True:
        try:
            yield topology(f"{like.chip.name}-{like.chip.host_chips * like.chip.cloud[1] * power}", like.slices)
        except UserError:
            return
        power *= 2


def _fit(jobs: Sequence[Job], slice_: Topology, asked: Ask) -> bool:
    from codellama_jax.planning import estimate
    from codellama_jax.planning.step_config import with_vocabulary

    try:
        for job in jobs:
            config = with_vocabulary(job.config, job.config.tokenizer)
            if estimate.peak_bytes(config, slice_) > SURELY_TOO_SMALL * slice_.chip.hbm_bytes:
                return False
        return all(asked(job.config, slice_).fits for job in jobs)
    except UserError:
        return False  # cannot be cut for it
