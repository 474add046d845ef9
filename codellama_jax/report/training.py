"""Reports of training as self-contained HTML pages: no server, no scripts, no external resources.

A page is built from the files of the run alone, so it can be written at any time: during a stage, at its end, or later.
"""

import datetime
import pathlib
import statistics
import urllib.parse

from codellama_jax.report import html
from codellama_jax.report.charts import escape, number
from codellama_jax.report.exercise_programs import BENCHMARK, programs
from codellama_jax.report.goodput import goodput
from codellama_jax.report.infilling_changes import infilling_changes
from codellama_jax.report.stage_files import (
    Record,
    StageFiles,
    cascade_order,
    is_finite,
    read_stage,
    step_points,
    total,
)
from codellama_jax.report.training_charts import (
    benchmark_chart,
    context_chart,
    loss_chart,
    metric_chart,
    stream_colour,
)
from codellama_jax.runtime import filesystem


def write_stage_report(stage_dir: pathlib.Path) -> pathlib.Path:
    """Writes stage_dir/report.html from the files of a stage and returns its path.

    Only stage.json is required; parts of the page whose files do not exist are omitted.
    """
    folder = read_stage(stage_dir)
    name, size = escape(folder.name), escape(folder.stage["size"])
    body = f"""
<header><h1>{name} <small>{size}</small></h1>{_state(folder)}<p class="muted">{_facts(folder.stage)}</p></header>
{_figures(folder)}
<div class="grid">
{loss_chart([folder])}
{context_chart(folder)}
{_benchmarks([folder])}
{benchmark_chart([folder])}
{_mixture(folder)}
{metric_chart("Learning rate", "", "learning_rate", [folder])}
{metric_chart("Speed", "tokens/s", "tokens_per_second", [folder])}
</div>
{infilling_changes(folder)}
{programs(folder)}
{_corpora(folder)}
{_samples(folder)}
{_configuration(folder)}"""
    return html.write(stage_dir / "report.html", f"{name} {size}", body)


def write_run_report(run_dir: pathlib.Path) -> pathlib.Path:
    """Writes run_dir/report.html, the cascade so far, and returns its path.

    The stages are the folders of run_dir with a stage.json. Their own reports are linked if they exist.
    """
    folders = cascade_order([read_stage(path.parent) for path in run_dir.glob("*/stage.json")])
    compared = [folder for folder in folders if {"before", "after"} <= folder.contexts.keys()]
    sampled = [folder for folder in folders if folder.samples]
    tested = [folder for folder in folders if BENCHMARK in folder.results]
    title = f"Run {escape(filesystem.absolute(run_dir).name)}"
    finished = f"{sum(bool(folder.done) for folder in folders)} of {len(folders)} stages finished"
    body = f"""
<header><h1>{title}</h1><p class="muted">{finished}</p></header>
{_cascade(folders)}
<div class="grid">
{loss_chart(folders)}
{context_chart(compared[-1]) if compared else ""}
{_benchmarks(folders)}
{benchmark_chart(folders)}
{"".join(_mixture(folder) for folder in folders)}
{metric_chart("Learning rate", "", "learning_rate", folders)}
{metric_chart("Speed", "tokens/s", "tokens_per_second", folders)}
</div>
{"".join(infilling_changes(folder) for folder in folders)}
{programs(tested[-1]) if tested else ""}
{"".join(_corpora(folder) for folder in folders)}
{_samples(sampled[-1]) if sampled else ""}
{"".join(_configuration(folder) for folder in folders)}"""
    return html.write(run_dir / "report.html", title, body)


# The header and the key figures.


def _state(folder: StageFiles) -> str:
    if folder.done:
        best = folder.done["step"]
        early = f": step {best:,} is the best of {folder.step:,}" if best < folder.step else ""
        return f'<span class="state finished">finished{early}</span>'
    at = f"at step {folder.step:,} of {folder.stage['steps']:,}" if folder.step else "no steps yet"
    return f'<span class="state">{at}</span>'


