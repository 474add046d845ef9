"""The page of a comparison of runs: differences with their intervals, and the tasks whose result differs."""

from collections.abc import Sequence
from pathlib import Path

from codellama_jax.evaluation.comparison import Changed, Compared, Metric, Run
from codellama_jax.report import evaluation_tables, html, interval_chart, sample_views
from codellama_jax.report.charts import escape
from codellama_jax.report.evaluation_tables import IDENTITY, percent, shown
from codellama_jax.report.sample_views import name, output_view, prompt_view, verdict_view

FILE = "comparison.html"
MOST_CHANGED = 60  # tasks of a variant of a benchmark that the page shows

METHODS = {
    "mcnemar": "McNemar: the exact test, with the interval of Agresti and Min (2005).",
    "bootstrap": "Bootstrap: tasks are drawn with replacement, 10,000 times with a fixed seed.",
}


def write_comparison(out: Path, pairs: Sequence[tuple[Run, Run, Sequence[Compared]]]) -> Path:
    """Writes OUT/comparison.html and returns its path.

    Args:
        pairs: (first run, second run, their comparison); the first one is the same in all.
    """
    first = pairs[0][0]
    others = ", ".join(name(second.label) for _, second, _ in pairs)
    sections = "".join(_pair(*pair) for pair in pairs)
    body = f"""<header><h1>Comparison <small>{others} against {name(first.label)}</small></h1></header>{sections}
<p class="muted">Differences are of the second run minus the first, over the tasks that both have, with 95% intervals.
p is the probability of a difference at least as large if the runs were equally good. comparison.json has all figures
and all tasks whose result differs.</p>"""
    title = f"Comparison with {escape(first.label)}"
    return html.write(
        out / FILE, title, body, sample_views.STYLE + interval_chart.STYLE + evaluation_tables.STYLE + _STYLE
    )


def _pair(first: Run, second: Run, compared: Sequence[Compared]) -> str:
    runs = "".join(
        f"<p><b>{word}:</b> {name(run.label)} <span class='muted'>{name(_identity(run, compared))}</span></p>"
        for word, run in (("first", first), ("second", second))
    )
    left_out = sorted(({*first.results} ^ {*second.results}) | {*first.results} - {found.name for found in compared})
    if left_out:
        runs += f'<p class="muted">Not compared: {name(", ".join(left_out))}</p>'
    rows = [
        interval_chart.Interval(
            f"{found.name} {found.variant} {metric.name}".replace("  ", " "),
            100 * metric.difference.value,
            100 * metric.difference.low,
            100 * metric.difference.high,
            _colour(metric),
        )
        for found in compared
        for metric in found.metrics
        if percent(metric.name)
    ]
    chart = interval_chart.interval_chart(
        f"Difference of {second.label}",
        f"percentage points more than {first.label}, with 95% intervals",
        rows,
        [("better", "c3"), ("worse", "c4"), ("the interval contains 0", "c0")],
    )
    tables = "".join(_benchmark(first, second, found) for found in compared)
    return f'<section class="card">{runs}</section>{_table(compared)}{chart}{tables}'


def _identity(run: Run, compared: Sequence[Compared]) -> str:
    found = run.results[compared[0].name]
    facts = [str(run.path)] if run.label != str(run.path) else []
    return " · ".join(facts + [f"{key} {found[key]}" for key in IDENTITY if key in found])


def _colour(metric: Metric) -> str:
    difference = metric.difference
    return "c3" if difference.low > 0 else "c4" if difference.high < 0 else "c0"


