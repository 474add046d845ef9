"""Charts of the results of evaluations."""

from collections.abc import Mapping
from typing import Any

from codellama_jax.report.charts import Line, chart
from codellama_jax.report.heat_map import heat_map


def key_retrieval_map(results: Mapping[str, Any], whose: str = "") -> str:
    """The accuracy of key retrieval, by length and position, from the results of that benchmark.

    Args:
        whose: whose results they are, if not those of the report's model.
    """
    accuracy: Mapping[str, Mapping[str, float]] = results.get("accuracy", {})
    lengths = sorted(accuracy, key=int)
    positions = sorted({position for row in accuracy.values() for position in row}, key=float)
    return heat_map(
        f"Key retrieval of {whose}" if whose else "Key retrieval",
        "% right, by tokens of the prompt and position of the function",
        [f"{int(length):,}" for length in lengths],
        [f"at {position}" for position in positions],
        [[accuracy[length].get(position) for length in lengths] for position in positions],
        x_label="tokens",
    )


def perplexity_chart(results: Mapping[str, Any]) -> str:
    """Perplexity by the length of the context, with a line for each RoPE setting, from the results of perplexity."""
    variants: Mapping[str, Mapping[str, Any]] = results.get("variants") or {"": results}
    lines = [
        Line(
            name,
            list(zip(found.get("context_lengths", []), found.get("perplexity_by_context", []), strict=True)),
            f"c{1 + index % 6}",
            "marked",
        )
        for index, (name, found) in enumerate(variants.items())
    ]
    return chart("Perplexity", "of code, by the tokens before it", "tokens of context", lines, wide=True)