def _facts(stage: Record) -> str:
    scale = f" scale {stage['rope_scale']:g}" if stage["rope_scale"] != 1 else ""
    if (kind := stage.get("rope_type", "default")) != "default":  # stages of earlier versions do not record it
        scale = f" type {kind}"
    start = stage["parent"] or stage.get("initial_checkpoint")  # earlier versions do not record the second
    return escape(
        f"{f'from {start}' if start else 'no parent'} · "
        f"{stage['steps']:,} steps of {stage['batch_tokens']:,} tokens · windows of {stage['sequence_length']:,} · "
        f"vocabulary {stage['vocab_size']:,} · RoPE base {stage['rope_theta']:,.0f}{scale} · "
        f"peak learning rate {number(stage['peak_learning_rate'])} · {stage['devices']} · "
        f"started {stage['started'][:16].replace('T', ' ')}"
    )


def _summary(folder: StageFiles) -> Record:
    """The contents of done.json; for an unfinished stage, the same figures from the other files."""
    validation = [loss for _, loss in step_points(folder.validations, "loss")]
    summary: Record = {
        "seconds": total(folder.metrics, "seconds"),
        "tokens": folder.step * folder.stage["batch_tokens"],
        "validation_loss_first": validation[0] if validation else None,
        "validation_loss_last": validation[-1] if len(validation) > 1 else None,
        "context_length": 0,
    }
    for when, record in folder.contexts.items():
        summary |= {"context_length": record["lengths"][-1], f"perplexity_{when}": record["perplexity"][-1]}
    return summary | {key: value for key, value in folder.done.items() if value is not None}


def _figures(folder: StageFiles) -> str:
    """The key figures that are known so far."""
    summary = _summary(folder)
    speeds = [speed for _, speed in step_points(folder.metrics, "tokens_per_second")]
    losses = [summary[f"validation_loss_{end}"] for end in ("first", "last")]
    perplexities = [number(summary.get(f"perplexity_{when}")) for when in ("before", "after")]
    shares = goodput([line for line in folder.metrics if is_finite(line.get("seconds"))])
    overhead = {cause: share for cause, share in shares.items() if cause != "steps" and share >= 0.01}
    wall = "".join(f", {cause} {share:.0%}" for cause, share in sorted(overhead.items(), key=lambda item: -item[1]))
    figures = {
        "parameters": number(folder.stage["parameters"]),
        "trained adapters": escape(folder.stage.get("adapters") or ""),
        "tokens trained": number(summary["tokens"]) if folder.step else "",
        "time": str(datetime.timedelta(seconds=round(summary["seconds"]))) if folder.step else "",
        "wall time in steps": f"{shares['steps']:.0%}{wall}" if shares else "",
        "tokens/s, median": f"{statistics.median(speeds):,.0f}" if speeds else "",
        "validation loss": " → ".join(f"{y:.2f}" if is_finite(y) else "–" for y in losses) if losses[0] else "",
        f"perplexity at {summary['context_length']:,}": " → ".join(perplexities) if summary["context_length"] else "",
    }
    scores = {name: found.get("pass@1") for name, found in folder.results.items()}
    figures |= {f"pass@1 of {escape(name)}": f"{score:.1%}" for name, score in scores.items() if is_finite(score)}
    known = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures.items() if value)
    return f'<dl class="figures">{known}</dl>'


# The other sections of a page.