def _table(compared: Sequence[Compared]) -> str:
    rows = []
    for found in compared:
        label = f"{name(found.name)} {name(found.variant)}" if found.variant else name(found.name)
        for metric in found.metrics:
            difference = metric.difference
            scale, unit = (100, " points") if percent(metric.name) else (1, "")
            digits = "+.1f" if scale == 100 else "+.3g"
            values = [f"{scale * value:{digits}}" for value in (difference.value, difference.low, difference.high)]
            p = f"{difference.p:.2g}" if difference.p >= 1e-4 else "< 0.0001"
            method = METHODS[difference.method].partition(":")[0]
            rows.append(
                f'<tr><th>{label}</th><td class="text">{escape(metric.name)}</td>'
                f"<td>{shown(metric.name, metric.first)}</td><td>{shown(metric.name, metric.second)}</td>"
                f"<td><strong>{values[0]}</strong>{unit}</td><td>{values[1]} to {values[2]}</td><td>{p}</td>"
                f'<td>{found.tasks:,}</td><td class="text muted">{method}</td></tr>'
            )
            label = ""
    head = "<td></td><td></td><td>first</td><td>second</td><td>difference</td><td>95% interval</td><td>p</td>"
    used = dict.fromkeys(METHODS[metric.difference.method] for found in compared for metric in found.metrics)
    return f"""<section class="card"><b>Paired differences</b><div class="scroll"><table class="results">
<tr class="muted">{head}<td>tasks</td><td class="text">method</td></tr>{"".join(rows)}</table></div>
<p class="muted">{" ".join(used)}</p></section>"""


def _benchmark(first: Run, second: Run, found: Compared) -> str:
    """How many tasks each run solves, and those whose result differs."""
    title = f"{name(found.name)} {name(found.variant)}" if found.variant else name(found.name)
    solved = found.solved
    left_out = [
        f"{count:,} tasks are only in {run.path}"
        for count, run in ((found.first_only, first), (found.second_only, second))
        if count
    ]
    remark = f'<p class="note">Not compared: {name("; ".join(left_out))}.</p>' if left_out else ""
    counts = (
        f"both solve {solved[True, True]:,} tasks, only the first {solved[True, False]:,}, only the second"
        f" {solved[False, True]:,}, neither {solved[False, False]:,}"
    )
    won = [changed for changed in found.changed if changed.second > changed.first]
    lost = [changed for changed in found.changed if changed.second < changed.first]
    half = MOST_CHANGED // 2
    lists = "".join(
        _changed_list(first, second, found, word, tasks[:half], len(tasks))
        for word, tasks in (("Better", won), ("Worse", lost))
    )
    return (
        f"""<h2>{title}</h2><p class="muted">{counts}; a task is solved if a sample of it passes</p>{remark}{lists}"""
    )


def _changed_list(first: Run, second: Run, found: Compared, word: str, tasks: Sequence[Changed], total: int) -> str:
    if not tasks:
        return ""
    more = f", of which {len(tasks)} are shown, the largest differences first" if len(tasks) < total else ""
    views = "".join(_changed(first, second, found, changed) for changed in tasks)
    return f"<p><b>{word} in the second run:</b> {total:,} tasks{more}</p>{views}"


def _changed(first: Run, second: Run, found: Compared, changed: Changed) -> str:
    """A task, with a sample of each run side by side."""
    samples = [index.read(entry) for index, entry in zip(found.indices, changed.samples, strict=True)]
    sides = "".join(
        f"<div><p><b>{name(run.label)}</b></p>{output_view(sample)}{verdict_view(sample)}"
        f'<p class="muted">line {entry.line:,} of samples/{escape(index.path.name)}</p></div>'
        for run, sample, index, entry in zip((first, second), samples, found.indices, changed.samples, strict=True)
    )
    single = {changed.first, changed.second} == {0.0, 1.0}
    shares = f"{changed.first:.0%} → {changed.second:.0%} passed"
    shares = ("failed → passed" if changed.second else "passed → failed") if single else shares
    return f"""<details class="card task"><summary>{name(changed.task_id)} <span class="muted">{shares}</span></summary>
{prompt_view(samples[0])}<article class="card sides">{sides}</article></details>"""


_STYLE = """
@media (min-width: 801px) { .sides { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
details.card { margin-bottom: 8px; }
"""
