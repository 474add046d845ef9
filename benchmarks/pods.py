"""Memory and cost of every stage and size on every TPU generation: writes docs/pods.md.

    make pods                                    takes half an hour on two cores; compiled steps are cached

Every row is the real train step, compiled for the slice by XLA's TPU compiler (codellama_jax/planning). Nothing is
measured. On the slice named in its size file, a stage has the settings of that file. On other slices, remat policies
are tried with the largest number of micro-batches until one fits, starting with the policy that saves the most
activations. Then the policy that fits is tried with fewer micro-batches.
"""

import argparse
import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.planning.aot_compile import Compiler, require_compiler
from codellama_jax.planning.chips import GiB, Topology, topology
from codellama_jax.planning.progress import Progress
from codellama_jax.planning.search import Change, make_change, micro_batch_counts
from codellama_jax.planning.step_config import shaping_config
from codellama_jax.planning.summary import summarize

SIZES = ("7b", "13b", "34b", "70b")
# A stage, and the stages whose programs differ only in sixteen rows of the vocabulary, learning rate and steps.
STAGES = {"code": ("python_code", "python"), "lcft": ("python_lcft",), "instruct": ()}
MISSING = {("70b", "python_code"), ("70b", "python_lcft")}  # the paper has no such stages
OWN = {"7b": "v5p:4x4x4", "13b": "v5p:4x4x4", "34b": "v5p:4x4x4", "70b": "v5p:4x8x8"}  # named in the size files
SLICES = {
    "7b": ("v4:4x4x8", "v5e:16x16", OWN["7b"], "v6e:8x8", "tpu7x:4x4x4"),
    "13b": ("v4:4x4x8", "v5e:16x16", OWN["13b"], "v6e:8x8", "tpu7x:4x4x4"),
    "34b": ("v4:4x8x8", "v5e:16x16", OWN["34b"], "v6e:16x16", "tpu7x:4x4x4"),
    "70b": ("v4:8x8x8", "v5e:16x16", OWN["70b"], "v6e:16x16", "tpu7x:4x4x8"),
}
# The policies of planning/search.py that are tried here, starting with the one that saves the most activations.
LADDER = (
    ("q+k+v+attention+middle+gate+up", ""),
    ("q+k+v+attention+middle", ""),
    ("attention", ""),
    ("full", ""),
    ("full", "input"),
)
LONG = (  # size, tokens, windows, pass, slice
    ("7b", 102_400, 1, "forward", "v5p:2x2x1"),
    ("7b", 102_400, 1, "forward", "v6e:2x2"),
    ("34b", 102_400, 1, "forward", "v5p:2x2x1"),
    ("34b", 102_400, 1, "forward", "v6e:4x4"),
    ("7b", 65_536, 32, "train", "v5p:4x4x4"),
    ("34b", 65_536, 16, "train", "v5p:4x4x4"),
    ("7b", 65_536, 32, "train", "v6e:8x8"),
    ("34b", 65_536, 16, "train", "v6e:16x16"),
)


def load(size: str, stage: str, *bindings: str) -> Config:
    return shaping_config(gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], bindings))


def candidates(config: Config, slice_: Topology) -> list[Change]:
    """The settings of the size file on its slice; otherwise the LADDER of policies."""
    if slice_.slice_name == OWN[config.stage.size]:
        return [Change((), slice_, config)]
    most = micro_batch_counts(config, slice_)[-1]
    return [make_change(config, slice_, remat=remat, offload=offload, micro_batches=most) for remat, offload in LADDER]


