"""The files of a run as self-contained HTML pages: no server, no scripts, nothing loaded from anywhere.

A page is built from the files alone, so it can be written while a stage runs, when it is done, or years later.
"""

import contextlib
import dataclasses
import datetime
import html
import itertools
import json
import math
import os
import pathlib
import statistics
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

Record = dict[str, Any]
Points = list[tuple[float, float]]

_STREAMS = ("code", "python", "nl_code", "nl", "instruct")  # in a fixed order: a stream has one colour on all pages
_MAX_POINTS, _MAX_DOTS = 600, 40  # of a line: more cannot be told apart on a screen and make the page heavy
_NOISY = 100  # a loss with more points than this is drawn faint, with its running mean


def write_stage_report(stage_dir: pathlib.Path) -> pathlib.Path:
    """Writes stage_dir/report.html from the files of a stage and returns its path.

    Only stage.json must be there; of the rest, the page shows what there is.
    """
    folder = _read_folder(stage_dir)
    name, size = _esc(folder.name), _esc(folder.stage["size"])
    config = f"<summary>Operative configuration</summary><pre>{_esc(folder.config)}</pre>"
    body = f"""
<header><h1>{name} <small>{size}</small></h1>{_state(folder)}<p class="muted">{_facts(folder.stage)}</p></header>
{_figures(folder)}
<div class="grid">
{_loss_chart([folder])}
{_mixture(folder)}
{_context_chart(folder)}
{_chart("Learning rate", "", "step", [_Line("", _points(folder.metrics, "learning_rate"), "c1")], zero=True)}
{_chart("Speed", "tokens/s", "step", [_Line("", _points(folder.metrics, "tokens_per_second"), "c1")], zero=True)}
</div>
{_samples(folder)}
{f'<details class="card">{config}</details>' if folder.config else ""}"""
    return _write(stage_dir / "report.html", f"{name} {size}", body)


def write_run_report(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes run_dir/report.html, the cascade so far, and returns its path.

    The stages are the folders of run_dir that have a stage.json. A stage's own report is linked if it is there already.
    """
    folders = _cascade_order([_read_folder(path.parent) for path in run_dir.glob("*/stage.json")])
    compared = [folder for folder in folders if {"before", "after"} <= folder.contexts.keys()]
    sampled = [folder for folder in folders if folder.samples]
    title = f"Run {_esc(run_dir.resolve().name)}"
    finished = f"{sum(bool(folder.done) for folder in folders)} of {len(folders)} stages finished"
    body = f"""
<header><h1>{title}</h1><p class="muted">{finished}</p></header>
{_cascade(folders)}
<div class="grid">
{_loss_chart(folders)}
{_context_chart(compared[-1]) if compared else ""}
{"".join(_mixture(folder) for folder in folders)}
</div>
{_samples(sampled[-1]) if sampled else ""}"""
    return _write(run_dir / "report.html", title, body)


def _write(path: pathlib.Path, title: str, body: str) -> pathlib.Path:
    """A reader sees the old page or the new one, never a part. Lone surrogates become question marks."""
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>{body}
<footer class="muted">written {datetime.datetime.now().isoformat(" ", "minutes")}</footer>
</body>
</html>
"""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


# Reading.


@dataclasses.dataclass(frozen=True, eq=False)
class _Folder:
    """What the files of a stage say, empty where a file is not there yet."""

    path: pathlib.Path
    name: str
    stage: Record
    metrics: list[Record]
    validations: list[Record]
    contexts: dict[str, Record]  # "before" and "after"
    samples: list[Record]
    done: Record
    config: str

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.metrics[-1]["step"] if self.metrics else self.done.get("step", 0))

    @property
    def streams(self) -> list[str]:
        """Those planned, then any other that was seen."""
        seen = (key.removeprefix("tokens/") for record in self.metrics for key in record if key.startswith("tokens/"))
        return list(dict.fromkeys([*self.stage["shares"], *seen]))


def _read_folder(path: pathlib.Path) -> _Folder:
    stage = json.loads((path / "stage.json").read_text(encoding="utf-8"))
    evaluations = _read_lines(path / "evaluations.jsonl")
    return _Folder(
        path,
        stage["stage"],
        stage,
        metrics=_last_attempt(_read_lines(path / "metrics.jsonl")),
        validations=_last_attempt([record for record in evaluations if record["kind"] == "validation"]),
        contexts={record["when"]: record for record in evaluations if record["kind"] == "context"},
        samples=_parse(_read_text(path / "samples.json")) or [],
        done=_parse(_read_text(path / "done.json")) or {},
        config=_read_text(path / "config.gin"),
    )


