"""What a stage of a size needs and costs on a slice of TPUs, without one: whether it fits, how fast it can be.

    python -m codellama_jax.plan --gin_file=gin/code.gin --gin_file=gin/models/7b.gin --topology=v5p:4x4x4 [--json]
                                 [--slices=N] [--no_estimate] [--forward | --search]

The train step is compiled for the slice (codellama_jax/planning). Nothing of it is measured: what is printed is a
bound, which no run can beat, and an estimate. Corpora, tokenizer and checkpoint are not needed.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.config.bindings import Bindings
from codellama_jax.config.data import Tokenizer
from codellama_jax.config.run import Config
from codellama_jax.errors import EXIT_DONE
from codellama_jax.planning.aot_compile import NEEDED, Compiler, require_compiler
from codellama_jax.planning.chips import CHIPS, GiB, Topology, topology
from codellama_jax.planning.search import TRIED_SLICES, Change, remedy, search
from codellama_jax.runtime import cli


def main(argv: list[str] | None = None) -> int:
    """Prints the plan of a stage; returns the exit code (0 done, whether it fits or not, 1 failed, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.plan", description="Plans a stage for TPUs.")
    parser.add_argument("--topology", required=True, help=f"the slice, such as v5p:4x4x4; {', '.join(CHIPS)}")
    parser.add_argument("--slices", type=int, default=1, help="so many of them, with a copy of the parameters on each")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no_estimate", action="store_true", help="the bound only: seconds instead of minutes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--forward", action="store_true", help="plan an evaluation of such a batch, not a train step")
    what.add_argument(
        "--search", action="store_true", help="try remat policies, micro-batches and meshes: rank what fits"
    )
    return cli.run(parser, argv, _plan, _explain)


def _explain(error: BaseException) -> str | None:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else cli.describe_os_error(error)


def _plan(flags: gin_files.Flags, options: argparse.Namespace) -> int:
    slice_ = topology(options.topology, options.slices)
    config = shaping_config(gin_files.load(flags.gin_files, flags.bindings, imports=flags.imports))
    require_compiler()
    progress = Progress()
    if options.search:
        ranking = searched(config, slice_, progress)
        print(json.dumps(ranking, indent=1) if options.json else ranking_table(config, slice_, ranking))
        return EXIT_DONE
    result = plan(config, slice_, progress, estimate=not options.no_estimate, forward=options.forward)
    print(json.dumps(result, indent=1) if options.json else table(result))
    return EXIT_DONE


def shaping_config(bindings: Bindings) -> Config:
    """The parts of a configuration that shape a step. A vocabulary size that is left to the tokenizer is filled in."""
    config = bindings.resolve(*NEEDED)
    return config if config.llama.vocab_size else with_vocabulary(config, bindings.resolve(Tokenizer).tokenizer)


def with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The configuration with the vocabulary's size where that is left to the tokenizer."""
    if config.llama.vocab_size:
        return config
    rows = tokenizer.vocab_size + 16 * tokenizer.infilling
    return dataclasses.replace(config, llama=dataclasses.replace(config.llama, vocab_size=rows))


class Progress:
    """Says on stderr what is going on: in one line that is rewritten, or on no terminal a line now and then."""

    SECONDS = 30.0

    def __init__(self) -> None:
        self.title = ""
        self._said, self._of = time.monotonic(), ""

    def __call__(self, words: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty():
            text = f"{self.title}: {words}" if words else ""
            sys.stderr.write(f"\r\033[K{text[:118]}")
        elif words and (self.title != self._of or now - self._said > self.SECONDS):
            self._said, self._of = now, self.title
            sys.stderr.write(f"{self.title}: {words}\n")
        sys.stderr.flush()


def plan(
    config: Config, slice_: Topology, progress: Progress, *, estimate: bool = True, forward: bool = False
) -> dict[str, Any]:
    """The plan of a stage, as --json prints it; with `forward` that of an evaluation of one batch of it.

    Raises:
        UserError: the stage cannot be cut as its mesh says, or does not compile for another reason than memory.
    """
    stage = config.stage
    compiler = Compiler(progress)
    progress.title = title = f"{stage.size} {stage.name} on {slice_.name}"
    facts = compiler.facts(config, slice_, estimate=estimate, forward=forward)
    result = summary(config, slice_, facts, forward=forward)
    if not facts["fits"]:

        def trying(words: str) -> None:
            progress.title = f"{title} {words}"

        result["missing_bytes"] = facts["peak_bytes"] - facts["hbm_bytes"]
        result["remedy"] = remedy(config, slice_, compiler, trying, forward=forward)
    return result


def searched(config: Config, slice_: Topology, progress: Progress) -> list[dict[str, Any]]:
    """What fits of the ways to compute the stage on the slice, the fastest by its bound first: the plan of each, with
    the bindings that ask for it."""
    title = f"{config.stage.size} {config.stage.name} on {slice_.name}"

    def trying(words: str) -> None:
        progress.title = f"{title}: {words}"

    found: list[tuple[Change, dict[str, Any]]] = search(config, slice_, Compiler(progress), trying)
    return [{"bindings": list(c.bindings), **summary(c.config, slice_, facts)} for c, facts in found]


def summary(config: Config, slice_: Topology, facts: dict[str, Any], *, forward: bool = False) -> dict[str, Any]:
    """What is printed of a compiled step. FLOPs are those of all chips, bytes those of one device."""
    stage, llama = config.stage, config.llama
    flops_per_token = llama.train_flops_per_token(stage.sequence_length) / (3 if forward else 1)
    model_flops = flops_per_token * stage.batch_tokens
    peak = slice_.chips * slice_.chip.flops
    result: dict[str, Any] = {
        "stage": stage.name,
        "size": stage.size,
        "topology": slice_.name,
        "accelerator": slice_.cloud_name,
        "chips": slice_.chips,
        "devices": slice_.devices,
        "hosts": slice_.hosts,
        "slices": slice_.slices,
        "pass": "forward" if forward else "train",
        "mesh": facts["mesh"],
        "micro_batches": stage.micro_batches,
        "remat": llama.remat,
        "offload": llama.offload,
        "batch_tokens": stage.batch_tokens,
        "sequence_length": stage.sequence_length,
        "parameters": llama.parameters,
        "fits": facts["fits"],
        "peak_bytes": facts["peak_bytes"],
        "hbm_bytes": facts["hbm_bytes"],
        **{f"{part}_bytes": facts[f"{part}_bytes"] for part in ("argument", "parameter", "optimizer", "batch")},
        "temp_bytes": facts["peak_bytes"] - facts["argument_bytes"],
        "model_flops": model_flops,
        "steps": 1 if forward else stage.steps,
        "compile_seconds": facts["seconds"],
        "compiler_memory_bytes": facts.get("compiler_memory"),
    }
    empty = ("compiled_flops", "memory_bytes", "collective_bytes", "bound_seconds", "bound_by", "bound_mfu")
    result |= dict.fromkeys((*empty, "bound_chip_hours", "estimated_seconds", "estimated_mfu", "chip_hours"))
    if facts["fits"]:
        seconds = facts["bound"]
        by = max(seconds, key=seconds.__getitem__)
        result |= {
            "compiled_flops": (facts["product_flops"] + facts["attention_flops"]) * slice_.devices,
            "attention_flops": facts["attention_flops"] * slice_.devices,
            "memory_bytes": facts["memory_bytes"],
            "collective_bytes": facts["collective_bytes"],
            "bounds": seconds,
            "bound_by": by,
            "bound_seconds": seconds[by],
            "bound_mfu": model_flops / peak / seconds[by],
            "bound_chip_hours": seconds[by] * result["steps"] * slice_.chips / 3600,
            "unknown_loops": facts["unknown_loops"],
            "recomputed_by_the_compiler": facts["recomputed"],
        }
    if facts["fits"] and facts["estimate"]:
        estimated = facts["estimate"]["total"]
        mfu = model_flops / peak / estimated
        result |= {
            "estimated_seconds": estimated,
            "estimated_parts": {part: time for part, time in facts["estimate"].items() if part != "total"},
            "estimated_mfu": mfu,
            "estimated_tokens_per_second_per_chip": stage.batch_tokens / estimated / slice_.chips,
            "days": estimated * result["steps"] / 86400,
            "chip_hours": estimated * result["steps"] * slice_.chips / 3600,
            "program_bytes": facts["program_bytes"],
        }
        if published := slice_.chip.published_mfu:
            result["published_mfu"] = list(published)
            result["estimate_over_published"] = [mfu / published[1] - 1, mfu / published[0] - 1]
    return result


# ---------------------------------------------------------------- the table


def table(result: dict[str, Any]) -> str:
    """A plan for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    windows = result["batch_tokens"] // result["sequence_length"]
    forward = result["pass"] == "forward"
    title = f"{result['size']} {result['stage']}{', evaluation,' if forward else ''} on {result['topology']}"
    remat = f"remat {result['remat']}" + (f", offload {result['offload']}" if result["offload"] else "")
    rows: list[tuple[str, str]] = [
        ("slice", f"{result['accelerator']}: {result['chips']} chips, {result['hosts']} hosts"),
        ("mesh", f"{mesh}, micro-batches {result['micro_batches']}, {remat}"),
        ("batch", f"{result['batch_tokens']:,} tokens: {windows:,} windows of {result['sequence_length']:,}"),
        ("parameters", f"{result['parameters']:,}"),
        ("", ""),
        ("memory of a device", f"{_gib(result['peak_bytes'])} at the peak, of {_gib(result['hbm_bytes'])}"),
        ("  parameters", _gib(result["parameter_bytes"])),
        ("  optimiser", _gib(result["optimizer_bytes"])),
        ("  temporaries", _gib(result["temp_bytes"])),
    ]
    if not result["fits"]:
        rows.append(("DOES NOT FIT", f"{_gib(result['missing_bytes'])} are missing on every device"))
        rows.append(("cheapest change", _change(result["remedy"])))
        return _lines(title, rows)
    by_kind = result["collective_bytes"].items()
    sizes = sorted(((size, kind, axes) for kind, parts in by_kind for axes, size in parts.items()), reverse=True)
    sent = [f"{size / 1e9:,.1f} GB {kind} over {axes}" for size, kind, axes in sizes if size > sizes[0][0] / 1000]
    bounds = ", ".join(f"{term} {seconds:.2f} s" for term, seconds in result["bounds"].items())
    ratio = result["compiled_flops"] / result["model_flops"]
    rows += [
        ("FITS", f"{_gib(result['hbm_bytes'] - result['peak_bytes'])} to spare"),
        ("", ""),
        ("model FLOPs a step", f"{result['model_flops']:.3e} (the formula, attention causal)"),
        ("compiled FLOPs", f"{result['compiled_flops']:.3e}, {ratio:.3f} times the model's"),
        ("moved in memory", f"{result['memory_bytes'] / 1e12:.2f} TB a device"),
        ("sent by a device", sent[0] if sent else "nothing to speak of"),
        *(("", line) for line in sent[1:]),
        ("", ""),
        ("BOUND", f"{result['bound_seconds']:.2f} s a step by {result['bound_by']}, {result['bound_mfu']:.1%} MFU"),
        ("", bounds),
        ("", f"{_stage(result, result['bound_seconds'])}, {result['bound_chip_hours']:,.0f} chip-hours at the least"),
    ]
    if result["estimated_seconds"]:
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in result["estimated_parts"].items())
        speed = f"{result['estimated_tokens_per_second_per_chip']:,.0f} tokens/s/chip"
        seconds = result["estimated_seconds"]
        rows += [
            ("", ""),
            ("ESTIMATE", f"{seconds:.2f} s a step, {result['estimated_mfu']:.1%} MFU, {speed}"),
            ("", parts),
            ("", f"{_stage(result, seconds)}, {result['chip_hours']:,.0f} chip-hours"),
            *(("", line) for line in _error(result)),
        ]
    if result["recomputed_by_the_compiler"]:
        count = result["recomputed_by_the_compiler"]
        rows.append(("NOTE", f"it fits because the compiler does {count} instructions twice, of its own accord:"))
        rows.append(("", "more micro-batches, or a larger slice, may be faster"))
    if result["unknown_loops"]:
        rows.append(("NOTE", f"loops whose length is unknown are counted once: {', '.join(result['unknown_loops'])}"))
    return _lines(title, rows)


def _error(result: dict[str, Any]) -> list[str]:
    """What is known of the estimate's error."""
    if "published_mfu" not in result:
        return ["nothing here is measured, and no published run on this chip is known to hold it against"]
    low, high = result["published_mfu"]
    published = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    off = " to ".join(f"{part:+.0%}" for part in dict.fromkeys(result["estimate_over_published"]))
    return [
        f"nothing here is measured; published runs on this chip reach {published} MFU,",
        f"the estimate is off by {off}",
    ]


def _change(found: dict[str, Any] | None) -> str:
    if found is None:
        return f"none found among micro-batches, remat and {TRIED_SLICES} doublings of the slice"
    flags = [f"--gin.{binding}" for binding in found["bindings"]]
    return f"{' '.join([*flags, '--topology=' + found['topology']])} ({_gib(found['peak_bytes'])} at the peak)"


def _stage(result: dict[str, Any], seconds: float) -> str:
    if result["pass"] == "forward":
        return "one batch"
    return f"the stage: {result['steps']:,} steps, {seconds * result['steps'] / 86400:,.1f} days"


def ranking_table(config: Config, slice_: Topology, ranking: Sequence[dict[str, Any]]) -> str:
    """A ranking for people."""
    title = f"{config.stage.size} {config.stage.name} on {slice_.name}: what fits, by its bound (not measured)"
    if not ranking:
        return f"{title}\nnothing that was tried fits: a larger slice, or shorter windows"
    lines = [f"{'bound':>9}  {'MFU':>5}  {'by':12}  {'peak':>10}  bindings"]
    for plan in ranking:
        flags = " ".join(plan["bindings"]) or "as it is"
        bound = f"{plan['bound_seconds']:.2f} s"
        lines.append(
            f"{bound:>9}  {plan['bound_mfu']:5.1%}  {plan['bound_by']:12}  {_gib(plan['peak_bytes']):>10}  {flags}"
        )
    return "\n".join([title, *lines])


def _gib(size: float) -> str:
    return f"{size / GiB:,.2f} GiB"


def _lines(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([title, *(f"{name:{width}}{value}".rstrip() for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
