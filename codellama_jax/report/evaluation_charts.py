"""Charts of the results of evaluations."""

from collections.abc import Mapping
from typing import Any

from codellama_jax.report.charts import Line, chart, escape, number
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


def group_bars(benchmark: str, results: Mapping[str, Any]) -> str:
    """The scores of groups, from the results of a benchmark that has some ("SCORE_of_groups"), as bars."""
    tables = []
    for key, groups in results.items():
        if not key.endswith("_of_groups") or not isinstance(groups, Mapping) or not groups:
            continue
        largest = max(abs(value) for value in groups.values()) or 1.0
        rows = "".join(
            f'<tr><th>{escape(group)}</th><td class="bars"><i class="{"c4" if value < 0 else "c1"}"'
            f' style="width:{100 * abs(value) / largest:.1f}%"></i></td><td>{number(value)}</td></tr>'
            for group, value in groups.items()
        )
        score = escape(f"{benchmark}: {key.removesuffix('_of_groups')}")
        tables.append(
            f"""<section class="card"><b>{score}</b> <span class="muted">by group; orange: below 0</span>
<table>{rows}</table></section>"""
        )
    return "".join(tables)
