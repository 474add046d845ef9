"""The report of an evaluation: OUT/report.html, from the files in OUT alone, and the pages of tasks beside it.

OUT/report.html is self-contained: results beside the paper's, figures, failures, and a few samples of each benchmark.
It can be copied without the pages of tasks, which have more samples.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.evaluation import environment
from codellama_jax.evaluation.sample_index import Entry, SampleIndex
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.report import evaluation_tables, html, interval_chart, outcome_charts, sample_views
from codellama_jax.report.charts import escape
from codellama_jax.report.evaluation_charts import group_bars, key_retrieval_map, perplexity_chart
from codellama_jax.report.evaluation_tables import (
    data_table,
    paper_tables,
    provenance,
    results_table,
    settings_table,
    variants_of,
)
from codellama_jax.report.published import Published, published
from codellama_jax.report.sample_views import groups, prompt_view, sample_view
from codellama_jax.report.task_pages import write_task_pages
from codellama_jax.runtime import filesystem

Results = Mapping[str, Mapping[str, Any]]
Tasks = Mapping[str, Sequence[Entry]]

FILE = "report.html"
SELECTED = 8  # samples of a benchmark that the report itself shows
MOST_VARIANTS = 4  # that are shown apart


def write_evaluation_report(out: Path) -> Path:
    """Writes OUT/report.html and OUT/tasks from OUT/results.json and OUT/samples, and returns the path of the report.

    Raises:
        UserError: there are no results, or they are damaged.
    """
    results = read_results(out)
    indices = {name: SampleIndex(out / "samples" / f"{name}.jsonl", missing_ok=True) for name in results}
    pages = {name: write_task_pages(out, name, index) for name, index in indices.items()}
    stored = environment.stored(out)
    paper = {name: published(name, str(found.get("model", "")), "averaged" in found) for name, found in results.items()}
    models = " and ".join(dict.fromkeys(str(found.get("model", "unknown model")) for found in results.values()))
    body = f"""
<header><h1>Evaluation <small>{sample_views.name(models)}</small></h1>{provenance(results, stored)}</header>
{results_table(results, indices, paper, stored)}
{_intervals(results, paper)}
{_orders(results, indices)}
<div class="grid top">{"".join((*_figures(results, indices, paper), *_failures(indices)))}</div>
<h2>Tasks</h2>
{"".join(_tasks(name, index, pages[name]) for name, index in indices.items())}
<h2>Settings, data and versions</h2>
{settings_table(results, stored)}{data_table(results, stored)}{paper_tables(paper)}
<p class="muted">Records: results.json has the results, samples/NAME.jsonl each sample with its prompt, its raw output
and its verdict, which --rescore judges again without the model.</p>"""
    return html.write(out / FILE, f"Evaluation of {escape(models)}", body, _STYLE)


def read_results(out: Path) -> Results:
    """OUT/results.json, of the benchmarks that this version knows. Raises UserError if there are none."""
    path = out / "results.json"
    if not filesystem.exists(path):
        raise UserError(f"{path} does not exist: there are no results to report")
    try:
        found = json.loads(filesystem.read_text(path))
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise ValueError("it is not an object of objects")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and the same command writes it again") from None
    return {name: found[name] for name in found if name in BENCHMARKS}


def shown_variants(index: SampleIndex) -> Mapping[str, Tasks]:
    """The tasks of each variant; as one if there are many variants."""
    if len(index.variants) <= MOST_VARIANTS:
        return index.variants
    return {"": {f"{variant} {task}": e for variant, tasks in index.variants.items() for task, e in tasks.items()}}


def _intervals(results: Results, paper: Mapping[str, Published]) -> str:
    rows = []
    for name, found in results.items():
        for variant, entry in variants_of(found):
            if "pass@1" not in entry:
                continue
            low, high = (100 * end for end in entry.get("pass@1_interval", (entry["pass@1"],) * 2))
            value = paper[name].value("pass@1", variant)
            rings = [(100 * value, f"{paper[name].model}, published")] if value is not None else []
            label = f"{name} {variant}".strip()
            rows.append(interval_chart.Interval(label, 100 * entry["pass@1"], low, high, "c1", rings))
    legend = [("result with its 95% interval", "c1")]
    if models := dict.fromkeys(paper[name].model for name in results if paper[name].model):
        legend.append((f"{', '.join(models)}, published", "muted"))
    return interval_chart.interval_chart("pass@1", "% of the tasks", rows, legend)


def _figures(results: Results, indices: Mapping[str, SampleIndex], paper: Mapping[str, Published]) -> Iterator[str]:
    """The charts of benchmarks that have one."""
    for name, index in indices.items():
        yield outcome_charts.pass_at_k_chart(f"pass@k of {escape(name)}", shown_variants(index), paper[name])
    if found := results.get("key_retrieval"):
        yield key_retrieval_map(found)
        yield _published_map(paper["key_retrieval"])
    if found := results.get("exercises_keys"):
        yield key_retrieval_map(found, "words among exercises")
    if found := results.get("perplexity"):
        yield perplexity_chart(found)
    for name, found in results.items():
        yield group_bars(name, found)


def _published_map(paper: Published) -> str:
    accuracy: dict[str, dict[str, float]] = {}
    for metric, value in paper.models.get(paper.model, {}).items():
        length, position, _ = metric.split(" ")
        accuracy.setdefault(length, {})[position] = value
    return key_retrieval_map({"accuracy": accuracy}, f"{paper.model}, published in {paper.source}")


def _orders(results: Results, indices: Mapping[str, SampleIndex]) -> str:
    rows = "".join(outcome_charts.orders(name, index.variants) for name, index in indices.items())
    if not rows:
        return ""
    head = "<td></td><td>PSM</td><td>SPM</td><td>SPM − PSM, points</td><td>p</td>"
    head += "<td>both solve</td><td>only PSM</td><td>only SPM</td><td>neither</td>"
    return f"""<section class="card"><b>Infilling by PSM and SPM</b>
