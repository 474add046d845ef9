"""What a stage of a size needs and costs on a slice of TPUs, without one: whether it fits, how fast it can be.

    python -m codellama_jax.plan --gin_file=gin/code.gin --gin_file=gin/models/7b.gin --topology=v5p:4x4x4 [--json]

The train step is compiled for the slice (codellama_jax/planning). Nothing of it is measured: what is printed is a
bound, which no run can beat, and an estimate. Corpora, tokenizer and checkpoint are not needed.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from codellama_jax import configuration, program
from codellama_jax.errors import EXIT_DONE, UserError
from codellama_jax.planning.chips import CHIPS, GiB, Topology, topology
from codellama_jax.planning.compiled import NEEDED, Compiler, require_compiler
from tasks.config import Tokenizer

TRIED_SLICES = 3  # doublings of the slice that are tried for a stage that does not fit


def main(argv: list[str] | None = None) -> int:
    """Prints the plan of a stage; returns the exit code (0 done, whether it fits or not, 1 failed, 2 wrong usage)."""
    parser = argparse.ArgumentParser(prog="python -m codellama_jax.plan", description="Plans a stage for TPUs.")
    parser.add_argument("--topology", required=True, help=f"the slice, such as v5p:4x4x4; {', '.join(CHIPS)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no_estimate", action="store_true", help="the bound only: seconds instead of minutes")
    return program.run(parser, argv, _plan, _explain)


def _explain(error: BaseException) -> str | None:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else program.explained(error)


def _plan(flags: configuration.Flags, options: argparse.Namespace) -> int:
    slice_ = topology(options.topology)
    configuration.load(flags.gin_files, flags.bindings)
    config = resolve()
    require_compiler()
    result = plan(config, slice_, Progress(), estimate=not options.no_estimate)
    print(json.dumps(result, indent=1) if options.json else table(result))
    return EXIT_DONE


def resolve() -> configuration.Config:
    """The parts of the loaded configuration that shape a step; a vocabulary that the tokenizer decides is its size."""
    config = configuration.resolve(*NEEDED)
    if config.llama.vocab_size == 0:
        tokenizer = configuration.resolve(Tokenizer).tokenizer
        rows = tokenizer.vocab_size + 16 * tokenizer.infilling
        config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, vocab_size=rows))
    return config


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
    config: configuration.Config, slice_: Topology, progress: Progress, *, estimate: bool = True
) -> dict[str, Any]:
    """The plan of a stage, as --json prints it.

    Raises:
        UserError: the stage cannot be cut as its mesh says, or does not compile for another reason than memory.
    """
    stage = config.stage
    compiler = Compiler(progress)
    progress.title = f"{stage.size} {stage.name} on {slice_.name}"
    facts = compiler.facts(config, slice_, estimate=estimate)
    result = summary(config, slice_, facts)
    if not facts["fits"]:
        result["missing_bytes"] = facts["peak_bytes"] - facts["hbm_bytes"]
        result["remedy"] = remedy(config, slice_, compiler, progress)
    return result


def summary(config: configuration.Config, slice_: Topology, facts: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a compiled step. FLOPs are those of all chips, bytes those of one device."""
    stage, llama = config.stage, config.llama
    model_flops = llama.train_flops_per_token(stage.sequence_length) * stage.batch_tokens
    peak = slice_.chips * slice_.chip.flops
    result: dict[str, Any] = {
        "stage": stage.name,
        "size": stage.size,
        "topology": slice_.name,
        "accelerator": slice_.cloud_name,
        "chips": slice_.chips,
        "devices": slice_.devices,
        "hosts": -(-slice_.chips // slice_.chip.host_chips),
        "mesh": facts["mesh"],
        "micro_batches": stage.micro_batches,
        "remat": llama.remat,
        "batch_tokens": stage.batch_tokens,
        "sequence_length": stage.sequence_length,
        "parameters": llama.parameters,
        "fits": facts["fits"],
        "peak_bytes": facts["peak_bytes"],
        "hbm_bytes": facts["hbm_bytes"],
        **{f"{part}_bytes": facts[f"{part}_bytes"] for part in ("argument", "parameter", "optimizer", "batch")},
        "temp_bytes": facts["peak_bytes"] - facts["argument_bytes"],
        "model_flops": model_flops,
        "steps": stage.steps,
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
            "bound_chip_hours": seconds[by] * stage.steps * slice_.chips / 3600,
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
            "days": estimated * stage.steps / 86400,
            "chip_hours": estimated * stage.steps * slice_.chips / 3600,
            "program_bytes": facts["program_bytes"],
        }
        if published := slice_.chip.published_mfu:
            result["published_mfu"] = list(published)
            result["estimate_over_published"] = [mfu / published[1] - 1, mfu / published[0] - 1]
    return result


# ---------------------------------------------------------------- what would make it fit


@dataclasses.dataclass(frozen=True)
class Change:
    """A change to a stage that does not fit: bindings to add, and the slice."""

    bindings: tuple[str, ...]
    slice_: Topology
    config: configuration.Config


def changes(config: configuration.Config, slice_: Topology) -> Iterator[Change]:
    """Changes to try, the cheapest first: more micro-batches, everything recomputed as well, then larger slices."""
    full = dataclasses.replace(config, llama=dataclasses.replace(config.llama, remat="full"))
    remats = [(config, ())] if config.llama.remat == "full" else [(config, ()), (full, ("Llama.remat=full",))]
    where: Topology | None = slice_
    for _ in range(TRIED_SLICES + 1):
        if where is None:
            return
        for base, bindings in remats:
            for micro_batches in _micro_batches(config, where):
                binding = f"Stage.micro_batches={micro_batches}"
                more = (*bindings, *([binding] if micro_batches != config.stage.micro_batches else []))
                if more or where is not slice_:
                    stage = dataclasses.replace(config.stage, micro_batches=micro_batches)
                    yield Change(more, where, dataclasses.replace(base, stage=stage))
        where = where.larger()


def _micro_batches(config: configuration.Config, where: Topology) -> list[int]:
    """As many as there are, then twice as many and so on, while every device has a window in each."""
    mesh, stage = config.mesh, config.stage
    rows = max(where.devices // max(mesh.context, 1) // max(mesh.tensor, 1), 1)
    counts, count = [], stage.micro_batches
    while stage.batch_size % (count * rows) == 0:
        counts.append(count)
        count *= 2
    return counts


def remedy(
    config: configuration.Config, slice_: Topology, compiler: Compiler, progress: Progress
) -> dict[str, Any] | None:
    """The first of the changes with which the stage fits; None if none of them helps."""
    title = progress.title
    for change in changes(config, slice_):
        progress.title = f"{title} does not fit; with {' '.join((*change.bindings, change.slice_.name))}"
        try:
            facts = compiler.facts(change.config, change.slice_, estimate=False)
        except UserError:
            continue  # a slice that the batch cannot be cut for
        if facts["fits"]:
            return {
                "bindings": list(change.bindings),
                "topology": change.slice_.name,
                "chips": change.slice_.chips,
                "peak_bytes": facts["peak_bytes"],
            }
    return None


# ---------------------------------------------------------------- the table


def table(result: dict[str, Any]) -> str:
    """A plan for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    windows = result["batch_tokens"] // result["sequence_length"]
    title = f"{result['size']} {result['stage']} on {result['topology']}"
    rows: list[tuple[str, str]] = [
        ("slice", f"{result['accelerator']}: {result['chips']} chips, {result['hosts']} hosts"),
        ("mesh", f"{mesh}, micro-batches {result['micro_batches']}, remat {result['remat']}"),
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
    return f"the stage: {result['steps']:,} steps, {seconds * result['steps'] / 86400:,.1f} days"


def _gib(size: float) -> str:
    return f"{size / GiB:,.2f} GiB"


def _lines(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([title, *(f"{name:{width}}{value}".rstrip() for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
