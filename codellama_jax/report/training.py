"""The files of a run as self-contained HTML pages: no server, no scripts, nothing loaded from anywhere.

A page is built from the files alone, so it can be written while a stage runs, when it is done, or years later.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import pathlib
import statistics
import urllib.parse
from typing import Any

from codellama_jax.report import html
from codellama_jax.report.charts import NOISY, Line, Points, chart, escape, number
from codellama_jax.report.goodput import goodput
from codellama_jax.runtime import filesystem

Record = dict[str, Any]

_STREAMS = ("code", "python", "nl_code", "nl", "instruct")  # in a fixed order: a stream has one colour on all pages


def write_stage_report(stage_dir: pathlib.Path) -> pathlib.Path:
    """Writes stage_dir/report.html from the files of a stage and returns its path.

    Only stage.json must be there; of the rest, the page shows what there is.
    """
    folder = _read_folder(stage_dir)
    name, size = escape(folder.name), escape(folder.stage["size"])
    body = f"""
<header><h1>{name} <small>{size}</small></h1>{_state(folder)}<p class="muted">{_facts(folder.stage)}</p></header>
{_figures(folder)}
<div class="grid">
{_loss_chart([folder])}
{_mixture(folder)}
{_context_chart(folder)}
{_metric_chart("Learning rate", "", "learning_rate", [folder])}
{_metric_chart("Speed", "tokens/s", "tokens_per_second", [folder])}
</div>
{_samples(folder)}
{_configuration(folder)}"""
    return html.write(stage_dir / "report.html", f"{name} {size}", body)


def write_run_report(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes run_dir/report.html, the cascade so far, and returns its path.

    The stages are the folders of run_dir that have a stage.json. A stage's own report is linked if it is there already.
    """
    folders = _cascade_order([_read_folder(path.parent) for path in run_dir.glob("*/stage.json")])
    compared = [folder for folder in folders if {"before", "after"} <= folder.contexts.keys()]
    sampled = [folder for folder in folders if folder.samples]
    title = f"Run {escape(filesystem.absolute(run_dir).name)}"
    finished = f"{sum(bool(folder.done) for folder in folders)} of {len(folders)} stages finished"
    body = f"""
<header><h1>{title}</h1><p class="muted">{finished}</p></header>
{_cascade(folders)}
<div class="grid">
{_loss_chart(folders)}
{_context_chart(compared[-1]) if compared else ""}
{"".join(_mixture(folder) for folder in folders)}
{_metric_chart("Learning rate", "", "learning_rate", folders)}
{_metric_chart("Speed", "tokens/s", "tokens_per_second", folders)}
</div>
{_samples(sampled[-1]) if sampled else ""}
{"".join(_configuration(folder) for folder in folders)}"""
    return html.write(run_dir / "report.html", title, body)


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
    return filesystem.read_text(path) if path.exists() else ""


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


def _state(folder: _Folder) -> str:
    if folder.done:
        return '<span class="state finished">finished</span>'
    at = f"at step {folder.step:,} of {folder.stage['steps']:,}" if folder.step else "no steps yet"
    return f'<span class="state">{at}</span>'


def _facts(stage: Record) -> str:
    scale = f" scale {stage['rope_scale']:g}" if stage["rope_scale"] != 1 else ""
    return escape(
        f"{'from ' + stage['parent'] if stage['parent'] else 'first of its line'} · "
        f"{stage['steps']:,} steps of {stage['batch_tokens']:,} tokens · windows of {stage['sequence_length']:,} · "
        f"vocabulary {stage['vocab_size']:,} · RoPE base {stage['rope_theta']:,.0f}{scale} · "
        f"peak learning rate {number(stage['peak_learning_rate'])} · {stage['devices']} · "
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
    perplexities = [number(summary.get(f"perplexity_{when}")) for when in ("before", "after")]
    shares = goodput([line for line in folder.metrics if _finite(line.get("seconds"))])
    beside = {cause: share for cause, share in shares.items() if cause != "steps" and share >= 0.01}
    wall = "".join(f", {cause} {share:.0%}" for cause, share in sorted(beside.items(), key=lambda item: -item[1]))
    figures = {
        "parameters": number(folder.stage["parameters"]),
        "tokens trained": number(summary["tokens"]) if folder.step else "",
        "time": str(datetime.timedelta(seconds=round(summary["seconds"]))) if folder.step else "",
        "wall time in steps": f"{shares['steps']:.0%}{wall}" if shares else "",
        "tokens/s, median": f"{statistics.median(speeds):,.0f}" if speeds else "",
        "validation loss": " → ".join(f"{y:.2f}" if _finite(y) else "–" for y in losses) if losses[0] else "",
        f"perplexity at {summary['context_length']:,}": " → ".join(perplexities) if summary["context_length"] else "",
    }
    known = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures.items() if value)
    return f'<dl class="figures">{known}</dl>'


# Charts.


def _colour(stream: str) -> str:
    return f"c{_STREAMS.index(stream) + 1 if stream in _STREAMS else 6}"


