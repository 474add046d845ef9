"""Which stages have to run: the one that is asked for, and what it starts from as far as the run has not got it."""

import shlex
from collections.abc import Callable
from pathlib import Path

from codellama_jax.config import gin_files
from codellama_jax.config.bindings import Bindings
from codellama_jax.config.gin_files import Flags
from codellama_jax.config.run import Config, operative_text
from codellama_jax.config.training import Stage
from codellama_jax.errors import UserError
from codellama_jax.runtime.run_dir import check_same_configuration, final_step, saved_steps
from launch.job import Experiment, Job


def plan(
    flags: Flags,
    bindings: Bindings,
    run_dir: str,
    name: str | None,
    folder: Callable[[str, str], Path],
    *,
    more: tuple[str, ...] = (),
    chain: bool = False,
    shown: str | None = None,
) -> Experiment:
    """The experiment that runs the stage of a configuration; without jobs if it is finished.

    Args:
        flags: of the command line.
        bindings: what they load.
        run_dir: the folder of all runs.
        name: the run's folder in it; None: the size.
        folder: where what a stage (run, stage) says of itself can be read on this machine.
        more: other flags for each job.
        shown: the folder of all runs as the user wrote it.
        chain: whether stages that it starts from are run as well if they are missing, not only at size local.

    Raises:
        UserError: a stage was made by another configuration; one is missing that may not, or cannot, be run.
    """
    config = bindings.resolve()
    stage = config.stage
    name = name or stage.size
    shown = f"{shown or run_dir}/{name}"
    check_same_configuration(folder(name, stage.name), operative_text(config))
    if final_step(folder(name, stage.name)) is not None:
        return Experiment(name, run_dir, ())
    given = [str(gin_files.find(file)) for file in flags.gin_files]
    size_file = str(gin_files.find(f"gin/models/{stage.size}.gin"))
    if not any(gin_files.is_size_file(file) for file in given):
        given.append(size_file)
    # What makes a stage is its own file; what else was given, a size or the user's own files, goes with every stage.
    common = [file for file in given if not gin_files.is_stage_file(file)]
    if not any(gin_files.is_size_file(file) for file in common):
        common.append(size_file)  # the stage came as a saved configuration, which holds its size as well
    shipped = gin_files.shipped_stages()
    chain = chain or stage.size == "local"

    def job(of: Config, files: list[str]) -> Job:
        imports = tuple(f"--import={module}" for module in flags.imports)
        return Job(of.stage.name, tuple(files), tuple(flags.bindings), run_dir, name, (*imports, *more), of)

    jobs = [job(config, given)]
    unused = set(bindings.unused)
    first: Stage = stage
    while (parent := first.parent) is not None:
        ended = final_step(folder(name, parent)) is not None
        if not ended and saved_steps(folder(name, first.name)):
            break  # a stage that has a checkpoint of its own needs no parent any more
        if ended and (stage.size != "local" or parent not in shipped):
            break
        if parent not in shipped or parent in [job.stage for job in jobs]:
            raise UserError(f"{first.name} starts from {parent}, which is not finished in {shown} and has no gin file")
        files = [str(shipped[parent]), *common]
        of_parent = gin_files.load(files, flags.bindings, imports=flags.imports)
        before = of_parent.resolve()
        # every stage is checked before the first one runs, and one that has run as well
        check_same_configuration(folder(name, parent), operative_text(before))
        unused &= set(of_parent.unused)
        if ended:
            break
        jobs.insert(0, job(before, files))
        first = before.stage
    if unused:
        print(f"codellama_jax: no stage that runs here uses {', '.join(sorted(unused))}")
    if first is not stage:
        if not chain:
            raise UserError(
                f"{stage.name} starts from {stage.parent}, and {first.name} is not finished in {shown}; add --chain to"
                f" run what is missing, or run it first: python xm_launch.py {shlex.join(jobs[0].arguments)}"
            )
        missing = " -> ".join(job.stage for job in jobs)
        print(f"codellama_jax: {stage.name} starts from {stage.parent}, which is not in {shown} yet: {missing}")
    return Experiment(name, run_dir, tuple(jobs))
