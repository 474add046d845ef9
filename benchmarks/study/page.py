"""The experiment's page: a self-contained report.html."""

from pathlib import Path

from codellama_jax.report import charts, html
from codellama_jax.report.charts import Line, escape
from codellama_jax.report.interval_chart import Interval, interval_chart
from study.claim import Measure
from study.summary import Experiment, Result, environment, shown, with_interval

_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")
_VERDICT = {"shown": "c3", "not shown": "muted", "the opposite": "c4"}
_STYLE = """
td.c3, td.c4 { color: var(--c); font-weight: 600; } table { border-collapse: collapse; width: 100%; }
th, td { padding: 3px 10px 3px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
"""


def write(out: Path, experiment: Experiment) -> Path:
    """Writes OUT/report.html, and returns its path."""
    state = "finished" if experiment.done == experiment.steps else experiment.progress
    parts = [
        "<header><h1>The paper in small <small>arXiv 2308.12950</small></h1>"
        f'<span class="state {state if state == "finished" else ""}">{state}</span>'
        f"<p>{escape(environment(experiment))}</p></header>",
        _overview(experiment),
        *(_section(result) for result in experiment.results),
    ]
    return html.write(out / "report.html", "The paper in small", "".join(parts), _STYLE)


def _overview(experiment: Experiment) -> str:
    rows = []
    for result in experiment.results:
        verdicts = [found for _, _, found in result.compared]
        cells = "".join(f'<td class="{css}">{verdicts.count(found) or ""}</td>' for found, css in _VERDICT.items())
        rows.append(
            f'<tr><td><a href="#{result.claim.key}">{escape(result.claim.title)}</a></td>'
            f"<td>{escape(result.claim.source)}</td>{cells}<td>{len(result.seeds)}</td></tr>"
        )
    head = "<tr><th>claim</th><th>in the paper</th>" + "".join(f"<th>{name}</th>" for name in _VERDICT)
    return f'<div class="card scroll"><table>{head}<th>seeds</th></tr>{"".join(rows)}</table></div>'


def _section(result: Result) -> str:
    claim = result.claim
    parts = [f'<h2 id="{claim.key}">{escape(claim.title)}</h2>', f'<p class="muted">{escape(claim.source)}</p>']
    parts += [f"<p>{escape(claim.how)} {escape(claim.remark)}</p>"]
    if not result.seeds:
        return "".join([*parts, '<p class="card">Not measured yet.</p>'])
    drawn = [_chart(result, chart.measure, chart.x_label, chart.log_x) for chart in claim.charts]
    parts += [f'<div class="grid">{"".join(drawn)}</div>'] if any(drawn) else []
    for measure in dict.fromkeys(measure for _, measure in result.table):
        parts += [_intervals(result, measure)]
    return "".join([*parts, _comparisons(result)])


def _scaled(value: float, measure: Measure) -> float:
    return 100 * value if measure.unit == "%" else value


def _chart(result: Result, measure: Measure, x_label: str, log_x: bool) -> str:
    lines = [
        Line(condition, [(x, _scaled(each.mean, measure)) for x, each in sorted(points)], colour, "marked")
        for (condition, points), colour in zip(result.series.get(measure, {}).items(), _COLOURS, strict=False)
    ]
    return charts.chart(escape(measure.name), measure.unit, x_label, lines, log_x=log_x)


def _intervals(result: Result, measure: Measure) -> str:
    rows = []
    for index, ((condition, of), each) in enumerate(pair for pair in result.table.items() if pair[0][1] == measure):
        rings = [(_scaled(value, of), f"seed {seed}") for seed, value in zip(result.seeds, each.values, strict=True)]
        low, value, high = (_scaled(number, of) for number in (each.low, each.mean, each.high))
        high = min(high, 100.0) if of.unit == "%" and high < float("inf") else high
        rows.append(Interval(condition, value, max(low, 0.0), high, _COLOURS[index % len(_COLOURS)], rings))
    return interval_chart(
        measure.name,
        measure.unit or "",
        [row for row in rows if row.high < float("inf")]
        or [row._replace(low=row.value, high=row.value) for row in rows],
    )


def _comparisons(result: Result) -> str:
    if not result.compared:
        return ""
    rows = []
    for comparison, difference, found in result.compared:
        at = "" if comparison.x is None else f" at {comparison.x:g}"
        each = ", ".join(shown(value, comparison.measure, sign=True) for value in difference.values)
        rows.append(
            f"<tr><td>{escape(comparison.text)}</td><td>{escape(comparison.measure.name)}{at}</td>"
            f"<td>{with_interval(difference, comparison.measure, sign=True)}</td><td>{each}</td>"
            f'<td>{comparison.expected}</td><td class="{_VERDICT[found]}">{found}</td></tr>'
        )
    titles = ("difference", "of", "mean and 95% interval", "seeds", "the paper", "here")
    head = f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"
    return f'<div class="card scroll"><table>{head}{"".join(rows)}</table></div>'
