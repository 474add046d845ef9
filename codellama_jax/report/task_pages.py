"""Pages with the tasks of a benchmark: one that lists all of them, and pages with their samples."""

import re
import urllib.parse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from codellama_jax.evaluation.sample_index import Entry, SampleIndex, natural_order
from codellama_jax.report import html
from codellama_jax.report.charts import escape
from codellama_jax.report.sample_views import STYLE, groups, name, prompt_view, sample_view

FOLDER = "tasks"
PAGE_CHARACTERS = 700_000  # after this many, a new page begins
MOST_SAMPLES = 12_000  # that all pages of a benchmark show, if no task must have less than one
MOST_OF_TASK = 30  # different samples of a task that are shown

Variants = dict[str, Sequence[Entry]]  # of a task


def write_task_pages(out: Path, benchmark: str, index: SampleIndex) -> str:
    """Writes the pages of a benchmark and returns the location of the list, below `out`.

    OUT/tasks/NAME.html     the list of tasks
    OUT/tasks/NAME-I.html   tasks with prompt, samples and verdicts

    Pages of earlier reports that are not replaced are removed.
    """
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(index)
    problems = sum(map(len, index.variants.values()))
    most = max(1, min(MOST_OF_TASK, MOST_SAMPLES // max(problems, 1)))
    links, pages, page, length = dict[str, str](), 0, list[str](), 0

    def finish_page() -> None:
        nonlocal pages, page, length
        pages += 1
        back = f'<p><a href="{_quoted(benchmark)}.html">all tasks of {escape(benchmark)}</a></p>'
        title = f"{escape(benchmark)}, tasks {pages}"
        body = f"<header><h1>{title}</h1>{back}</header>{''.join(page)}"
        html.write(folder / f"{benchmark}-{pages}.html", title, body, STYLE)
        page, length = [], 0

    for number, (task, variants) in enumerate(tasks.items(), start=1):
        links[task] = f"{_quoted(benchmark)}-{pages + 1}.html#t{number}"
        view = task_view(index, task, variants, most, f"t{number}")
        page.append(view)
        length += len(view)
        if length > PAGE_CHARACTERS:
            finish_page()
    if page:
        finish_page()
    for old in folder.iterdir():
        found = re.fullmatch(rf"{re.escape(benchmark)}-(\d+)\.html", old.name)
        if found and int(found[1]) > pages:
            old.unlink()
    shown = f"at most {most} different {'samples' if most > 1 else 'sample'} of a task and variant"
    body = f"""<header><h1>{escape(benchmark)} <small>{len(tasks):,} tasks</small></h1>
<p><a href="../report.html">report</a></p>
<p class="muted">The pages show {shown}; long texts are shortened. All {index.samples:,} samples are in
samples/{escape(index.path.name)}, one a line.</p></header>{_lists(tasks, links)}"""
    html.write(folder / f"{benchmark}.html", escape(benchmark), body, STYLE + _LIST_STYLE)
    return f"{FOLDER}/{_quoted(benchmark)}.html"


def tasks_of(index: SampleIndex) -> dict[str, Variants]:
    """Task -> variant -> its entries, in natural order."""
    found = dict[str, Variants]()
    for variant, tasks in index.variants.items():
        for task, entries in tasks.items():
            found.setdefault(task, {})[variant] = entries
    return {task: found[task] for task in sorted(found, key=natural_order)}


def task_view(index: SampleIndex, task: str, variants: Variants, most: int, anchor: str = "") -> str:
    """A task: its prompts, and up to `most` different samples of each variant."""
    blocks, shown = list[str](), ""
    for entries in variants.values():
        prompt = prompt_view(index.read(entries[0]))
        if prompt != shown:
            blocks.append(prompt)
            shown = prompt
        equal = groups(entries)
        blocks += [sample_view(index, group, len(entries)) for group in equal[:most]]
        if left := len(equal) - most:
            blocks.append(f'<p class="muted">{left:,} different samples are not shown</p>' if left > 0 else "")
    id = f' id="{anchor}"' if anchor else ""
    opened = " open" if anchor else ""
    return f"""<details class="card task"{id}{opened}><summary>{name(task)} {_outcomes(variants)}</summary>
{"".join(blocks)}</details>"""


def _outcomes(variants: Variants) -> str:
    """The numbers of samples that passed, and the failures."""
    parts = []
    for variant, entries in variants.items():
        judged = [entry for entry in entries if entry.passed is not None]
        failures = Counter(entry.failure for entry in judged if entry.failure)
        text = f"{name(variant)} " if variant else ""
        text += f"{sum(bool(entry.passed) for entry in judged):,} of {len(judged):,} passed" if judged else "scored"
        if failures:
            text += " · " + escape(", ".join(failure for failure, _ in failures.most_common(3)))
        parts.append(text)
    return f'<span class="muted">{" · ".join(parts)}</span>'


def _lists(tasks: dict[str, Variants], links: dict[str, str]) -> str:
    """The tasks by their results, as links."""
    results: dict[str, list[str]] = {
        "Solved by all samples": [],
        "Solved by some samples": [],
        "Solved by no sample": [],
        "Scored only": [],
    }
    for task, variants in tasks.items():
        judged = [entry.passed for entries in variants.values() for entry in entries if entry.passed is not None]
        kind = 3 if not judged else 0 if all(judged) else 1 if any(judged) else 2
        item = f'<li><a href="{links[task]}">{name(task)}</a> {_outcomes(variants)}</li>'
        list(results.values())[kind].append(item)
    return "".join(
        f'<details class="card"{" open" if len(items) < 1000 else ""}><summary>{title}: {len(items):,}</summary>'
        f'<ul class="tasks">{"".join(items)}</ul></details>'
        for title, items in results.items()
        if items
    )


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


_LIST_STYLE = """
.tasks { margin: 8px 0; padding: 0; list-style: none; columns: 420px; } .tasks li { overflow-wrap: anywhere; }
"""
