"""Tables of the report of an evaluation: results beside the paper's, settings, data, versions."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from codellama_jax.evaluation.sample_index import SampleIndex
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.report.charts import escape, number
from codellama_jax.report.outcome_charts import pass_at_k_interval
from codellama_jax.report.published import Published
from codellama_jax.report.sample_views import name, shortened

Results = Mapping[str, Mapping[str, Any]]
Environment = Mapping[str, Mapping[str, Any]]

# what the answers depend on, in the order in which the header shows it
IDENTITY = ("model", "weights", "tokenizer", "dtype", "cache_dtype", "context")
_SHARES = ("bleu", "python", "java", "javascript", "true", "informative", "true_and_informative", "toxic")
_MOST = 200  # characters of a setting that are shown


def variants_of(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, results) of each variant, after ("", the average) if there is one; ("", the results) without variants."""
    variants = found.get("variants")
    if "averaged" in found or not variants:
        yield "", found
    yield from variants.items() if isinstance(variants, Mapping) else ()


def metrics_of(found: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among results."""
    return {
        metric: value
        for metric, value in found.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and metric not in ("tasks", "samples", "refused")
    }


def percent(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.startswith("pass@") or metric in _SHARES


def shown(metric: str, value: float | None) -> str:
    """A value for readers."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if percent(metric) else number(value)


def results_table(
    results: Results, indices: Mapping[str, SampleIndex], paper: Mapping[str, Published], stored: Environment
) -> str:
    """A row for each benchmark, variant and metric."""
    rows = []
    for benchmark, found in results.items():
        for variant, entry in variants_of(found):
            label = name(benchmark) + (f" {name(variant)}" if variant else "")
            label += " (average)" if not variant and "averaged" in found else ""
            tasks, samples = entry.get("tasks", 0), entry.get("samples", 0)
            for metric, value in metrics_of(entry).items():
                interval = _interval(metric, entry, indices[benchmark], variant)
                own = f"<strong>{shown(metric, value)}</strong>"
                theirs = _published(paper[benchmark], metric, variant)
                counts = f"<td>{tasks:,}</td><td>{samples:,}</td>" if label else "<td></td><td></td>"
                cells = f"<td class='text'>{escape(metric)}</td><td>{own}</td><td>{interval}</td><td>{theirs}</td>"
                rows.append(f"<tr><th>{label}</th>{cells}{counts}</tr>")
                label = ""
    head = "<td></td><td class='text'></td><td>result</td><td>95% interval</td><td>published</td>"
    return f"""<section class="card"><b>Results</b> <span class="muted">beside those of the nearest model in the paper
(arXiv 2308.12950)</span><div class="scroll"><table class="results">
<tr class="muted">{head}<td>tasks</td><td>samples</td></tr>{"".join(rows)}</table></div>
{"".join(_notes(results, indices, stored))}</section>"""


def _published(paper: Published, metric: str, variant: str) -> str:
    value = paper.value(metric, variant)
    if value is None:
        return "–"
    return f'{shown(metric, value)} <span class="muted">{escape(paper.model)}, {escape(paper.source)}</span>'


def _interval(metric: str, entry: Mapping[str, Any], index: SampleIndex, variant: str) -> str:
    """The interval that the results have, or that of pass@k."""
    found = entry.get(f"{metric}_interval")
    if found is None and metric.startswith("pass@"):
        tasks = index.variants.get(variant, {})
        judged = [[bool(e.passed) for e in entries if e.passed is not None] for entries in tasks.values()]
        k, counts = int(metric.removeprefix("pass@")), [(len(values), sum(values)) for values in judged if values]
        if counts and all(samples >= k for samples, _ in counts):
            found = pass_at_k_interval(counts, k)[1:]
    if not isinstance(found, Sequence) or len(found) != 2:
        return "–"
    low, high = found
    return f"{100 * low:.1f} to {100 * high:.1f}" if percent(metric) else f"{number(low)} to {number(high)}"


def _notes(results: Results, indices: Mapping[str, SampleIndex], stored: Environment) -> Iterator[str]:
    """Reasons why results cannot be compared with published ones."""
    for benchmark, found in results.items():
        tasks, all_tasks = found.get("tasks", 0), stored.get(benchmark, {}).get("all_tasks")
        if isinstance(all_tasks, int) and tasks < all_tasks:
            yield _note(f"{benchmark}: {tasks:,} of its {all_tasks:,} tasks: published results are of all of them.")
        averaged = "averaged" in found
        for variant, reason in (found.get("skipped") or {}).items():
            yield _note(f"{benchmark}: {variant} was skipped: {reason}")
        if refused := found.get("refused"):
            yield _note(f"{benchmark}: {refused:,} samples have no answer, and count as failed.")
        samples = sum(entry.get("samples", 0) for variant, entry in variants_of(found) if variant or not averaged)
        if indices[benchmark].samples != samples:
            yield _note(
                f"{benchmark}: the results are of {samples:,} samples, and the figures and tasks below of all"
                f" {indices[benchmark].samples:,} in its file."
            )
        if differing := changed_settings(benchmark, found):
            settings = ", ".join(f"{key} {_value(own)} (default {_value(default)})" for key, own, default in differing)
            yield _note(f"{benchmark}: settings that are not the defaults, which follow the paper: {settings}.")


def _note(text: str) -> str:
    return f'<p class="note">{name(text) if len(text) < 300 else shortened(text, 2000)}</p>'


def changed_settings(benchmark: str, found: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, its value, the default) of the settings that are not the defaults."""
    settings, kind = found.get("settings"), BENCHMARKS.get(benchmark)
    if not isinstance(settings, Mapping) or kind is None:
        return []
    tasks, samples = (sum(entry.get(key, 0) for _, entry in variants_of(found)) for key in ("tasks", "samples"))
    standard = kind.settings_class(samples=max(1, round(samples / max(tasks, 1))))
    defaults = {**dataclasses.asdict(standard), "temperature": standard.applied_temperature}
    plain = json.loads(json.dumps(defaults))
    return [(key, value, plain[key]) for key, value in settings.items() if key in plain and value != plain[key]]


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"


def provenance(results: Results, stored: Environment) -> str:
    """Whose results they are, as a line for each client, and when they were finished."""
    lines = dict[str, None]()
    for benchmark, found in results.items():
        source = stored.get(benchmark, {}).get("source")
        facts = [str(source)] if source else []
        lines[" · ".join(facts + [f"{key} {found[key]}" for key in IDENTITY if key in found])] = None
    dates = [
        str(stored[benchmark]["finished"])[:16] for benchmark in results if stored.get(benchmark, {}).get("finished")
    ]
    if dates:
        lines[f"finished {max(dates)}"] = None
    return "".join(f'<p class="muted">{name(line)}</p>' for line in lines)


def settings_table(results: Results, stored: Environment) -> str:
    """All settings; those that are not the defaults are marked."""
    rows = []
    for benchmark, found in results.items():
        settings = found.get("settings")
        differing = {key for key, _, _ in changed_settings(benchmark, found)}
        for key, value in settings.items() if isinstance(settings, Mapping) else ():
            if not key.startswith("sha256"):
                text = escape(_value(value))
                text = f'<span class="note">{text}</span>' if key in differing else text
                rows.append(f'<tr><th>{name(f"{benchmark}: {key}")}</th><td class="long">{text}</td></tr>')
    return f"""<details class="card"><summary>Settings <span class="muted">coloured: not the default</span></summary>
<table class="results">{"".join(rows)}</table></details>"""


def data_table(results: Results, stored: Environment) -> str:
    """The digests of the data, the dates and the versions."""
    rows = []
    for benchmark, found in results.items():
        entry = stored.get(benchmark, {})
        settings = found.get("settings")
        facts = {"digest of the problems": found.get("problems")}
        facts |= {key: value for key, value in settings.items() if key.startswith("sha256")} if settings else {}
        facts |= {key: found[key] for key in (*IDENTITY, "compilers", "averaged") if key in found}
        facts |= {key: entry[key] for key in ("source", "sandbox", "packages", "finished", "all_tasks") if key in entry}
        versions = entry.get("versions")
        if isinstance(versions, Mapping):
            facts["versions"] = ", ".join(f"{package} {version}" for package, version in versions.items())
        for key, value in facts.items():
            if value not in (None, ""):
                text = escape(str(value)[:_MOST])
                rows.append(f'<tr><th>{name(f"{benchmark}: {key}")}</th><td class="long">{text}</td></tr>')
    return f"""<details class="card"><summary>Data, client and versions</summary>
<table class="results">{"".join(rows)}</table></details>"""


def paper_tables(paper: Mapping[str, Published]) -> str:
    """All published results of the benchmarks."""
    rows = []
    for benchmark, found in paper.items():
        for model, metrics in found.models.items():
            text = ", ".join(f"{metric} {shown(metric.rpartition(' ')[2], value)}" for metric, value in metrics.items())
            rows.append(
                f'<tr><th>{name(f"{benchmark}: {model}")}</th><td class="long">{escape(text)}'
                f' <span class="muted">{escape(found.source)}</span></td></tr>'
            )
    if not rows:
        return ""
    return f"""<details class="card"><summary>Published results <span class="muted">of arXiv 2308.12950</span></summary>
<table class="results">{"".join(rows)}</table></details>"""


STYLE = """
.results td, .results th { vertical-align: baseline; padding: 5px 14px 5px 0; white-space: nowrap; text-align: right; }
.results th, .results td:first-child, .results td.text { text-align: left; }
.results tr + tr:not(.muted) > * { border-top: 1px solid var(--rule); } .results strong { font-weight: 600; }
.results td.long { white-space: normal; overflow-wrap: anywhere; text-align: left; min-width: 220px; }
.note { color: var(--c4); }
"""
