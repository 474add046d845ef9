"""Launches a stage of Code Llama's recipe, and what it starts from.

    python xm_launch.py --gin_file=gin/lcft.gin                                     on this machine, at size local
    python xm_launch.py --gin_file=gin/lcft.gin --gin_file=gin/models/7b.gin ...    at a real size

At size local the stages of the lineage that are not finished in the run folder are run first; at a real size the
launcher stops there and prints the command that runs the missing one.
"""

import argparse
import glob
import os
import shlex
import sys
from pathlib import Path

print("codellama_jax: reading the configuration", flush=True)  # before the imports, so that something is seen at once

from codellama_jax import configuration, program  # noqa: E402
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UserError  # noqa: E402
from codellama_jax.model.config import Llama  # noqa: E402
from codellama_jax.run_folder import check_same_configuration, final_step, saved_steps  # noqa: E402
from codellama_jax.training.config import Stage  # noqa: E402
from launch import local  # noqa: E402
from launch.job import Job, make_job  # noqa: E402

BYTES_PER_PARAMETER = 16  # float32 weight, gradient and two moments of AdamW


def main(argv: list[str] | None = None) -> int:
    """Runs what the flags ask for; returns the exit code (0 done, 1 failed, 2 wrong usage, 75 stopped after saving)."""
    parser = argparse.ArgumentParser(
        prog="python xm_launch.py",
        description="Launches a stage. Also: --gin_file=FILE (repeatable, later wins), --gin.NAME=VALUE.",
        allow_abbrev=False,
    )
    parser.add_argument("--run_dir", type=Path, default=Path("runs"), help="folder of all runs (default: runs)")
    parser.add_argument("--name", help="the run's folder in it (default: the size)")
    parser.add_argument("--executor", choices=("local",), default="local", help="where to run (default: local)")
    parser.add_argument("--dry_run", action="store_true", help="print what would be run, and run nothing")
    return program.run(parser, argv, launch)


def launch(flags: configuration.Flags, options: argparse.Namespace) -> int:
    """Plans the jobs and runs them one after another."""
    if not flags.gin_files:
        known = ", ".join(f"gin/{name}.gin" for name in configuration.shipped_stages())
        raise UserError(f"no stage given: --gin_file=FILE with one of {known}", EXIT_USAGE)

    # ---------------------------------------------------------------- which stage, which size
    tpus = tpu_chips()
    configuration.load(flags.gin_files, flags.bindings, default_size=None if tpus else "local")
    stage = configuration.resolve(Stage).stage
    if stage.size == "local":
        print(f"codellama_jax: {'' if tpus else 'no TPU here, '}size local: {stage.name} on this machine's {devices()}")
    if not tpus:
        check_memory(configuration.resolve(Llama).llama, stage.size)
    config = configuration.resolve()

    # ---------------------------------------------------------------- the jobs
    name = options.name or stage.size
    run_dir = options.run_dir.absolute()
    shown = options.run_dir / name
    check_same_configuration(run_dir / name / stage.name, configuration.operative(config))
    if final_step(run_dir / name / stage.name) is not None:
        print(f"codellama_jax: {stage.name} is finished in {shown / stage.name}: see {shown / 'report.html'}")
        return EXIT_DONE
    given = [str(configuration.find(file)) for file in flags.gin_files]
    size_file = f"gin/models/{stage.size}.gin"
    if not any(configuration.is_size_file(file) for file in given):
        given.append(str(configuration.find(size_file)))
    # What makes a stage is its own file; what else was given, a size or the user's own files, goes with every stage.
    common = [file for file in given if not configuration.is_stage_file(file)]
    if not any(configuration.is_size_file(file) for file in common):
        common.append(
            str(configuration.find(size_file))
        )  # the stage came as a saved configuration, which holds its size as well
    shipped = configuration.shipped_stages()
    more = ["--verbose"] if options.verbose else []
    jobs = [make_job(stage.name, given, flags.bindings, run_dir, name, more)]
    unused = set(configuration.unused())
    first = stage
    while (parent := first.parent) is not None:
        ended = final_step(run_dir / name / parent) is not None
        if not ended and saved_steps(run_dir / name / first.name):
            break  # a stage that has a checkpoint of its own needs no parent any more
        if ended and (stage.size != "local" or parent not in shipped):
            break
        if parent not in shipped or parent in [job.stage for job in jobs]:
            raise UserError(f"{first.name} starts from {parent}, which is not finished in {shown} and has no gin file")
        files = [str(shipped[parent]), *common]
        configuration.load(files, flags.bindings)
        if stage.size == "local":  # every stage is checked before the first one runs, and one that has run as well
            check_same_configuration(run_dir / name / parent, configuration.operative(configuration.resolve()))
        unused &= set(configuration.unused())
        if ended:
            break
        jobs.insert(0, make_job(parent, files, flags.bindings, run_dir, name, more))
        first = configuration.resolve(Stage).stage
    if unused:
        print(f"codellama_jax: no stage that runs here uses {', '.join(sorted(unused))}")
    if first is not stage:
        if stage.size != "local":
            raise UserError(
                f"{stage.name} starts from {stage.parent}, and {first.name} is not finished in {shown}; run it first: "
                f"python xm_launch.py {shlex.join(jobs[0].arguments)}"
            )
        chain = " -> ".join(job.stage for job in jobs)
        print(f"codellama_jax: {stage.name} starts from {stage.parent}, which is not in {shown} yet: {chain}")

    # ---------------------------------------------------------------- run them
    for job in jobs:
        if options.dry_run:
            print(shlex.join(local.command(job)))
            continue
        sys.stdout.flush()
        code, asked = local.run(job)
        if asked and (code > 128 or (code == EXIT_DONE and job is not jobs[-1])):
            return EXIT_INTERRUPTED  # stopped before there was anything to save, or between two stages
        if code != EXIT_DONE:
            return code if code in (EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED) else died(job, code)
    return EXIT_DONE


def died(job: Job, code: int) -> int:
    """Says what can be said of a job that ended without a word of its own."""
    cause = "it was killed, perhaps for want of memory" if code == 137 else f"it ended with code {code}"
    print(f"error: {job.stage} failed: {cause}; the same command goes on from the last checkpoint", file=sys.stderr)
    return EXIT_FAILED


def tpu_chips() -> int:
    """TPU chips of this machine, by their device files: asking JAX would take seconds, and the chips."""
    return len(glob.glob("/dev/accel[0-9]*")) or len(glob.glob("/dev/vfio/[0-9]*"))


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


if __name__ == "__main__":
    sys.exit(main())
