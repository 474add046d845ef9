"""Memory and cost of every stage and size on every TPU generation: writes docs/pods.md.

    make pods                                    takes an hour and a half on two cores; compiled steps are cached

Every row is the real train step, compiled for the slice by XLA's TPU compiler (codellama_jax/planning). Nothing is
measured. On the slice named in its size file, a stage has the settings of that file. On other slices, remat policies
are tried with the largest number of micro-batches until one fits, starting with the policy that saves the most
activations. Then the policy that fits is tried with fewer micro-batches.
"""

import argparse
import datetime
import importlib.metadata
import sys
import textwrap
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.run import Config
from codellama_jax.errors import UserError
from codellama_jax.planning import calibration
from codellama_jax.planning.aot_compile import Compiler, require_compiler
from codellama_jax.planning.chips import GiB, Topology, topology
from codellama_jax.planning.libtpu_flags import FAST, NONE
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
# size, stage, slice, Llama.product_dtype
ESTIMATES = (
    *((size, "code", OWN[size], "") for size in SIZES),
    *((size, "lcft", OWN[size], "") for size in ("7b", "70b")),
    *(("7b", "code", "v6e:8x8", dtype) for dtype in ("", "int8")),
    ("7b", "lcft", "v6e:8x8", ""),
    *(("34b", stage, "v6e:16x16", "") for stage in ("code", "lcft")),
    *(("7b", "code", "v5e:16x16", dtype) for dtype in ("", "int8")),
    ("7b", "lcft", "v5e:16x16", ""),
    *(("34b", stage, "v5e:16x16", "") for stage in ("code", "lcft")),
    *(("7b", "code", "tpu7x:4x4x4", dtype) for dtype in ("", "float8")),
)
# half of the chips of SLICES
HALF_SLICES = (
    *(("7b", name) for name in ("v4:4x4x4", "v5e:8x16", "v5p:2x4x4", "v6e:4x8")),
    *(("13b", name) for name in ("v5e:8x16", "v5p:2x4x4", "v6e:4x8")),
    *(("34b", name) for name in ("v5e:8x16", "v5p:2x4x4", "v6e:8x16")),
    *(("70b", name) for name in ("v4:4x8x8", "v5e:8x16", "v5p:4x4x8", "v6e:8x16")),
)
EIGHT_BIT_MOMENTS = ("AdamW.first_moment_dtype='int8'", "AdamW.second_moment_dtype='int8'")
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


def estimates(compilers: dict[str, Compiler], progress: Progress) -> list[str]:
    """A row for each of ESTIMATES, with and without the flags of the compiler (without: code in bfloat16 only)."""
    lines = [
        "| size | stage | slice | products | bindings | without flags, s per step | with, s per step | MFU"
        " | tokens/s/chip | expected | days | chip-hours |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for size, stage, name, dtype in ESTIMATES:
        slice_ = topology(name)
        progress.title = f"{size} {stage} on {slice_.name}, with the estimate"
        change, _ = best(load(size, stage), slice_, compilers[FAST])
        assert change, f"{size} {stage} is refused on {name}"
        bindings = [*change.bindings, *([f"Llama.product_dtype='{dtype}'"] if dtype else [])]
        config = load(size, stage, *bindings)
        result = summarize(config, slice_, compilers[FAST].analyze(config, slice_))
        without = "-"
        if stage == "code" and not dtype:
            plain = summarize(config, slice_, compilers[NONE].analyze(config, slice_))
            without = f"{plain['estimated_seconds']:.2f}" if plain["fits"] else "does not fit"
        expected = " to ".join(
            f"{speed:,.0f}" for speed in dict.fromkeys(result["expected_tokens_per_second_per_chip"])
        )
        lines.append(
            f"| {size} | {stage} | {name} | {dtype or 'bfloat16'}"
            f" | {' '.join(f'`--gin.{binding}`' for binding in change.bindings)} | {without}"
            f" | {result['estimated_seconds']:.2f} | {result['estimated_mfu']:.1%}"
            f" | {result['estimated_tokens_per_second_per_chip']:,.0f} | {expected}"
            f" | {result['days']:.1f} | {result['chip_hours']:,.0f} |"
        )
    return lines


def half_slices(compiler: Compiler, progress: Progress) -> list[str]:
    """Code training on half of the chips, with moments in float32 and in 8 bits."""
    lines = [
        "| size | slice | float32: fits | peak GiB | bindings | 8 bits: fits | peak GiB | bindings |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, name in HALF_SLICES:
        slice_ = topology(name)
        cells = []
        for bindings in ((), EIGHT_BIT_MOMENTS):
            progress.title = f"{size} code on {name} {' '.join(bindings)}"
            change, result = best(load(size, "code", *bindings), slice_, compiler)
            peak = f"{result['peak_bytes'] / GiB:.1f} of {result['hbm_bytes'] / GiB:.1f}"
            fits = "yes" if result["fits"] else "**no**"
            flags = " ".join(f"`--gin.{binding}`" for binding in change.bindings) if change and result["fits"] else ""
            cells.append(f"{fits} | {peak} | {flags}")
        lines.append(f"| {size} | {name} | {' | '.join(cells)} |")
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


LONG_BINDINGS = ("Llama.remat=full", "Stage.micro_batches=1")

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

From `plan` without `--no_estimate`. The estimate adds up the compiler's cycle estimates of all instructions in the
order of its schedule, the cycles of attention kernels (benchmarks/splash_cycles.py), and the part of collectives and
copies that is exposed, at the bandwidth of the links and of the memory.

{accuracy}
"Expected" is the estimate times the smallest and the largest of these ratios
([benchmarks/calibration.md](../benchmarks/calibration.md)).

Flags are those of the bundle `fast`, which planner and launcher use (launching.md); `--libtpu_bundle=none` is without.
Products in int8 and float8 are `Llama.product_dtype`; MFU is relative to the peak in bfloat16.

{estimates}

### What the flags are worth

The bundle against none is the ratio of the two columns of seconds. On v5p and v6e it has gathers and reductions on the
sparse cores and more on-chip memory for the tiles of products; on v5e and tpu7x only the latter; on v4 it has nothing,
because neither makes the program faster.

## Half of the chips

Code training on half of the chips of the tables above, with the moments of AdamW in float32 and in 8 bits
(`{moments}`). Policies and micro-batches are found as above.

{half}

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
    compilers = {bundle: Compiler(progress, bundle) for bundle in (NONE, FAST)}
    compiler = compilers[FAST]

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
        accuracy="\n".join(textwrap.wrap(calibration.accuracy(), 118)),
        estimates="\n".join(estimates(compilers, progress)),
        moments=" ".join(f"--gin.{binding}" for binding in EIGHT_BIT_MOMENTS),
        half="\n".join(half_slices(compiler, progress)),
        long="\n".join(long_contexts(compiler, progress)),
        bindings=" ".join(f"--gin.{binding}" for binding in LONG_BINDINGS),
    )
    before = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    _, heading, serving = before.partition("\n## Serving\n")  # written by benchmarks/serving_pods.py
    options.out.write_text(page + heading + serving, encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
