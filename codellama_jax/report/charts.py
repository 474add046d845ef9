"""Line charts as inline SVG: no scripts, no libraries, legible on light and dark pages.

Colours are CSS classes (c0, c1, ...) that the page defines.
"""

import html
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

Points = list[tuple[float, float]]

_MAX_POINTS, _MAX_DOTS = 600, 40  # per line: more are not distinguishable on a screen, and make the page large
NOISY = 100  # a loss with more points than this is drawn faint, with its running mean

# Control characters are invalid in HTML: C0 are shown as control pictures, C1 as the replacement character. Characters
# that reorder text, end lines or are invisible are shown as their code, because they hide what a program says. The
# joiners U+200C and U+200D are not: scripts and emoji need them.
_HIDDEN = (
    0x61C,
    0x200B,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xE0000, 0xE0080),
)
_VISIBLE: dict[int, int | str] = {code: f"⟨U+{code:04X}⟩" for code in _HIDDEN}
_VISIBLE |= dict.fromkeys((*range(127, 160), 0xFFFE, 0xFFFF), 0xFFFD)
_VISIBLE |= {code: 0x2400 + code for code in range(32) if code not in (9, 10)}


def escape(text: str) -> str:
    """Text for HTML, with control characters and other invisible ones made visible."""
    return html.escape(text.replace("\r\n", "\n").translate(_VISIBLE))


