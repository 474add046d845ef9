"""Launches a stage of Code Llama's recipe, after its missing parent stages.

    python xm_launch.py --gin_file=gin/lcft.gin                                     on this machine, at size local
    python xm_launch.py --gin_file=gin/lcft.gin --gin_file=gin/models/7b.gin ...    at a published size

At size local, parent stages that are not finished in the run folder are run first. At a published size, --chain does
the same; without it, the launcher stops and prints the command that runs the missing stage.

    python xm_launch.py --executor=tpu_vm --topology=v5p-128 --run_dir=gs://BUCKET/runs ...    in the cloud; or gke
    python xm_launch.py status | logs NAME | stop NAME                                         about runs
    python xm_launch.py --gin_file=gin/lcft.gin --explain Stage.steps                          the origin of a value
"""

import argparse
import logging
import sys

from codellama_jax.runtime import console

logger = logging.getLogger("xm_launch")
console.configure_logging()
logger.info("codellama_jax: reading the configuration")  # before the other imports, which take seconds

from codellama_jax.config import gin_files  # noqa: E402
from codellama_jax.config.lora import Lora  # noqa: E402
from codellama_jax.config.model import Llama  # noqa: E402
from codellama_jax.config.training import Stage  # noqa: E402
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError  # noqa: E402
from codellama_jax.runtime import cli, distributed  # noqa: E402
from launch import capacity, executor, experiment, lineage, status  # noqa: E402
from launch.remote_run_dir import RunDir  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit code (0 done, 1 failed, 2 wrong usage, 75 stopped after saving)."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = argument_parser()
    if arguments and arguments[0] in status.COMMANDS:
        status.add_command(parser)
        return executor.run_with_executor(parser, arguments, status.run_command)
    return executor.run_with_executor(parser, arguments, launch)


def argument_parser() -> argparse.ArgumentParser:
    """The flags that all executors have in common."""
    parser = cli.Parser(
        prog="python xm_launch.py",
        description="Launches a stage. Also: --gin_file=FILE (repeatable, the last one wins), --gin.NAME=VALUE, and"
        " --import=MODULE (repeatable), a module that registers SeqIO tasks.",
        epilog="Each executor has further flags: --executor=tpu_vm --help",
        allow_abbrev=False,
    )
    parser.add_argument("--run_dir", default="runs", help="folder of all runs, or gs://BUCKET/FOLDER (default: runs)")
    parser.add_argument("--name", help="the run's folder in it (default: the model size)")
    parser.add_argument("--topology", help="the slice of TPUs, such as v5p:4x4x4 or v5p-128")
    parser.add_argument("--chain", action="store_true", help="run missing earlier stages first (always at size local)")
    parser.add_argument("--yes", action="store_true", help="run a chain of stages without confirmation")
    parser.add_argument("--dry_run", action="store_true", help="print the commands without executing them")
    parser.add_argument(
        "--explain",
        action="append",
        metavar="NAME",
        help="print the value of a setting or macro and its origin, and run nothing; repeatable",
    )
    return parser


def launch(flags: gin_files.Flags, options: argparse.Namespace, runner: executor.Executor) -> int:
    """Plans the jobs and has the executor run them; returns an exit code."""
    if not flags.gin_files:
        stages = ", ".join(f"gin/{name}.gin" for name in gin_files.shipped_stages())
        raise UserError(f"no stage given: --gin_file=FILE with one of {stages}", EXIT_USAGE)

    # ---------------------------------------------------------------- the configuration
    tpus = distributed.tpu_chips()
    on_cpus = not runner.remote and not tpus
    size = "local" if on_cpus else None
    bindings = gin_files.load(flags.gin_files, flags.bindings, default_size=size, imports=flags.imports)
    if options.explain:
        for name in options.explain:
            print(bindings.explain(name))
        return EXIT_DONE
    stage = bindings.resolve(Stage).stage
    if not runner.remote and stage.size == "local":
        no_tpu = "" if tpus else "no TPU here, "
        logger.info(f"codellama_jax: {no_tpu}size local: {stage.name} on this machine's {capacity.cpus()}")
    if on_cpus:
        described = bindings.resolve(Llama, Lora)
        capacity.check_memory(described.llama, stage.size, described.lora)

    # ---------------------------------------------------------------- the jobs
    run_dir = RunDir(options.run_dir, offline=options.dry_run)
    extra_flags = ("--verbose",) if options.verbose else ()
    planned = experiment.plan_experiment(
        flags, bindings, run_dir, options.name, extra_flags=extra_flags, chain=options.chain
    )
    if not planned.jobs:
        run = f"{options.run_dir}/{planned.name}"
        logger.info(f"codellama_jax: {stage.name} is finished in {run}/{stage.name}: see {run}/report.html")
        return EXIT_DONE

    if not runner.remote:
        experiment.check_benchmarks(planned)
    notes = lineage.check_inheritance(planned, run_dir)
    if options.dry_run or runner.remote:  # on this machine, the stages report them
        for note in notes:
            logger.info(f"codellama_jax: {note}")

    # ---------------------------------------------------------------- their cost
    is_chain = options.chain and len(planned.jobs) > 1
    if is_chain:
        slice_ = runner.requirements.topology
        estimator = capacity.estimator(runner.requirements.libtpu_bundle)
        estimates = capacity.check_slice(planned.jobs, slice_, estimator) if slice_ else []
        print(experiment.cost_table(planned, estimates, slice_))

    # ---------------------------------------------------------------- run them
    if options.dry_run:
        for line in runner.show(planned):
            print(line)
        return EXIT_DONE
    runner.check(planned)
    if is_chain and not experiment.confirm(yes=options.yes):
        logger.info("codellama_jax: nothing was run")
        return EXIT_DONE
    sys.stdout.flush()
    return runner.run(planned)


if __name__ == "__main__":
    sys.exit(main())