def best(config: Config, slice_: Topology, compiler: Compiler) -> tuple[Change | None, dict[str, Any]]:
    """The first candidate that fits, with the fewest micro-batches, and its plan. If none fits, the last candidate."""
    analysis: dict[str, Any] = {}
    change: Change | None = None
    for change in candidates(config, slice_):
        try:
            analysis = compiler.analyze(change.config, slice_, estimate=False)
        except UserError as error:
            return None, {"refused": str(error)}
        if analysis["fits"] and not analysis["recomputed"]:
            break
    assert change
    most, llama = change.config.stage.micro_batches, change.config.llama
    own = slice_.slice_name == OWN[config.stage.size]
    for count in micro_batch_counts(config, slice_) if analysis["fits"] and not own else []:
        # memory except arguments is nearly proportional to a micro-batch: skip counts that cannot fit
        guess = analysis["argument_bytes"] + (analysis["peak_bytes"] - analysis["argument_bytes"]) * most / count
        if count < most and guess < 1.1 * analysis["hbm_bytes"]:
            fewer = make_change(config, slice_, remat=llama.remat, offload=llama.offload, micro_batches=count)
            attempt = compiler.analyze(fewer.config, slice_, estimate=False)
            if attempt["fits"] and not attempt["recomputed"]:
                change, analysis = fewer, attempt
                break
    return change, summarize(change.config, slice_, analysis)


def row(size: str, stage: str, slice_: Topology, change: Change | None, result: dict[str, Any], steps: int) -> str:
    start = f"| {size} | {stage} | {slice_.name} | {slice_.chips} "
    if change is None:
        return start + f"| no | | | | | | {result['refused']} |"
    peak = f"{result['peak_bytes'] / GiB:.1f} of {result['hbm_bytes'] / GiB:.1f}"
    flags = " ".join(f"--gin.{binding}" for binding in change.bindings)
    flags = f"`{flags}`" if flags else ""
    if not result["fits"]:
        return start + f"| **no** | {peak} | | | | | {flags} |"
    hours = result["bound_seconds"] * steps * slice_.chips / 3600
    return start + (
        f"| yes | {peak} | {result['bound_seconds']:.2f} | {result['bound_by']} | {result['bound_mfu']:.0%}"
        f" | {hours:,.0f} | {flags} |"
    )