def _loss_chart(folders: list[_Folder]) -> str:
    """Against the steps of one stage, or against the tokens of several stages one after another."""
    lines, marks, start = [], [], 0
    for folder in (folder for folder in folders if folder.metrics):
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        keys = [(stream, f"loss/{stream}", _colour(stream)) for stream in folder.streams] + [("all", "loss", "c0")]
        for label, key, colour in keys:
            lines.append(Line(label, _points(folder.metrics, key, start, scale), colour, "noisy"))
        for _, key, colour in keys:
            lines.append(Line("validation", _points(folder.validations, key, start, scale), colour, "rings"))
        marks.append((float(start), folder.name))
        start += folder.step * scale
    if not lines:
        return '<p class="card wide">No steps yet.</p>'
    note = "Faint: every step. Strong: the running mean." if any(len(line.points) > NOISY for line in lines) else ""
    if len(folders) == 1:
        return chart("Loss", "nats per token", "step", lines, wide=True, note=note)
    unit = "nats per token, stages one after another"
    return chart("Loss", unit, "tokens", lines, wide=True, marks=marks, note=note)


def _metric_chart(title: str, unit: str, key: str, folders: list[_Folder]) -> str:
    """One number of every step, along the same axis as the loss."""
    lines, marks, start = [], [], 0
    for folder in (folder for folder in folders if folder.metrics):
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        lines.append(Line("", _without_peaks(_points(folder.metrics, key, start, scale)), "c1"))
        marks.append((float(start), folder.name))
        start += folder.step * scale
    several = len(folders) > 1
    return chart(title, unit, "tokens" if several else "step", lines, zero=True, marks=marks if several else ())


def _without_peaks(points: Points) -> Points:
    """No point above twice the median of itself and its four neighbours. A host that sees the end of one step late sees
    the next one end at once: such a peak is no speed, and would hide all the rest. Stalls stay."""
    values = [y for _, y in points]
    return [(x, min(y, 2 * statistics.median(values[max(i - 2, 0) : i + 3]))) for i, (x, y) in enumerate(points)]


def _context_chart(folder: _Folder) -> str:
    """Perplexity against the position in the context, before and after the stage."""
    lines, marks, told, note = [], [], [], ""
    for when, colour in (("before", "c4"), ("after", "c1")):
        if record := folder.contexts.get(when):
            name, length, lengths, values = (record[k] for k in ("stage", "trained_length", "lengths", "perplexity"))
            points = [(x, y) for x, y in zip(lengths, values, strict=True) if _finite(y)]
            lines.append(Line(f"{when}: {name}, RoPE base {record['rope_theta']:,.0f}", points, colour, "marked"))
            marks.append((length, f"{name} trained on {length:,}"))
            told.append(f"{number(values[-1])} {when} {folder.name}")
            first, last = [0, *lengths][-2] + 1, lengths[-1]
            note = f"At positions {first:,} to {last:,} the perplexity is {' and '.join(told)}."
    title = "Perplexity against context length"
    return chart(title, "", "position of the token", lines, log=True, marks=marks[:1], note=note)


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
        table += f'<tr class="{colour}"><th>{escape(label)}</th><td class="bars">{bars}</td>{numbers}</tr>'
    return f"""<section class="card">
<b>Mixture of {escape(folder.name)}</b> <span class="muted">share of the tokens, planned (pale) and seen</span>
<table><tr class="muted"><td></td><td></td><td>planned</td><td>seen</td></tr>{table}</table></section>"""


def _cascade(folders: list[_Folder]) -> str:
    """The stages with arrows from parent to child; one whose parent is not the one before it starts a line."""
    items = []
    for i, folder in enumerate(folders):
        parent, name = folder.stage["parent"], escape(folder.name)
        follows = i > 0 and parent == folders[i - 1].name
        if (folder.path / "report.html").exists():
            name = f'<a href="{urllib.parse.quote(folder.path.name)}/report.html">{name}</a>'
        items.append(f'<li class="{"arrow" if follows else "break"}">{"→" if follows else ""}</li>')
        origin = f'<p class="muted">from {escape(parent)}</p>' if parent and not follows else ""
        items.append(f'<li class="card"><h2>{name}</h2>{_state(folder)}{origin}{_figures(folder)}</li>')
    return f'<ol class="cascade">{"".join(items)}</ol>'


def _configuration(folder: _Folder) -> str:
    if not folder.config:
        return ""
    summary = f"<summary>Operative configuration of {escape(folder.name)}</summary>"
    return f'<details class="card">{summary}<pre>{escape(folder.config)}</pre></details>'


def _samples(folder: _Folder) -> str:
    """The generated middles between the end of their prefix and the start of their suffix, and the real middles."""
    blocks = []
    for sample in folder.samples:
        prefix = "\n".join(sample["prefix"].split("\n")[-12:])[-1200:]
        suffix = "\n".join(sample["suffix"].split("\n")[:8])[:800]
        before, after = "⋯\n" * (prefix != sample["prefix"]), "\n⋯" * (suffix != sample["suffix"])
        same = " · the same as the real middle" * (sample["generated"].strip() == sample["middle"].strip())
        blocks.append(f"""<article class="card">
<div><b>{escape(sample["stream"])}</b> <span class="muted">{escape(sample["order"].upper())} order{same}</span>
<pre><span>{before}{escape(prefix)}</span><mark>{escape(sample["generated"])}</mark><span>{escape(suffix)}{after}</span></pre></div>
<div><span class="muted">The real middle</span><pre><ins>{escape(sample["middle"])}</ins></pre></div></article>""")
    return f"<h2>Infilling by {escape(folder.name)}</h2>{''.join(blocks)}" if blocks else ""
