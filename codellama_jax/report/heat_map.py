"""Heat maps as inline SVG, in the style of charts.py."""

from collections.abc import Sequence

from codellama_jax.report.charts import escape, number

_LEFT, _TOP, _CELL = 76, 8, 34  # of the plot; height of a cell


def heat_map(
    title: str,
    unit: str,
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    x_label: str = "",
    note: str = "",
    wide: bool = False,
) -> str:
    """A heat map as an HTML figure; an empty string if it has no cells.

    Args:
        columns, rows: labels.
        values: [rows, columns], between 0 (page colour) and 1 (full colour), shown as percentages; None: no value.
        x_label: what the columns are.
        note: a sentence to show below the map.
        wide: whether it spans both columns of the page.
    """
    if not columns or not rows:
        return ""
    width, right = (1060, 1048) if wide else (510, 498)
    cell = (right - _LEFT) / len(columns)
    bottom = _TOP + _CELL * len(rows)
    svg = []
    for y, (row, cells) in enumerate(zip(rows, values, strict=True)):
        top = _TOP + _CELL * y
        svg += [f'<text x="{_LEFT - 8}" y="{top + _CELL / 2 + 4:.1f}" text-anchor="end">{escape(row)}</text>']
        for x, (column, value) in enumerate(zip(columns, cells, strict=True)):
            left = _LEFT + cell * x
            shade = 0.0 if value is None else min(max(value, 0.0), 1.0)
            shown = "–" if value is None else number(100 * value)
            svg += [
                f'<rect x="{left:.1f}" y="{top}" width="{cell - 2:.1f}" height="{_CELL - 2}" rx="3"'
                f' style="fill: color-mix(in srgb, var(--c1) {100 * shade:.0f}%, var(--page))">'
                f"<title>{escape(row)}, {escape(column)}: {shown}</title></rect>",
                f'<text x="{left + cell / 2 - 1:.1f}" y="{top + _CELL / 2 + 3:.1f}" text-anchor="middle"'
                f' style="fill: {"#fff" if shade > 0.55 else "var(--ink)"}">{shown}</text>',
            ]
    for x, column in enumerate(columns):
        centre = _LEFT + cell * (x + 0.5) - 1
        svg += [f'<text x="{centre:.1f}" y="{bottom + 14}" text-anchor="middle">{escape(column)}</text>']
    svg += [f'<text x="{right}" y="{bottom + 30}" text-anchor="end">{escape(x_label)}</text>']
    name = escape(title)
    return f"""<figure class="card{" wide" if wide else ""}">
<figcaption><b>{name}</b> <span class="muted">{escape(unit)}</span></figcaption>
<div class="scroll"><svg viewBox="0 0 {width} {bottom + 36}" role="img" aria-label="{name}">{"".join(svg)}</svg></div>
{f"<p>{escape(note)}</p>" if note else ""}</figure>"""
