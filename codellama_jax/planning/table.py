"""Plans as text tables."""

from collections.abc import Sequence
from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.planning.chips import GiB, Topology
from codellama_jax.planning.search import MAX_DOUBLINGS


def plan_table(result: dict[str, Any]) -> str:
    """A plan as a table."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in result["mesh"].items() if size > 1) or "one device"
    windows = result["batch_tokens"] // result["sequence_length"]
    forward = result["pass"] == "forward"
    title = f"{result['size']} {result['stage']}{', evaluation,' if forward else ''} on {result['topology']}"
    remat = f"remat {result['remat']}" + (f", offload {result['offload']}" if result["offload"] else "")
    rows: list[tuple[str, str]] = [
        ("slice", f"{result['accelerator']}: {result['chips']} chips, {result['hosts']} hosts"),
        ("mesh", f"{mesh}, micro-batches {result['micro_batches']}, {remat}"),
        *_kernels(result["attention_blocks"] or {}),
        ("batch", f"{result['batch_tokens']:,} tokens: {windows:,} windows of {result['sequence_length']:,}"),
        ("parameters", f"{result['parameters']:,}"),
        *([("trained", f"{count:,}, in adapters")] if (count := result["adapter_parameters"]) else []),
        ("", ""),
        ("memory per device", f"peak {_gib(result['peak_bytes'])} of {_gib(result['hbm_bytes'])}"),
        *([("  frozen", _gib(result["base_bytes"]))] if result["base_bytes"] else []),
        ("  parameters", _gib(result["parameter_bytes"])),
        ("  optimiser", _gib(result["optimizer_bytes"])),
        ("  temporaries", _gib(result["temp_bytes"])),
    ]
    if not result["fits"]:
        rows.append(("DOES NOT FIT", f"each device needs {_gib(result['missing_bytes'])} more"))
        rows.append(("cheapest change", _remedy(result["remedy"])))
        return _aligned(title, rows)
    by_kind = result["collective_bytes"].items()
    sizes = sorted(((size, kind, axes) for kind, parts in by_kind for axes, size in parts.items()), reverse=True)
    sent = [f"{size / 1e9:,.1f} GB {kind} over {axes}" for size, kind, axes in sizes if size > sizes[0][0] / 1000]
    bounds = ", ".join(f"{limit} {seconds:.2f} s" for limit, seconds in result["bounds"].items())
    ratio = result["compiled_flops"] / result["model_flops"]
    rows += [
        ("FITS", f"{_gib(result['hbm_bytes'] - result['peak_bytes'])} free"),
        ("", ""),
        ("model FLOPs per step", f"{result['model_flops']:.3e} (formula, causal attention)"),
        ("compiled FLOPs", f"{result['compiled_flops']:.3e}, {ratio:.3f} times the model's"),
        ("memory traffic", f"{result['memory_bytes'] / 1e12:.2f} TB per device"),
        ("sent per device", sent[0] if sent else "nothing"),
        *(("", line) for line in sent[1:]),
        ("", ""),
        ("BOUND", f"{result['bound_seconds']:.2f} s per step by {result['bound_by']}, {result['bound_mfu']:.1%} MFU"),
        ("", bounds),
        ("", f"{_duration(result, result['bound_seconds'])}, at least {result['bound_chip_hours']:,.0f} chip-hours"),
    ]
    if result["estimated_seconds"]:
        parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in result["estimated_parts"].items())
        speed = f"{result['estimated_tokens_per_second_per_chip']:,.0f} tokens/s/chip"
        seconds = result["estimated_seconds"]
        rows += [
            ("", ""),
            ("ESTIMATE", f"{seconds:.2f} s per step, {result['estimated_mfu']:.1%} MFU, {speed}"),
            ("", parts),
            ("", f"{_duration(result, seconds)}, {result['chip_hours']:,.0f} chip-hours"),
            *(("", line) for line in _accuracy(result)),
        ]
    if evaluation := result["evaluation"]:
        rows += [("", ""), *_evaluation(evaluation)]
    if result["recomputed_by_the_compiler"]:
        count = result["recomputed_by_the_compiler"]
        rows.append(("NOTE", f"the step fits only because the compiler rematerialises {count} instructions by itself:"))
        rows.append(("", "more micro-batches or a larger slice may be faster"))
    if result["unknown_loops"]:
        rows.append(("NOTE", f"loops with unknown trip counts are counted once: {', '.join(result['unknown_loops'])}"))
    return _aligned(title, rows)


def _kernels(blocks: dict[str, int]) -> list[tuple[str, str]]:
    """The block sizes of the attention kernels."""
    text = ", ".join(f"{phase} {size:,}" for phase, size in blocks.items())
    return [("attention", f"splash kernels in blocks of: {text}")] if text else []


def _evaluation(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """The cost of the evaluations during the stage."""
    parts = [
        f"{name}: {part['tokens']:,} tokens, {part['flops']:.2e} FLOPs, {part['seconds']:.2f} s"
        for name, part in (("validation", cost["validation"]), ("benchmarks", cost["benchmarks"]))
        if part
    ]
    every = f"every {cost['every']:,} steps, which take {cost['interval_seconds'] / 3600:,.2f} h"
    share = f"{cost['share']:.2%} of the time of the stage"
    if cost["benchmarks"]:
        share += f", of which benchmarks {cost['benchmarks_share']:.3%}: {', '.join(cost['benchmarks']['names'])}"
    return [("EVALUATION", every), *(("", text) for text in (*parts, share))]


def _accuracy(result: dict[str, Any]) -> list[str]:
    """What is known about the accuracy of the estimate."""
    ratios = result["measured_over_estimated"]
    low, high = result["expected_tokens_per_second_per_chip"]
    chips = "this chip" if result["measured_on_this_chip"] else "other chips"
    each = f"{ratios[0]:.2f} of its estimated speed"
    if len(ratios) > 1:
        each = f"{min(ratios):.2f} to {max(ratios):.2f} of their estimated speed"
    runs = "a published run" if len(ratios) == 1 else f"{len(ratios)} published runs"
    return [
        f"not measured; {runs} on {chips} had {each},",
        f"which would be {low:,.0f} to {high:,.0f} tokens/s/chip here",
    ]


def _remedy(change: dict[str, Any] | None) -> str:
    if change is None:
        return f"none found with more micro-batches, full remat and up to {MAX_DOUBLINGS} doublings of the slice"
    flags = [f"--gin.{binding}" for binding in change["bindings"]]
    return f"{' '.join([*flags, '--topology=' + change['topology']])} (peak {_gib(change['peak_bytes'])})"


def _duration(result: dict[str, Any], seconds: float) -> str:
    if result["pass"] == "forward":
        return "one batch"
    return f"the stage: {result['steps']:,} steps, {seconds * result['steps'] / 86400:,.1f} days"


def ranking_table(config: Config, slice_: Topology, ranking: Sequence[dict[str, Any]]) -> str:
    """A ranking of plans as a table."""
    title = f"{config.stage.size} {config.stage.name} on {slice_.name}: settings that fit, by bound (not measured)"
    if not ranking:
        return f"{title}\nnone of the settings fits: use a larger slice or shorter windows"
    lines = [f"{'bound':>9}  {'MFU':>5}  {'by':12}  {'peak':>10}  bindings"]
    for plan in ranking:
        flags = " ".join(plan["bindings"]) or "(unchanged)"
        bound = f"{plan['bound_seconds']:.2f} s"
        lines.append(
            f"{bound:>9}  {plan['bound_mfu']:5.1%}  {plan['bound_by']:12}  {_gib(plan['peak_bytes']):>10}  {flags}"
        )
    return "\n".join([title, *lines])


def _gib(size: float) -> str:
    return f"{size / GiB:,.2f} GiB"


def _aligned(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join([title, *(f"{name:{width}}{value}".rstrip() for name, value in rows)])
