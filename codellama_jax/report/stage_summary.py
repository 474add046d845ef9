"""The summary of a stage: what stage.json and done.json contain, and the lines that the user sees at its end."""

import datetime
import statistics
from collections.abc import Sequence
from typing import Any

from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import Stage
from codellama_jax.report.goodput import goodput


def describe(config: Config, llama: Llama, shares: dict[str, float], devices: str) -> dict[str, Any]:
    """What the report shows about a stage before its first step, for stage.json.

    Args:
        config: configuration of the run.
        llama: the model, with the vocabulary of the tokenizer.
        shares: stream -> share of the tokens.
        devices: number and kind of the devices.
    """
    stage = config.stage
    return {
        "stage": stage.name,
        "size": stage.size,
        "parent": stage.parent,
        "initial_checkpoint": config.checkpoints.initial,
        "steps": stage.steps,
        "batch_tokens": stage.batch_tokens,
        "sequence_length": stage.sequence_length,
        "parameters": llama.parameters,
        "adapters": adapters(config, llama),
        "vocab_size": llama.vocab_size,
        "rope_theta": llama.rope_theta,
        "rope_scale": llama.rope_scale,
        "rope_type": llama.rope_type,
        "shares": shares,
        "devices": devices,
        "peak_learning_rate": config.adamw.peak_learning_rate,
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
    }


def adapters(config: Config, llama: Llama) -> str | None:
    """The adapters that a stage trains, in words; None: it trains all parameters."""
    lora = config.lora
    if not lora.rank:
        return None
    return f"{lora.parameters(llama):,} parameters of rank {lora.rank} beside {lora.targets}, frozen {lora.base_dtype}"


def summarize(
    stage: Stage, metrics: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], step: int
) -> dict[str, Any]:
    """The figures of a finished stage, for done.json.

    Args:
        stage: settings of the stage.
        metrics, evaluations: the lines of metrics.jsonl and evaluations.jsonl.
        step: the step that the stage ends with; early stopping has trained further.
    """
    trained = len(metrics)
    evaluations = [line for line in evaluations if line["step"] <= step]
    validation = [line for line in evaluations if line["kind"] == "validation"]
    curves = {line["when"]: line for line in evaluations if line["kind"] == "context"}
    measured = [line for line in evaluations if line["kind"] == "benchmarks"] or [{}]
    return {
        "step": step,
        "trained_steps": trained,
        "seconds": sum(line["seconds"] for line in metrics),
        "tokens": trained * stage.batch_tokens,
        "goodput": goodput(metrics),
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in metrics),
        "validation_loss_first": validation[0]["loss"],
        "validation_loss_last": validation[-1]["loss"],
        "context_length": curves["after"]["lengths"][-1] if "after" in curves else None,
        "perplexity_before": curves["before"]["perplexity"][-1] if "before" in curves else None,
        "perplexity_after": curves["after"]["perplexity"][-1] if "after" in curves else None,
        "bits_per_byte": {
            key.removeprefix("bits_per_byte/"): [measured[0].get(key), last]
            for key, last in measured[-1].items()
            if key.startswith("bits_per_byte/")
        },
    }


def conclusion(summary: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """The lines to show to the user when a stage has finished.

    Args:
        summary: from `summarize`.
        results: name of a benchmark -> its results at the end of the stage.
    """
    lines = [
        f"validation loss {summary['validation_loss_first']:.3f} -> {summary['validation_loss_last']:.3f} nats"
        f" in {summary['tokens']:,} tokens, {summary['tokens_per_second']:,.0f} tokens/s"
    ]
    if summary["perplexity_before"] is not None:
        change = summary["perplexity_after"] / summary["perplexity_before"] - 1
        lines.append(
            f"perplexity at {summary['context_length']} tokens of context {summary['perplexity_before']:.1f}"
            f" -> {summary['perplexity_after']:.1f} ({change:+.0%})"
        )
    for name, (first, last) in summary["bits_per_byte"].items():
        if first is not None and last is not None:
            lines.append(f"bits per byte of {name} {first:.3f} -> {last:.3f}")
    for name, found in results.items():
        for variant, entry in found.get("variants", {"": found}).items():
            if "pass@1" in entry:
                low, high = entry["pass@1_interval"]
                label, interval = f"{name} {variant}".strip(), f"95% interval {low:.1%} to {high:.1%}"
                lines.append(f"pass@1 of {label} {entry['pass@1']:.1%} ({interval}, {entry['tasks']:,} problems)")
    return lines
