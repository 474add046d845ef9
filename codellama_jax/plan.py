"""Plans a training stage for a TPU slice, without TPUs: whether its step fits in memory, and how fast it can run.

    python -m codellama_jax.plan --gin_file=gin/code.gin --gin_file=gin/models/7b.gin --topology=v5p:4x4x4 [--json]
                                 [--slices=N] [--no_estimate] [--forward | --search]
    python -m codellama_jax.plan --serve --gin_file=gin/models/7b.gin --topology=v5e:2x4 [--json] [--cache_dtype=int8]

The train step is compiled for the slice (codellama_jax/planning). Nothing is measured: the output is a lower bound on
the time of a step, which no run can beat, and an estimate of it. No corpus, tokenizer or checkpoint is needed. --serve
compiles the programs that generate instead.
"""

import argparse
import json
import sys

from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.planning import libtpu_flags
from codellama_jax.planning.aot_compile import Compiler, require_compiler
from codellama_jax.planning.chips import CHIPS, topology
from codellama_jax.planning.planner import plan, rank_settings
from codellama_jax.planning.progress import Progress
from codellama_jax.planning.serving import plan_serving, serving_table
from codellama_jax.planning.step_config import shaping_config
from codellama_jax.planning.table import plan_table, ranking_table
from codellama_jax.runtime import cli


def main(argv: list[str] | None = None) -> int:
    """Prints the plan of a stage. Returns the exit code: 0 done, even if it does not fit; 1 failed; 2 usage."""
    parser = cli.Parser(prog="python -m codellama_jax.plan", description="Plans a stage for TPUs.")
    parser.add_argument(
        "--topology", required=True, help=f"TPU slice, such as v5p:4x4x4; generations: {', '.join(CHIPS)}"
    )
    parser.add_argument(
        "--slices", type=int, default=1, help="number of slices, each with a copy of the parameters (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no_estimate", action="store_true", help="compute only the bound: seconds instead of minutes")
    libtpu_flags.add_flag(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--forward", action="store_true", help="plan the evaluation of one batch instead of a train step")
    mode.add_argument(
        "--search", action="store_true", help="try remat policies, micro-batches and meshes, and rank those that fit"
    )
    mode.add_argument("--serve", action="store_true", help="plan generation: cache tokens that fit, and bound tokens/s")
    parser.add_argument(
        "--cache_dtype", choices=("bfloat16", "float32", "int8"), help="with --serve (default: the model's dtype)"
    )
    return cli.run(parser, argv, _run)


def _run(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    slice_ = topology(options.topology, options.slices)
    _ = libtpu_flags.libtpu_init_args(slice_.chip, options.libtpu_bundle)  # raises if there is no such bundle
    if options.cache_dtype and not options.serve:
        raise UserError("--cache_dtype needs --serve", EXIT_USAGE)
    if options.serve and options.slices > 1:
        raise UserError(
            "--serve plans one slice: each slice serves a copy of the model; leave --slices out", EXIT_USAGE
        )
    if options.serve and options.libtpu_bundle != libtpu_flags.FAST:
        raise UserError("--libtpu_bundle is for train steps: leave it out with --serve", EXIT_USAGE)
    bindings = gin_files.load(flags.gin_files, flags.bindings, imports=flags.imports)
    if options.serve and "Stage.name" not in bindings.effective:  # the shape is the same in every stage
        bindings = gin_files.load(["gin/code.gin", *flags.gin_files], flags.bindings, imports=flags.imports)
    config = shaping_config(bindings)
    if config.stage.epochs and not options.serve:
        raise UserError(
            f"the steps of {config.stage.name} follow from the tokens of its data, which plan does not read: add"
            " --gin.Stage.epochs=0.0 --gin.Stage.steps=N to plan N steps",
            EXIT_USAGE,
        )
    require_compiler()
    progress = Progress()
    if options.serve:
        progress.title = f"{config.stage.size} on {slice_.name}"
        serving = plan_serving(config, slice_, Compiler(progress), options.cache_dtype)
        print(json.dumps(serving, indent=1) if options.json else serving_table(serving))
        return EXIT_DONE
    if options.search:
        ranking = rank_settings(config, slice_, progress, options.libtpu_bundle)
        print(json.dumps(ranking, indent=1) if options.json else ranking_table(config, slice_, ranking))
        return EXIT_DONE
    result = plan(
        config,
        slice_,
        progress,
        estimate=not options.no_estimate,
        forward=options.forward,
        libtpu_bundle=options.libtpu_bundle,
    )
    print(json.dumps(result, indent=1) if options.json else plan_table(result))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
