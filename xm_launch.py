"""Launches a stage of Code Llama's recipe, and what it starts from.

    python xm_launch.py --gin_file=gin/lcft.gin                                     on this machine, at size local
    python xm_launch.py --gin_file=gin/lcft.gin --gin_file=gin/models/7b.gin ...    at a real size

At size local the stages of the lineage that are not finished in the run folder are run first; at a real size --chain
does the same, and without it the launcher stops there and prints the command that runs the missing one.

    python xm_launch.py --executor=tpu_vm --topology=v5p-128 --run_dir=gs://BUCKET/runs ...    in the cloud; or gke
    python xm_launch.py status | logs NAME | stop NAME                                         what becomes of it
"""

import argparse
import sys

print("codellama_jax: reading the configuration", flush=True)  # before the imports, so that something is seen at once

from codellama_jax.config import gin_files  # noqa: E402
from codellama_jax.config.model import Llama  # noqa: E402
from codellama_jax.config.training import Stage  # noqa: E402
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError  # noqa: E402
from codellama_jax.runtime import distributed  # noqa: E402
from launch import capacity, chain, executor, experiment, machine, status  # noqa: E402
from launch.remote_run_dir import RunDir  # noqa: E402

# Set by tests, whose cloud is a stand-in.


def main(argv: list[str] | None = None) -> int:
    """Runs what the flags ask for; returns the exit code (0 done, 1 failed, 2 wrong usage, 75 stopped after saving)."""
    words = sys.argv[1:] if argv is None else argv
    made = parser()
    if words and words[0] in status.COMMANDS:
        status.add_command(made)
        return executor.run_with_executor(made, words, status.command)
    return executor.run_with_executor(made, words, launch)


def parser() -> argparse.ArgumentParser:
    """The flags of every executor."""
    made = argparse.ArgumentParser(
        prog="python xm_launch.py",
        description="Launches a stage. Also: --gin_file=FILE (repeatable, later wins), --gin.NAME=VALUE.",
        epilog="Each executor has flags of its own: --executor=tpu_vm --help",
        allow_abbrev=False,
    )
    made.add_argument("--run_dir", default="runs", help="folder of all runs, or gs://BUCKET/FOLDER (default: runs)")
    made.add_argument("--name", help="the run's folder in it (default: the size)")
    made.add_argument("--topology", help="the slice of TPUs, such as v5p:4x4x4 or v5p-128")
    made.add_argument("--chain", action="store_true", help="run missing earlier stages first (always at size local)")
    made.add_argument("--yes", action="store_true", help="do not ask before a chain is run")
    made.add_argument("--dry_run", action="store_true", help="print what would be run, and run nothing")
    made.add_argument(
        "--explain",
        action="append",
        metavar="NAME",
        help="print the value of a setting or macro and what set it, and run nothing; repeatable",
    )
    return made


def launch(flags: gin_files.Flags, options: argparse.Namespace, where: executor.Executor) -> int:
    """Plans the jobs and has the executor run them."""
    if not flags.gin_files:
        known = ", ".join(f"gin/{name}.gin" for name in gin_files.shipped_stages())
        raise UserError(f"no stage given: --gin_file=FILE with one of {known}", EXIT_USAGE)

    # ---------------------------------------------------------------- which stage, which size
    here = not where.remote
    tpus = distributed.tpu_chips()
    size = "local" if here and not tpus else None
    bindings = gin_files.load(flags.gin_files, flags.bindings, default_size=size, imports=flags.imports)
    if options.explain:
        for name in options.explain:
            print(bindings.explain(name))
        return EXIT_DONE
    stage = bindings.resolve(Stage).stage
    if here and stage.size == "local":
        print(
            f"codellama_jax: {'' if tpus else 'no TPU here, '}size local: {stage.name} on this machine's"
            f" {machine.devices()}"
        )
    if here and not tpus:
        machine.check_memory(bindings.resolve(Llama).llama, stage.size)

    # ---------------------------------------------------------------- the jobs
    run_dir = RunDir(options.run_dir, offline=options.dry_run)
    more = ("--verbose",) if options.verbose else ()
    planned = experiment.plan(
        flags,
        bindings,
        run_dir.path,
        options.name,
        run_dir.stage,
        more=more,
        chain=options.chain,
        shown=options.run_dir,
    )
    if not planned.jobs:
        shown = f"{options.run_dir}/{planned.name}"
        print(f"codellama_jax: {stage.name} is finished in {shown}/{stage.name}: see {shown}/report.html")
        return EXIT_DONE

    # ---------------------------------------------------------------- what they cost
    if options.chain and len(planned.jobs) > 1:
        slice_ = where.requirements.topology
        print(chain.table(planned, capacity.check(planned.jobs, slice_) if slice_ else [], slice_))

    # ---------------------------------------------------------------- run them
    if options.dry_run:
        for line in where.show(planned):
            print(line)
        return EXIT_DONE
    where.check(planned)
    if options.chain and len(planned.jobs) > 1 and not chain.agreed(yes=options.yes):
        print("codellama_jax: nothing was run")
        return EXIT_DONE
    sys.stdout.flush()
    return where.run(planned)


if __name__ == "__main__":
    sys.exit(main())