<span class="muted">the same holes in both orders: paired difference with its 95% interval, McNemar's exact test</span>
<div class="scroll"><table class="results"><tr class="muted">{head}</tr>{rows}</table></div></section>"""


def _failures(indices: Mapping[str, SampleIndex]) -> Iterator[str]:
    for name, index in indices.items():
        for variant, tasks in shown_variants(index).items():
            yield outcome_charts.failures(escape(f"{name} {variant}".strip()), tasks)


def _tasks(name: str, index: SampleIndex, page: str) -> str:
    """A map of the tasks, a few samples, and where the others are."""
    maps = "".join(
        outcome_charts.task_map(escape(f"{name} {variant}".strip()), tasks)
        for variant, tasks in shown_variants(index).items()
    )
    chosen = selected(index)
    views = "".join(
        sample_view(index, group, of, f"<p>{sample_views.name(task)}</p>{prompt_view(index.read(group[0]))}")
        for task, group, of in chosen
    )
    damaged = f", {index.damaged:,} of the lines are damaged" if index.damaged else ""
    records = f"{index.samples:,} samples are in samples/{escape(index.path.name)}{damaged}"
    return f"""<section class="card task">{maps}
<details><summary>{len(chosen)} {"samples" if len(chosen) > 1 else "sample"} of {escape(name)}
<span class="muted">the first of each outcome; {records}</span></summary>{views}</details>
<p><a href="{page}">All tasks of {escape(name)}</a> <span class="muted">(pages beside this file)</span></p></section>"""


def selected(index: SampleIndex) -> list[tuple[str, list[Entry], int]]:
    """Up to SELECTED samples with task and its number of samples: one of each outcome, frequent outcomes first.

    They are of different tasks as far as possible.
    """
    found = dict[tuple[bool | None, str], list[tuple[str, list[Entry], int]]]()
    frequency = Counter[tuple[bool | None, str]]()
    for tasks in index.variants.values():
        for task, entries in tasks.items():
            for group in groups(entries):
                outcome = group[0].passed, group[0].failure
                frequency[outcome] += len(group)
                candidates = found.setdefault(outcome, [])
                if len(candidates) < SELECTED and not any(task == other for other, _, _ in candidates):
                    candidates.append((task, group, len(entries)))
    chosen = list[tuple[str, list[Entry], int]]()
    for outcome in sorted(found, key=lambda outcome: (not outcome[0], -frequency[outcome]))[:SELECTED]:
        shown = {task for task, _, _ in chosen}
        chosen.append(next((one for one in found[outcome] if one[0] not in shown), found[outcome][0]))
    return chosen


_STYLE = (
    sample_views.STYLE
    + interval_chart.STYLE
    + outcome_charts.STYLE
    + evaluation_tables.STYLE
    + """
.top { align-items: start; } g.limit polyline { stroke-width: 1; opacity: .6; } .map { margin: 0 0 14px; }
"""
)