def _mixture(folder: StageFiles) -> str:
    """Shares of the streams, and of the tokens under infilling, as configured and as trained on so far."""
    seen = {stream: total(folder.metrics, f"tokens/{stream}") for stream in folder.streams}
    all_tokens = sum(seen.values())
    rows = [(stream, stream_colour(stream), folder.stage["shares"].get(stream, 0), seen[stream]) for stream in seen]
    rows.append(("under infilling", "c0", None, total(folder.metrics, "infilling_tokens")))
    table = ""
    for label, colour, planned, tokens in rows:
        bars = numbers = ""
        for css, share in (("planned", planned), ("seen", tokens / all_tokens if all_tokens else None)):
            bars += "" if share is None else f'<i class="{css}" style="width:{share:.2%}"></i>'
            numbers += "<td>–</td>" if share is None else f"<td>{share:.1%}</td>"
        table += f'<tr class="{colour}"><th>{escape(label)}</th><td class="bars">{bars}</td>{numbers}</tr>'
    return f"""<section class="card">
<b>Mixture of {escape(folder.name)}</b> <span class="muted">share of the tokens, planned (pale) and seen</span>
<table><tr class="muted"><td></td><td></td><td>planned</td><td>seen</td></tr>{table}</table></section>"""


def _cascade(folders: list[StageFiles]) -> str:
    """The stages, with arrows from parent to child; a stage whose parent is not the one before it starts a new line."""
    items = []
    for i, folder in enumerate(folders):
        parent, name = folder.stage["parent"], escape(folder.name)
        follows = i > 0 and parent == folders[i - 1].name
        if (folder.path / "report.html").exists():
            name = f'<a href="{urllib.parse.quote(folder.path.name)}/report.html">{name}</a>'
        items.append(f'<li class="{"arrow" if follows else "break"}">{"→" if follows else ""}</li>')
        from_parent = f'<p class="muted">from {escape(parent)}</p>' if parent and not follows else ""
        items.append(f'<li class="card"><h2>{name}</h2>{_state(folder)}{from_parent}{_figures(folder)}</li>')
    return f'<ol class="cascade">{"".join(items)}</ol>'


def _benchmarks(folders: list[StageFiles]) -> str:
    """pass@1 of the benchmarks at the end of the stages, and why others were not measured; "" if none was asked for."""
    rows = []
    for folder in folders:
        for name, results in folder.results.items():
            for variant, found in results.get("variants", {"": results}).items():
                low, high = found.get("pass@1_interval", (None, None))
                interval = f"{low:.1%} to {high:.1%}" if is_finite(low) and is_finite(high) else "–"
                score = f"{found['pass@1']:.1%}" if is_finite(found.get("pass@1")) else "–"
                cells = f"<td>{score}</td><td>{interval}</td><td>{found['tasks']:,}</td><td>{found['samples']:,}</td>"
                label = escape(f"{folder.name}: {name} {variant}".strip())
                rows.append(f"<tr><th>{label}</th>{cells}</tr>")
        for name, reason in folder.done.get("not_measured", {}).items():
            label, text = escape(f"{folder.name}: {name}"), escape(f"not measured: {reason}")
            rows.append(f'<tr><th>{label}</th><td colspan="4">{text}</td></tr>')
    if not rows:
        return ""
    head = '<tr class="muted"><td></td><td>pass@1</td><td>95% interval</td><td>tasks</td><td>samples</td></tr>'
    title = "<b>Benchmarks at the end of the stage</b>"
    return f'<section class="card">{title}<table>{head}{"".join(rows)}</table></section>'


def _corpora(folder: StageFiles) -> str:
    """What is read of each place of the corpora, and what is not."""
    places = folder.inventory.get("places", [])
    lines = [line for place in places for line in place["lines"]] + folder.inventory.get("remarks", [])
    if not lines:
        return ""
    text = escape("\n".join(lines))
    return f'<section class="card"><b>Corpora of {escape(folder.name)}</b><pre>{text}</pre></section>'


def _configuration(folder: StageFiles) -> str:
    if not folder.config:
        return ""
    summary = f"<summary>Operative configuration of {escape(folder.name)}</summary>"
    return f'<details class="card">{summary}<pre>{escape(folder.config)}</pre></details>'


def _samples(folder: StageFiles) -> str:
    """Each generated middle between the end of its prefix and the start of its suffix, next to the real middle."""
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
