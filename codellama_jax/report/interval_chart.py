"""Values with their intervals, one below the other, as inline SVG in the style of charts.py."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from codellama_jax.report.charts import escape, number, round_numbers

_ROW, _TOP, _RIGHT, _WIDTH = 24, 10, 1040, 1060  # height of a row, and the sides of the plot
_LETTER = 6.4  # approximate width of a letter


class Interval(NamedTuple):
    """A row of the chart.

    Attributes:
        label: its name.
        value: drawn as a dot.
        low, high: drawn as a line.
        colour: CSS class.
        rings: (value, what it is) of published values, drawn as rings.
    """

    label: str
    value: float
    low: float
    high: float
    colour: str
    rings: Sequence[tuple[float, str]] = ()


def interval_chart(title: str, unit: str, rows: Sequence[Interval], legend: Sequence[tuple[str, str]] = ()) -> str:
    """An HTML figure; an empty string without rows.

    Args:
        title, unit, legend: plain text; the legend has (text, CSS class).
        rows: values, which are shown as they are: percentages are between 0 and 100.
    """
    if not rows:
        return ""
    values = [value for row in rows for value in (row.low, row.value, row.high, *(ring for ring, _ in row.rings), 0.0)]
    low, high = min(values), max(values)
    margin = 0.03 * (high - low) or 0.5
    low, high = (low - margin if low < 0 else 0.0), (high + margin if high > 0 or low == high else 0.0)
    left = min(400.0, 24 + _LETTER * max(len(row.label) for row in rows))
    bottom = _TOP + _ROW * len(rows)

    def x_at(value: float) -> float:
        return left + (value - low) / (high - low) * (_RIGHT - left)

    svg = []
    for tick in round_numbers(low, high, 8):
        x = x_at(tick)
        svg += [f'<path d="M{x:.1f} {_TOP}V{bottom}"/>', _text(x, bottom + 15, number(tick), "middle")]
    svg += [f'<path class="axis" d="M{x_at(0):.1f} {_TOP}V{bottom}"/>']
    for index, row in enumerate(rows):
        y = _TOP + _ROW * (index + 0.5)
        interval = f"{number(row.value)}, {number(row.low)} to {number(row.high)}"
        svg += [_text(left - 8, y + 4, _fitting(row.label, left), "end"), f'<g class="{row.colour}">']
        svg += [f"<title>{escape(row.label)}: {interval}</title>"]
        if math.isfinite(row.low) and math.isfinite(row.high):
            ends = " ".join(f"{x_at(value):.1f},{y:.1f}" for value in (row.low, row.high))
            svg += [f'<polyline class="whisker" points="{ends}"/>']
        svg += [f'<circle cx="{x_at(row.value):.1f}" cy="{y:.1f}" r="4.5"/></g>']
        for ring, what in row.rings:
            tip = f"<title>{escape(what)}: {number(ring)}</title>"
            svg += [f'<circle class="rings published" cx="{x_at(ring):.1f}" cy="{y:.1f}" r="4">{tip}</circle>']
    items = "".join(
        f'<li class="{css}"><i class="{"rings" if css == "muted" else ""}"></i>{escape(text)}</li>'
        for text, css in legend
    )
    return f"""<figure class="card wide">
<figcaption><b>{escape(title)}</b> <span class="muted">{escape(unit)}</span><ul class="legend">{items}</ul></figcaption>
<div class="scroll"><svg viewBox="0 0 {_WIDTH} {bottom + 24}" role="img" aria-label="{escape(title)}">
{"".join(svg)}</svg></div></figure>"""


def _fitting(label: str, width: float) -> str:
    """The label, shortened to a width."""
    most = int((width - 12) / _LETTER)
    return label if len(label) <= most else label[: most - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


STYLE = """
polyline.whisker { stroke-width: 5; stroke-linecap: round; opacity: .35; }
circle.published { stroke: var(--muted); }
"""
