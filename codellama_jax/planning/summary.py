"""The plan of a stage as one dict: figures of its compiled step and of the complete stage."""

from typing import Any

from codellama_jax.config.run import Config
from codellama_jax.planning import calibration
from codellama_jax.planning.chips import Topology


def summarize(config: Config, slice_: Topology, analysis: dict[str, Any], *, forward: bool = False) -> dict[str, Any]:
    """The plan of a stage from the compiler's analysis of its step. FLOPs are of all chips, bytes are per device."""
    stage, llama = config.stage, config.llama
    length = stage.sequence_length
    trained, evaluated = config.lora.train_flops_per_token(llama, length), llama.train_flops_per_token(length) / 3
    flops_per_token = evaluated if forward else trained
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
        "mesh": analysis["mesh"],
        "micro_batches": stage.micro_batches,
        "remat": llama.remat,
        "offload": llama.offload,
        "batch_tokens": stage.batch_tokens,
        "sequence_length": stage.sequence_length,
        "parameters": llama.parameters,
        "adapter_parameters": config.lora.parameters(llama),
        "fits": analysis["fits"],
        "peak_bytes": analysis["peak_bytes"],
        "hbm_bytes": analysis["hbm_bytes"],
        **{f"{part}_bytes": analysis[f"{part}_bytes"] for part in ("argument", "parameter", "optimizer", "batch")},
        "base_bytes": analysis.get("base_bytes", 0),
        "temp_bytes": analysis["peak_bytes"] - analysis["argument_bytes"],
        "model_flops": model_flops,
        "steps": 1 if forward else stage.steps,
        "compile_seconds": analysis["seconds"],
        "compiler_memory_bytes": analysis.get("compiler_memory"),
    }
    # these keys are always present; they are null if the step does not fit, or without the estimate
    result |= dict.fromkeys(
        (
            "compiled_flops",
            "attention_blocks",
            "memory_bytes",
            "collective_bytes",
            "bound_seconds",
            "bound_by",
            "bound_mfu",
            "evaluation",
        )
    )
    result |= dict.fromkeys(("bound_chip_hours", "estimated_seconds", "estimated_mfu", "chip_hours"))
    if analysis["fits"]:
        seconds = analysis["bound"]
        limit = max(seconds, key=seconds.__getitem__)
        result |= {
            "compiled_flops": (analysis["product_flops"] + analysis["attention_flops"]) * slice_.devices,
            "attention_flops": analysis["attention_flops"] * slice_.devices,
            "attention_blocks": analysis["attention_blocks"],
            "memory_bytes": analysis["memory_bytes"],
            "collective_bytes": analysis["collective_bytes"],
            "bounds": seconds,
            "bound_by": limit,
            "bound_seconds": seconds[limit],
            "bound_mfu": model_flops / peak / seconds[limit],
            "bound_chip_hours": seconds[limit] * result["steps"] * slice_.chips / 3600,
            "unknown_loops": analysis["unknown_loops"],
            "recomputed_by_the_compiler": analysis["recomputed"],
        }
    if analysis["fits"] and analysis["estimate"]:
        estimated = analysis["estimate"]["total"]
        mfu = model_flops / peak / estimated
        result |= {
            "estimated_seconds": estimated,
            "estimated_parts": {part: time for part, time in analysis["estimate"].items() if part != "total"},
            "estimated_mfu": mfu,
            "estimated_tokens_per_second_per_chip": stage.batch_tokens / estimated / slice_.chips,
            "days": estimated * result["steps"] / 86400,
            "chip_hours": estimated * result["steps"] * slice_.chips / 3600,
            "program_bytes": analysis["program_bytes"],
        }
        ratios, speed = calibration.ratios(slice_.chip.name), result["estimated_tokens_per_second_per_chip"]
        result["measured_over_estimated"] = list(ratios)
        result["measured_on_this_chip"] = slice_.chip.name in calibration.RATIOS
        result["expected_tokens_per_second_per_chip"] = [speed * min(ratios), speed * max(ratios)]
    return result