def every_stage(compiler: Compiler, progress: Progress) -> list[str]:
    lines = [
        "| size | stage | slice | chips | fits | peak GiB | bound, s per step | limited by | MFU at bound"
        " | chip-hours at bound | bindings |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        for stage, others in STAGES.items():
            for name in SLICES[size]:
                slice_ = topology(name)
                progress.title = f"{size} {stage} on {name}"
                config = load(size, stage)
                change, result = best(config, slice_, compiler)
                for each in (stage, *others):
                    if (size, each) not in MISSING:
                        steps = load(size, each).stage.steps
                        lines.append(row(size, each, slice_, change, result, steps))
    return lines


def estimates(compiler: Compiler, progress: Progress) -> list[str]:
    lines = [
        "| size | slice | compiled / model FLOPs | bound MFU | estimated s per step | estimated MFU | tokens/s/chip"
        " | days | chip-hours |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        slice_, config = topology(OWN[size]), load(size, "code")
        progress.title = f"{size} code on {slice_.name}, with the estimate"
        result = summarize(config, slice_, compiler.analyze(config, slice_))
        lines.append(
            f"| {size} | {slice_.name} | {result['compiled_flops'] / result['model_flops']:.3f}"
            f" | {result['bound_mfu']:.1%} | {result['estimated_seconds']:.2f} | {result['estimated_mfu']:.1%}"
            f" | {result['estimated_tokens_per_second_per_chip']:,.0f} | {result['days']:.1f}"
            f" | {result['chip_hours']:,.0f} |"
        )
    return lines


def long_contexts(compiler: Compiler, progress: Progress) -> list[str]:
    lines = [
        "| size | tokens | windows | pass | slice | mesh | fits | peak GiB | bound, s | limited by | MFU at bound |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, length, windows, pass_, name in LONG:
        progress.title = f"{size}, {length:,} tokens, {pass_}, on {name}"
        slice_ = topology(name)
        config = load(size, "lcft", f"LCFT_LENGTH={length}", f"LCFT_BATCH_TOKENS={length * windows}", *LONG_BINDINGS)
        forward = pass_ == "forward"
        analysis = compiler.analyze(config, slice_, estimate=False, forward=forward)
        result = summarize(config, slice_, analysis, forward=forward)
        mesh = " x ".join(f"{axis} {parts}" for axis, parts in result["mesh"].items() if parts > 1)
        peak = f"{result['peak_bytes'] / GiB:.1f} of {result['hbm_bytes'] / GiB:.1f}"
        bound = f"{result['bound_seconds']:.2f} | {result['bound_by']} | {result['bound_mfu']:.0%}"
        fits = f"yes | {peak} | {bound}" if result["fits"] else f"**no** | {peak} | | |"
        lines.append(f"| {size} | {length:,} | {windows} | {pass_} | {name} | {mesh} | {fits} |")
    return lines


# Larger blocks than the default: the mask has a hundred thousand blocks of 512, and evaluating them takes a minute.
LONG_BINDINGS = (
    *("Llama.remat=full", "Stage.micro_batches=1"),
    *("Llama.splash_block=1024", "Llama.splash_block_backward=1024"),
)

PAGE = """# Memory and cost on TPU slices

Written by `make pods` on {date} (jax {jax}, libtpu {libtpu}); do not edit. Every row is the real train step, compiled
for the slice by XLA's TPU compiler on a machine without TPUs. **Nothing here is measured.** The bound is the longest of
three times: products at the peak of the chip, memory traffic at the bandwidth of the memory, and communication at the
bandwidth of the links. It assumes that they overlap completely, so no run can be faster. MFU counts the causal half of
attention. Peak is the memory that the compiler compares with the memory available to a program.

To reproduce a row:

    python -m codellama_jax.plan --gin_file=gin/STAGE.gin --gin_file=gin/models/SIZE.gin --topology=SLICE \\
        --no_estimate BINDINGS

with the bindings of the row. Rows without bindings use the gin files unchanged. On the slice named in the size file,
the settings of that file were found with `--search`. On other slices, five policies of `Llama.remat` were tried until
one fitted, starting with the policy that saves the most activations; it has the fewest micro-batches with which it
fits. It may not be the fastest: `plan --search --topology=SLICE` finds that in two minutes. The programs of
`python_code`, `python` and `python_lcft` differ from those of `code` and `lcft` only in sixteen rows of the vocabulary,
the learning rate and the number of steps. The paper has no `python_code` and no `python_lcft` of 70B.

## Every size, stage and chip

{rows}

{unfit}

## Estimates

Code training, from `plan` without `--no_estimate`. The estimate adds up the compiler's cycle estimates of all
instructions in the order of its schedule, attention kernels at half of peak, and exposed collectives at the bandwidth
of the links. Published runs of such models reach 65% to 70% MFU on v5p. The estimate is lower, so days and chip-hours
are probably overestimated.

{estimates}

## A hundred thousand tokens

The pass is an evaluation (`--forward`) or a complete train step, with `--gin.LCFT_LENGTH=TOKENS`
`--gin.LCFT_BATCH_TOKENS=(TOKENS x WINDOWS)` and
`{bindings}`. With fewer windows than chips, a context
axis is chosen automatically.

{long}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=gin_files.ROOT / "docs" / "pods.md")
    options = parser.parse_args()
    require_compiler()
    progress = Progress()
    compiler = Compiler(progress)

    rows = every_stage(compiler, progress)
    unfit = [line for line in rows if "| **no** |" in line or "| no |" in line]
    fit = (
        "All rows fit."
        if not unfit
        else f"{len(unfit)} rows do not fit even with full recomputation and one window per device at a time."
    )
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        jax=importlib.metadata.version("jax"),
        libtpu=importlib.metadata.version("libtpu"),
        rows="\n".join(rows),
        unfit=fit,
        estimates="\n".join(estimates(compiler, progress)),
        long="\n".join(long_contexts(compiler, progress)),
        bindings=" ".join(f"--gin.{binding}" for binding in LONG_BINDINGS),
    )
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    _, heading, serving = before.partition("\n## Serving\n")  # written by benchmarks/serving_pods.py
    options.out.write_text(page + heading + serving, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
