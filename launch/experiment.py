"""Plans an experiment: the requested stage, and its missing parent stages."""

import logging
import shlex
import sys
from collections.abc import Sequence

from codellama_jax.config import gin_files
from codellama_jax.config.bindings import Bindings
from codellama_jax.config.gin_files import Flags
from codellama_jax.config.run import Config, operative_text
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import GiB, Topology
from codellama_jax.runtime.run_dir import check_name, check_same_configuration, final_step, saved_steps
from launch.capacity import Estimate
from launch.executor import Experiment, Job
from launch.remote_run_dir import RunDir

logger = logging.getLogger(__name__)


def plan_experiment(
    flags: Flags,
    bindings: Bindings,
    run_dir: RunDir,
    name: str | None,
    *,
    extra_flags: Sequence[str] = (),
    chain: bool = False,
) -> Experiment:
    """Returns the experiment that runs the stage of a configuration. It has no jobs if the stage is finished.

    Args:
        flags: the command line.
        bindings: the configuration that the flags load.
        run_dir: the folder of all runs.
        name: the run's folder in it; None: the model size.
        extra_flags: further flags for each job.
        chain: whether to run missing parent stages; at size local they are always run.

    Raises:
        UserError: a finished stage has another configuration, a missing stage has no gin file, or it needs `chain`.
    """
    config = bindings.resolve_training()
    stage = config.stage
    name = check_name(name or stage.size)
    run = f"{run_dir.as_given}/{name}"
    check_same_configuration(run_dir.stage(name, stage.name), operative_text(config))
    if final_step(run_dir.stage(name, stage.name)) is not None:
        return Experiment(name, run_dir.path, ())

    imports = [f"--import={module}" for module in flags.imports]

    def make_job(config: Config, files: Sequence[str]) -> Job:
        own_flags = (*imports, *extra_flags)
        return Job(config.stage.name, tuple(files), tuple(flags.bindings), run_dir.path, name, own_flags, config)

    files, common_files = _gin_files(flags, stage.size)
    jobs = [make_job(config, files)]
    unused = set(bindings.unused)
    # from the stage up to its first ancestor that is finished or not needed
    shipped = gin_files.shipped_stages()
    while (parent := jobs[0].config.stage.parent) is not None:
        finished = final_step(run_dir.stage(name, parent)) is not None
        if not finished and saved_steps(run_dir.stage(name, jobs[0].stage)):
            break  # a stage that has a checkpoint resumes from it and does not read its parent's
        if finished and (stage.size != "local" or parent not in shipped):
            break
        if parent not in shipped or parent in [job.stage for job in jobs]:
            raise UserError(f"{jobs[0].stage} starts from {parent}, which is not finished in {run} and has no gin file")
        parent_files = [str(shipped[parent]), *common_files]
        parent_bindings = gin_files.load(parent_files, flags.bindings, imports=flags.imports)
        parent_config = parent_bindings.resolve_training()
        # all stages, also finished ones, are checked before the first one runs
        check_same_configuration(run_dir.stage(name, parent), operative_text(parent_config))
        unused.intersection_update(parent_bindings.unused)
        if finished:
            break
        jobs.insert(0, make_job(parent_config, parent_files))

    if unused:
        logger.info(f"codellama_jax: none of the stages to run uses {', '.join(sorted(unused))}")
    if len(jobs) > 1:
        if not chain and stage.size != "local":
            raise UserError(
                f"{stage.name} starts from {stage.parent}, and {jobs[0].stage} is not finished in {run}: add --chain to"
                f" run the missing stages, or run it first: python xm_launch.py {shlex.join(jobs[0].arguments)}"
            )
        order = " -> ".join(job.stage for job in jobs)
        logger.info(f"codellama_jax: {stage.name} starts from {stage.parent}, which is not in {run} yet: {order}")
    return Experiment(name, run_dir.path, tuple(jobs))


def check_benchmarks(experiment: Experiment) -> None:
    """Checks the files of the benchmarks that the stages measure, for jobs that run on this machine.

    Raises:
        UserError: a file is missing, damaged or of another version, or there is no such benchmark.
    """
    for job in experiment.jobs:
        if job.config.evaluation.benchmark_data is not None:
            from codellama_jax.evaluation import gold  # imports SentencePiece, which other runs do not need here

            gold.read(job.config)


def _gin_files(flags: Flags, size: str) -> tuple[list[str], list[str]]:
    """The gin files of the requested stage, and those that also apply to its parents, which are all except stage files.

    Both lists contain a file that sets the size.
    """
    files = [str(gin_files.find(file)) for file in flags.gin_files]

    def with_size(chosen: list[str]) -> list[str]:
        if any(gin_files.is_size_file(file) for file in chosen):
            return chosen  # it may be the user's own, which gin/models does not have
        return [*chosen, str(gin_files.find(f"gin/models/{size}.gin"))]

    # without its stage file, a saved configuration has no size file either: the stage file also sets the size
    return with_size(files), with_size([file for file in files if not gin_files.is_stage_file(file)])


# ---------------------------------------------------------------- confirmation


def cost_table(experiment: Experiment, estimates: Sequence[Estimate], slice_: Topology | None) -> str:
    """A table of the stages in order: steps, tokens and, with a slice, the planner's estimates."""
    columns = ["memory", "chip-hours", "days"] if slice_ else []
    rows = [["stage", "steps", "tokens", *columns]]
    for job in experiment.jobs:
        stage = job.config.stage
        if stage.epochs:  # the number of steps is derived when the data is opened
            rows.append([job.stage, f"{stage.epochs:g} epochs", ""])
        else:
            rows.append([job.stage, f"{stage.steps:,}", f"{stage.steps * stage.batch_tokens:,}"])
    note = ""
    if slice_:
        hours = [estimate.chip_hours or 0.0 for estimate in estimates]
        for row, estimate, cost in zip(rows[1:], estimates, hours, strict=True):
            known = [f"{cost:,.0f}", f"{cost / slice_.chips / 24:,.1f}"] if row[2] else ["", ""]
            row += [f"{estimate.peak_bytes / GiB:,.1f} GiB", *known]
        rows.append(["all", "", "", "", f"{sum(hours):,.0f}", f"{sum(hours) / slice_.chips / 24:,.1f}"])
        note = f"\n(not measured: {estimates[0].method})"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + note


def confirm(*, yes: bool) -> bool:
    """Returns whether to run the stages: asks on the terminal unless `yes`.

    Raises:
        UserError: there is no terminal.
    """
    if yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise UserError("a chain of stages needs confirmation, and there is no terminal: add --yes", EXIT_USAGE)
    return input("run them one after another? [y/N] ").strip().lower() in ("y", "yes")