def number(value: float | None) -> str:
    """A number for readers: 7.63, 8.2k, 1.266M, 2e-4."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):.4g}e{int(exponent)}"
    return f"{value:.4g}"


class Line(NamedTuple):
    """One line of a chart, drawn plain, noisy (faint, under its running mean), marked with dots, or only as rings."""

    label: str  # lines with the same label share an entry in the legend
    points: Points
    colour: str  # CSS class
    style: Literal["plain", "noisy", "marked", "rings"] = "plain"


# Largest over smallest value of a log-10 axis -> the ticks of each decade.
_MANTISSAS: dict[float, tuple[float, ...]] = {20: (1, 1.5, 2, 3, 5, 7), 1000: (1, 2, 5), math.inf: (1,)}


def _axis(
    values: list[float], span: tuple[int, int], pad: float, ticks: int, log: int = 0, zero: bool = False
) -> tuple[list[float], Callable[[float], float]]:
    """Round ticks over the values, and the function from a value to its coordinate.

    Args:
        span: coordinates of both ends.
        pad: padding at both ends, as a share of the values' extent.
        ticks: approximate number of ticks.
        log: base of a logarithmic axis, 2 or 10; 0: a linear axis.
        zero: whether the axis starts at 0.
    """
    warp = math.log if log else float
    low, high = warp(min(values)), warp(max(values))
    low = min(low, 0.0) if zero else low
    margin = pad * (high - low) if high > low else 0.5
    low, high = low - margin * (not zero), high + margin

    def coordinate(value: float) -> float:
        return span[0] + (warp(value) - low) / (high - low) * (span[1] - span[0])

    if log == 2:
        return [2.0**e for e in range(math.ceil(low / math.log(2)), math.floor(high / math.log(2)) + 1)], coordinate
    if not log or high - low < math.log(4):  # equal steps are more readable on a short logarithmic axis
        return round_numbers(math.exp(low) if log else low, math.exp(high) if log else high, ticks), coordinate
    mantissas = next(m for ratio, m in _MANTISSAS.items() if high - low < math.log(ratio))
    decades = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)))
    return [m * 10.0**e for e in decades for m in mantissas if low <= math.log(m * 10.0**e) <= high], coordinate


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two numbers, in equal steps."""
    magnitude = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude * count >= 0.999 * (high - low))
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thin(points: Points, limit: int) -> Points:
    """At most `limit` of the points: the first, the last, and the extremes of equal parts, so that spikes remain."""
    if len(points) <= limit:
        return points
    parts, kept = limit // 2 - 1, {points[0], points[-1]}
    for i in range(parts):
        part = points[i * len(points) // parts : (i + 1) * len(points) // parts]
        kept |= {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
    return sorted(kept)


def _running_mean(points: Points) -> Points:
    """Means over a window of 1/25 of the points around each; the window shrinks towards both ends."""
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    widths = [min(len(points) // 50, i, len(points) - 1 - i) for i in range(len(points))]
    return [(points[i][0], (sums[i + w + 1] - sums[i - w]) / (2 * w + 1)) for i, w in enumerate(widths)]


def chart(
    title: str,
    unit: str,
    x_label: str,
    lines: list[Line],
    *,
    wide: bool = False,
    zero: bool = False,
    log: bool = False,
    log_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> str:
    """A line chart as an HTML figure with inline SVG; an empty string if there are no points.

    Args:
        wide: whether the chart spans both columns.
        zero: whether the y axis starts at 0.
        log: whether to use a log-2 x axis and a log-10 y axis.
        log_x: whether to use a log-2 x axis and a linear y axis.
        marks: (x, label) of each vertical dashed line.
        note: a sentence to show below the chart.
    """
    lines = [line._replace(points=[p for p in line.points if not log or min(p) > 0]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points] + [x for x, _ in marks]
    ys = [y for line in lines for _, y in line.points]
    width, left, right, bottom = 1060 if wide else 510, 46, 1048 if wide else 498, 266
    log_x = log or log_x
    x_ticks, x_at = _axis(xs, (left, right), 0.03 * log_x, 10 if wide else 6, 2 * log_x)
    labels = _mark_labels([(x_at(x), text) for x, text in marks], width)
    top = 23 + max((y for _, _, y, _ in labels), default=-15)
    y_ticks, y_at = _axis(ys, (bottom, top), 0.06, 5, 10 * log, zero)

    def polyline(css: str, points: Points) -> str:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in _thin(points, _MAX_POINTS))
        return f'<polyline class="{css}" points="{path}"/>'

    svg = [_text(right, 297, x_label, "end")]
    for tick in y_ticks:
        svg += [f'<path d="M{left} {y_at(tick):.1f}H{right}"/>', _text(left - 6, y_at(tick) + 4, number(tick), "end")]
    for tick in (tick for tick in x_ticks if tick == round(tick)):  # steps are integers
        label = f"{tick / 1024:g}K" if log_x and tick >= 1024 else number(tick)
        svg += [f'<path class="axis" d="M{x_at(tick):.1f} {bottom}v4"/>', _text(x_at(tick), 282, label, "middle")]
    svg += [f'<path class="axis" d="M{left} {bottom}H{right}"/>']
    for x, label_x, label_y, label in labels:
        svg += [f'<path class="mark" d="M{x:.1f} {label_y - 10}V{bottom}"/>', _text(label_x, label_y, label, "start")]
    for label, points, colour, style in lines:
        svg += [f'<g class="{colour}"><title>{escape(label or title)}</title>']
        if style == "noisy" and len(points) > NOISY:
            svg += [polyline("faint", points), polyline("", _running_mean(points))]
        elif style != "rings":
            svg += [polyline("", points)]
        for x, y in _thin(points, _MAX_DOTS) if style in ("marked", "rings") or len(points) == 1 else []:
            tip = f"<title>{escape(label)} at {x:,.0f}: {number(y)}</title>"
            svg += [f'<circle class="{style}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3">{tip}</circle>']
        svg += ["</g>"]
    keys = dict.fromkeys((label, "muted" if style == "rings" else colour, style) for label, _, colour, style in lines)
    legend = [f'<li class="{css}"><i class="{style}"></i>{escape(label)}</li>' for label, css, style in keys if label]
    return f"""<figure class="card{" wide" if wide else ""}">
<figcaption><b>{title}</b> <span class="muted">{unit}</span><ul class="legend">{"".join(legend)}</ul></figcaption>
<div class="scroll"><svg viewBox="0 0 {width} 300" role="img" aria-label="{title}">{"".join(svg)}</svg></div>
{f"<p>{escape(note)}</p>" if note else ""}</figure>"""


def _text(x: float, y: float, text: str, anchor: Literal["start", "middle", "end"]) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _mark_labels(marks: list[tuple[float, str]], width: int) -> list[tuple[float, float, int, str]]:
    """(x, x of the label, y of the label, label); labels that would overlap are placed in further rows."""
    ends: list[float] = []  # right end of each row
    placed = []
    for x, text in marks:
        extent = 7.0 * len(text) + 8
        label_x = min(x + 5, width - extent)
        row = next((i for i, end in enumerate(ends) if end <= label_x), len(ends))
        ends[row : row + 1] = [label_x + extent]
        placed.append((x, label_x, 13 + 15 * row, text))
    return placed