def _read_text(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _parse(text: str) -> Any:
    """None for text that is empty or half written."""
    with contextlib.suppress(ValueError):
        return json.loads(text)


def _read_lines(path: pathlib.Path) -> list[Record]:
    records = map(_parse, _read_text(path).split("\n"))
    return [record for record in records if isinstance(record, dict)]


def _last_attempt(records: list[Record]) -> list[Record]:
    """Without the steps that a restart from an earlier checkpoint did again."""
    kept: list[Record] = []
    for record in records:
        while kept and kept[-1]["step"] >= record["step"]:
            kept.pop()
        kept.append(record)
    return kept


def _cascade_order(folders: list[_Folder]) -> list[_Folder]:
    """Each stage after its parent, and with it the stages that come from it."""
    waiting = sorted(folders, key=lambda folder: (folder.stage["started"], folder.name))
    names = {folder.name for folder in folders}
    ordered: list[_Folder] = []

    def add(folder: _Folder) -> None:
        waiting.remove(folder)
        ordered.append(folder)
        while child := next((other for other in waiting if other.stage["parent"] == folder.name), None):
            add(child)

    while waiting:  # the default is for stages that name one another as parents
        add(next((folder for folder in waiting if folder.stage["parent"] not in names), waiting[0]))
    return ordered


def _points(records: list[Record], key: str, start: float = 0, scale: float = 1) -> Points:
    """(start + scale * step, value) of the records that have a finite value."""
    return [(start + scale * record["step"], record[key]) for record in records if _finite(record.get(key))]


def _total(records: list[Record], key: str) -> float:
    return sum(value for _, value in _points(records, key))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


# Words and numbers.

# Control characters have no place in HTML: C0 are shown as their pictures, C1 as the replacement character.
_VISIBLE = dict.fromkeys(range(127, 160), 0xFFFD) | {code: 0x2400 + code for code in range(32) if code not in (9, 10)}


def _esc(text: str) -> str:
    return html.escape(text.replace("\r\n", "\n").translate(_VISIBLE))


def _number(value: float | None) -> str:
    """As a person would write it: 7.63, 8.2k, 1.266M, 2e-4."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{letter}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:e}".split("e")
        return f"{float(mantissa):.4g}e{int(exponent)}"
    return f"{value:.4g}"


def _state(folder: _Folder) -> str:
    if folder.done:
        return '<span class="state finished">finished</span>'
    at = f"at step {folder.step:,} of {folder.stage['steps']:,}" if folder.step else "no steps yet"
    return f'<span class="state">{at}</span>'


def _facts(stage: Record) -> str:
    scale = f" scale {stage['rope_scale']:g}" if stage["rope_scale"] != 1 else ""
    return _esc(
        f"{'from ' + stage['parent'] if stage['parent'] else 'first of its line'} · "
        f"{stage['steps']:,} steps of {stage['batch_tokens']:,} tokens · windows of {stage['sequence_length']:,} · "
        f"vocabulary {stage['vocab_size']:,} · RoPE base {stage['rope_theta']:,.0f}{scale} · "
        f"peak learning rate {_number(stage['peak_learning_rate'])} · {stage['devices']} · "
        f"started {stage['started'][:16].replace('T', ' ')}"
    )


def _summary(folder: _Folder) -> Record:
    """What done.json says; before it is there, the same from the other files."""
    validation = [loss for _, loss in _points(folder.validations, "loss")]
    summary: Record = {
        "seconds": _total(folder.metrics, "seconds"),
        "tokens": folder.step * folder.stage["batch_tokens"],
        "validation_loss_first": validation[0] if validation else None,
        "validation_loss_last": validation[-1] if len(validation) > 1 else None,
        "context_length": 0,
    }
    for when, record in folder.contexts.items():
        summary |= {"context_length": record["lengths"][-1], f"perplexity_{when}": record["perplexity"][-1]}
    return summary | {key: value for key, value in folder.done.items() if value is not None}


def _figures(folder: _Folder) -> str:
    """The key figures, those that are known."""
    summary = _summary(folder)
    speeds = [speed for _, speed in _points(folder.metrics, "tokens_per_second")]
    losses = [summary[f"validation_loss_{end}"] for end in ("first", "last")]
    perplexities = [_number(summary.get(f"perplexity_{when}")) for when in ("before", "after")]
    figures = {
        "parameters": _number(folder.stage["parameters"]),
        "tokens trained": _number(summary["tokens"]) if folder.step else "",
        "time": str(datetime.timedelta(seconds=round(summary["seconds"]))) if folder.step else "",
        "tokens/s, median": f"{statistics.median(speeds):,.0f}" if speeds else "",
        "validation loss": " → ".join(f"{y:.2f}" if _finite(y) else "–" for y in losses) if losses[0] else "",
        f"perplexity at {summary['context_length']:,}": " → ".join(perplexities) if summary["context_length"] else "",
    }
    known = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures.items() if value)
    return f'<dl class="figures">{known}</dl>'


# Charts.


class _Line(NamedTuple):
    label: str  # lines with one label share its entry in the legend
    points: Points
    colour: str  # CSS class
    style: Literal["plain", "noisy", "marked", "rings"] = "plain"


# Largest over smallest value of a log-10 axis -> the ticks of each decade.
_MANTISSAS: dict[float, tuple[float, ...]] = {20: (1, 1.5, 2, 3, 5, 7), 1000: (1, 2, 5), math.inf: (1,)}


def _axis(
    values: list[float], span: tuple[int, int], pad: float, ticks: int, log: int = 0, zero: bool = False
) -> tuple[list[float], Callable[[float], float]]:
    """Round ticks over the values, and the function that places a value on the span of the drawing.

    Args:
        pad: room at both ends, as a share of the values' extent.
        ticks: about how many.
        log: base of a logarithmic axis, 2 or 10.
        zero: the axis starts at 0.
    """
    warp = math.log if log else float
    low, high = warp(min(values)), warp(max(values))
    low = min(low, 0.0) if zero else low
    margin = pad * (high - low) if high > low else 0.5
    low, high = low - margin * (not zero), high + margin

    def place(value: float) -> float:
        return span[0] + (warp(value) - low) / (high - low) * (span[1] - span[0])

    if log == 2:
        return [2.0**e for e in range(math.ceil(low / math.log(2)), math.floor(high / math.log(2)) + 1)], place
    if not log or high - low < math.log(4):  # on so short a logarithmic axis equal steps read best
        return _round_numbers(math.exp(low) if log else low, math.exp(high) if log else high, ticks), place
    mantissas = next(m for ratio, m in _MANTISSAS.items() if high - low < math.log(ratio))
    decades = range(math.floor(low / math.log(10)), math.ceil(high / math.log(10)))
    return [m * 10.0**e for e in decades for m in mantissas if low <= math.log(m * 10.0**e) <= high], place


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    magnitude = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude * count >= 0.999 * (high - low))
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _thin(points: Points, limit: int) -> Points:
    """At most `limit` of the points: the first, the last, and the extremes of equal parts, so that spikes stay."""
    if len(points) <= limit:
        return points
    parts, kept = limit // 2 - 1, {points[0], points[-1]}
    for i in range(parts):
        part = points[i * len(points) // parts : (i + 1) * len(points) // parts]
        kept |= {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
    return sorted(kept)


def _running_mean(points: Points) -> Points:
    """Means over 1/25 of the points around each; over fewer towards the ends, which stay in place."""
    sums = list(itertools.accumulate((y for _, y in points), initial=0.0))
    widths = [min(len(points) // 50, i, len(points) - 1 - i) for i in range(len(points))]
    return [(points[i][0], (sums[i + w + 1] - sums[i - w]) / (2 * w + 1)) for i, w in enumerate(widths)]


def _chart(
    title: str,
    unit: str,
    x_label: str,
    lines: list[_Line],
    *,
    wide: bool = False,
    zero: bool = False,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    note: str = "",
) -> str:
    """A line chart as a figure with inline SVG; nothing at all without points.

    Args:
        wide: over both columns.
        zero: the y axis starts at 0.
        log: log-2 x axis and log-10 y axis.
        marks: (x, label) of vertical dashed lines.
        note: a sentence below.
    """
    lines = [line._replace(points=[p for p in line.points if not log or min(p) > 0]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points] + [x for x, _ in marks]
    ys = [y for line in lines for _, y in line.points]
    width, left, right, bottom = 1060 if wide else 510, 46, 1048 if wide else 498, 266
    x_ticks, x_at = _axis(xs, (left, right), 0.03 * log, 10 if wide else 6, 2 * log)
    labels = _mark_labels([(x_at(x), text) for x, text in marks], width)
    top = 23 + max((y for _, _, y, _ in labels), default=-15)
    y_ticks, y_at = _axis(ys, (bottom, top), 0.06, 5, 10 * log, zero)

    def polyline(css: str, points: Points) -> str:
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in _thin(points, _MAX_POINTS))
        return f'<polyline class="{css}" points="{path}"/>'

    svg = [_text(right, 297, x_label, "end")]
    for tick in y_ticks:
        svg += [f'<path d="M{left} {y_at(tick):.1f}H{right}"/>', _text(left - 6, y_at(tick) + 4, _number(tick), "end")]
    for tick in (tick for tick in x_ticks if tick == round(tick)):  # there are no half steps
        label = f"{tick / 1024:g}K" if log and tick >= 1024 else _number(tick)
        svg += [f'<path class="axis" d="M{x_at(tick):.1f} {bottom}v4"/>', _text(x_at(tick), 282, label, "middle")]
    svg += [f'<path class="axis" d="M{left} {bottom}H{right}"/>']
    for x, label_x, label_y, label in labels:
        svg += [f'<path class="mark" d="M{x:.1f} {label_y - 10}V{bottom}"/>', _text(label_x, label_y, label, "start")]
    for label, points, colour, style in lines:
        svg += [f'<g class="{colour}"><title>{_esc(label or title)}</title>']
        if style == "noisy" and len(points) > _NOISY:
            svg += [polyline("faint", points), polyline("", _running_mean(points))]
        elif style != "rings":
            svg += [polyline("", points)]
        for x, y in _thin(points, _MAX_DOTS) if style in ("marked", "rings") or len(points) == 1 else []:
            tip = f"<title>{_esc(label)} at {x:,.0f}: {_number(y)}</title>"
            svg += [f'<circle class="{style}" cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3">{tip}</circle>']
        svg += ["</g>"]
    keys = dict.fromkeys((label, "muted" if style == "rings" else colour, style) for label, _, colour, style in lines)
    legend = [f'<li class="{css}"><i class="{style}"></i>{_esc(label)}</li>' for label, css, style in keys if label]
    return f"""<figure class="card{" wide" if wide else ""}">
<figcaption><b>{title}</b> <span class="muted">{unit}</span><ul class="legend">{"".join(legend)}</ul></figcaption>
<div class="scroll"><svg viewBox="0 0 {width} 300" role="img" aria-label="{title}">{"".join(svg)}</svg></div>
{f"<p>{_esc(note)}</p>" if note else ""}</figure>"""


def _text(x: float, y: float, text: str, anchor: Literal["start", "middle", "end"]) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_esc(text)}</text>'


def _mark_labels(marks: list[tuple[float, str]], width: int) -> list[tuple[float, float, int, str]]:
    """(x, x of the label, y of the label, label), in as many rows as it takes for labels not to overlap."""
    ends: list[float] = []  # of each row
    placed = []
    for x, text in marks:
        extent = 7.0 * len(text) + 8
        label_x = min(x + 5, width - extent)
        row = next((i for i, end in enumerate(ends) if end <= label_x), len(ends))
        ends[row : row + 1] = [label_x + extent]
        placed.append((x, label_x, 13 + 15 * row, text))
    return placed


def _colour(stream: str) -> str:
    return f"c{_STREAMS.index(stream) + 1 if stream in _STREAMS else 6}"


def _loss_chart(folders: list[_Folder]) -> str:
    """Against the steps of one stage, or against the tokens of several stages one after another."""
    lines, marks, start = [], [], 0
    for folder in (folder for folder in folders if folder.metrics):
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        keys = [(stream, f"loss/{stream}", _colour(stream)) for stream in folder.streams] + [("all", "loss", "c0")]
        for label, key, colour in keys:
            lines.append(_Line(label, _points(folder.metrics, key, start, scale), colour, "noisy"))
        for _, key, colour in keys:
            lines.append(_Line("validation", _points(folder.validations, key, start, scale), colour, "rings"))
        marks.append((float(start), folder.name))
        start += folder.step * scale
    if not lines:
        return '<p class="card wide">No steps yet.</p>'
    note = "Faint: every step. Strong: the running mean." if any(len(line.points) > _NOISY for line in lines) else ""
    if len(folders) == 1:
        return _chart("Loss", "nats per token", "step", lines, wide=True, note=note)
    unit = "nats per token, stages one after another"
    return _chart("Loss", unit, "tokens", lines, wide=True, marks=marks, note=note)


def _context_chart(folder: _Folder) -> str:
    """Perplexity against the position in the context, before and after the stage."""
    lines, marks, told, note = [], [], [], ""
    for when, colour in (("before", "c4"), ("after", "c1")):
        if record := folder.contexts.get(when):
            name, length, lengths, values = (record[k] for k in ("stage", "trained_length", "lengths", "perplexity"))
            points = [(x, y) for x, y in zip(lengths, values, strict=True) if _finite(y)]
            lines.append(_Line(f"{when}: {name}, RoPE base {record['rope_theta']:,.0f}", points, colour, "marked"))
            marks.append((length, f"{name} trained on {length:,}"))
            told.append(f"{_number(values[-1])} {when} {folder.name}")
            first, last = [0, *lengths][-2] + 1, lengths[-1]
            note = f"At positions {first:,} to {last:,} the perplexity is {' and '.join(told)}."
    title = "Perplexity against context length"
    return _chart(title, "", "position of the token", lines, log=True, marks=marks[:1], note=note)


# The other parts of a page.


def _mixture(folder: _Folder) -> str:
    """Shares of the streams, and of the tokens under infilling, as planned and as seen so far."""
    seen = {stream: _total(folder.metrics, f"tokens/{stream}") for stream in folder.streams}
    everything = sum(seen.values())
    rows = [(stream, _colour(stream), folder.stage["shares"].get(stream, 0), seen[stream]) for stream in seen]
    rows.append(("under infilling", "c0", None, _total(folder.metrics, "infilling_tokens")))
    table = ""
    for label, colour, planned, tokens in rows:
        bars = numbers = ""
        for css, share in (("planned", planned), ("seen", tokens / everything if everything else None)):
            bars += "" if share is None else f'<i class="{css}" style="width:{share:.2%}"></i>'
            numbers += "<td>–</td>" if share is None else f"<td>{share:.1%}</td>"
        table += f'<tr class="{colour}"><th>{_esc(label)}</th><td class="bars">{bars}</td>{numbers}</tr>'
    return f"""<section class="card">
<b>Mixture of {_esc(folder.name)}</b> <span class="muted">share of the tokens, planned (pale) and seen</span>
<table><tr class="muted"><td></td><td></td><td>planned</td><td>seen</td></tr>{table}</table></section>"""


def _cascade(folders: list[_Folder]) -> str:
    """The stages with arrows from parent to child; one whose parent is not the one before it starts a line."""
    items = []
    for i, folder in enumerate(folders):
        parent, name = folder.stage["parent"], _esc(folder.name)
        follows = i > 0 and parent == folders[i - 1].name
        if (folder.path / "report.html").exists():
            name = f'<a href="{urllib.parse.quote(folder.path.name)}/report.html">{name}</a>'
        items.append(f'<li class="{"arrow" if follows else "break"}">{"→" if follows else ""}</li>')
        origin = f'<p class="muted">from {_esc(parent)}</p>' if parent and not follows else ""
        items.append(f'<li class="card"><h2>{name}</h2>{_state(folder)}{origin}{_figures(folder)}</li>')
    return f'<ol class="cascade">{"".join(items)}</ol>'


def _samples(folder: _Folder) -> str:
    """The generated middles between the end of their prefix and the start of their suffix, and the real middles."""
    blocks = []
    for sample in folder.samples:
        prefix = "\n".join(sample["prefix"].split("\n")[-12:])[-1200:]
        suffix = "\n".join(sample["suffix"].split("\n")[:8])[:800]
        before, after = "⋯\n" * (prefix != sample["prefix"]), "\n⋯" * (suffix != sample["suffix"])
        same = " · the same as the real middle" * (sample["generated"].strip() == sample["middle"].strip())
        blocks.append(f"""<article class="card">
<div><b>{_esc(sample["stream"])}</b> <span class="muted">{_esc(sample["order"].upper())} order{same}</span>
<pre><span>{before}{_esc(prefix)}</span><mark>{_esc(sample["generated"])}</mark><span>{_esc(suffix)}{after}</span></pre></div>
<div><span class="muted">The real middle</span><pre><ins>{_esc(sample["middle"])}</ins></pre></div></article>""")
    return f"<h2>Infilling by {_esc(folder.name)}</h2>{''.join(blocks)}" if blocks else ""


# The colours of lines are after Okabe and Ito's, which colour-blind readers can tell apart.
_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f27; --muted: #667080; --rule: #e5e8ed;
  --c1: #0072b2; --c2: #c98600; --c3: #008f6b; --c4: #d55e00; --c5: #b5579a; --c6: #4aa3d8; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b1f27; --ink: #e8eaee; --muted: #99a2b1;
  --rule: #2e3541; --c1: #4fa9e2; --c2: #eeb033; --c3: #2fc49c; --c4: #f4813c; --c5: #de8fc4; --c6: #8ccdf4; } }
.c0 { --c: var(--ink); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1132px; padding: 24px 16px; background: var(--page); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 12px 0 0; font-size: 26px; display: inline-block; } h1 small { font-weight: 400; color: var(--muted); }
h2 { margin: 28px 0 12px; font-size: 18px; } p { margin: 6px 0; } a { color: var(--c1); }
.muted, dt { color: var(--muted); } header p, figure p { font-size: 13px; }
.state { padding: 2px 10px; border-radius: 99px; font-size: 12px; white-space: nowrap; color: var(--c4);
  background: color-mix(in srgb, currentColor 13%, transparent); } .state.finished { color: var(--c3); }
.card { margin: 0 0 16px; padding: 14px 16px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.figures div { padding: 10px 14px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
dt { font-size: 12px; } dd { margin: 0; font-size: 19px; font-weight: 600; white-space: nowrap; }
.grid, article { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; }
.wide { grid-column: 1 / -1; } article { align-items: start; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
@media (max-width: 800px) { .grid, article { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; min-width: 420px; } .wide svg { min-width: 760px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0; padding: 0; list-style: none; font-size: 12px; }
.legend i { display: inline-block; width: 16px; height: 3px; margin-right: 6px; background: var(--c);
  vertical-align: middle; }
.legend i.rings { width: 8px; height: 8px; border-radius: 9px; background: none; border: 2px solid currentColor; }
svg text { font-size: 11px; fill: var(--muted); } svg [text-anchor=start] { fill: var(--ink); font-weight: 600; }
svg path { stroke: var(--rule); } svg .axis, svg .mark { stroke: var(--muted); } svg .mark { stroke-dasharray: 4 3; }
polyline { fill: none; stroke: var(--c); stroke-linejoin: round; stroke-width: 1.8; }
polyline.faint { stroke-width: 1; opacity: .28; }
circle { fill: var(--c); } circle.rings { fill: var(--card); stroke: var(--c); stroke-width: 1.6; }
table { width: 100%; border-collapse: collapse; } td { text-align: right; padding: 4px 0 4px 14px; }
th { font-weight: 400; text-align: left; white-space: nowrap; } td.bars { width: 60%; }
.bars i { display: block; height: 7px; margin: 2px 0; border-radius: 2px; background: var(--c); }
.bars .planned { opacity: .35; }
.cascade { display: flex; flex-wrap: wrap; gap: 0 10px; margin: 16px 0 0; padding: 0; list-style: none; }
.cascade h2 { display: inline-block; margin: 0 10px 0 0; } .break { width: 100%; }
.arrow { align-self: center; font-size: 22px; color: var(--muted); }
.cascade .figures { display: block; margin: 8px 0 0; } .cascade dd { font-size: 13px; }
.cascade .figures div { display: flex; gap: 24px; padding: 0; border: 0; justify-content: space-between; }
pre { margin: 6px 0; padding: 10px 12px; border-radius: 8px; background: var(--page); tab-size: 4;
  font: 12px/1.55 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
pre * { unicode-bidi: isolate; } pre span { color: var(--muted); }
mark, ins { color: inherit; text-decoration: none; border-radius: 3px; }
mark { background: color-mix(in srgb, var(--c2) 30%, transparent); } mark:empty::after { content: "(nothing)"; }
ins { background: color-mix(in srgb, var(--c3) 22%, transparent); }
summary { cursor: pointer; font-weight: 600; } footer { margin-top: 24px; font-size: 12px; }
"""
