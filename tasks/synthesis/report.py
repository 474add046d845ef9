"""The report of self-instruct: the funnel, reasons, pass rates, and examples side by side."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from codellama_jax.report import html
from codellama_jax.report.charts import escape
from codellama_jax.report.sample_views import name, shortened
from tasks.synthesis.output import FUNNEL, PAPER

NAME = "report.html"
KEPT_EXAMPLES, DROPPED_EXAMPLES = 6, 2  # of dialogues; of each reason
CHARACTERS = 1500  # of each text of an example

MEANING = {
    "exact_duplicate": "the same text as an earlier question",
    "near_duplicate": "almost the same text as an earlier question",
    "contaminated": "contains a problem of the evaluation sets",
    "tests_no_test": "the answer has no test",
    "tests_empty": "the answer with tests is empty",
    "tests_syntax": "no test can be parsed",
    "tests_cut_off": "the tests are cut off at the limit of tokens",
    "tests_too_long": "the tests are too long",
    "tests_refused": "the model did not answer",
    "tests_statement": "statements other than assertions, imports and assignments",
    "tests_nothing_called": "the assertions call nothing",
    "tests_import": "imports of packages",
    "tests_few": "fewer tests than SelfInstruct.least_tests",
    "unsolved": "no solution passes the tests, or too few agree",
    "accepts_stub": "the tests accept functions that do nothing",
    "rejects_nothing": "the tests reject no mutant and no other solution",
    "rejects_few": "the tests reject fewer mutants than SelfInstruct.least_rejected",
    "reserved_tag": "the dialogue contains a tag of the format",
}

_STYLE = """
td.bars { width: 45%; } td.bars i { display: block; height: 9px; background: var(--c1); } th { padding-right: 14px; }
td:nth-child(2) { text-align: left; } article pre { max-height: 360px; overflow: auto; }
"""


class _Gathered:
    """What the report shows of the questions, gathered in one pass over their records."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]):
        self.pass_counts, self.killed = Counter[int](), Counter[int]()
        self.examples = defaultdict[str, list[Mapping[str, Any]]](list)
        self.solutions = 0
        for row in rows:
            solutions = row.get("solutions", ())
            if solutions:
                self.solutions = max(self.solutions, len(solutions))
                self.pass_counts[sum(entry.get("status") == "passed" for entry in solutions)] += 1
            if mutants := row.get("wrong_programs", ())[1:]:
                self.killed[10 * sum(entry["rejected"] for entry in mutants) // len(mutants)] += 1
            if len(self.examples[row["dropped"]]) < (DROPPED_EXAMPLES if row["dropped"] else KEPT_EXAMPLES):
                self.examples[row["dropped"]].append(row)


def write(out: Path, rows: Iterable[Mapping[str, Any]], manifest: Mapping[str, Any]) -> Path:
    """Writes OUT/report.html.

    Args:
        rows: the records of the questions.
        manifest: from output.write.
    """
    found = _Gathered(rows)
    body = f"""<header><h1>Self-instruct</h1>
<p class="muted">{_authors(manifest)} · choice: {escape(manifest["SelfInstruct"]["choice"])} ·
dialogues: {manifest["dialogues"]:,}</p></header>
<h2>Funnel</h2>{_funnel(manifest["funnel"])}
<div class="grid">{_table("Questions that are not kept", manifest["dropped"], MEANING)}
{_table("Solutions by the end of their run", manifest["solutions"], {})}
{_pass_rates(found)}{_mutants(found)}
{_table("Left out of answers with tests", manifest["tests_left_out"], {})}
{_table("Left out of answers with questions", manifest["questions_left_out"], {})}</div>
<h2>Dialogues</h2>{"".join(map(_example, found.examples.pop("", ()))) or "<p>There are none.</p>"}
<h2>Questions that are not kept</h2>{"".join(_dropped(reason, rows) for reason, rows in sorted(found.examples.items()))}
"""
    return html.write(out / NAME, "Self-instruct", body, _STYLE)


def _authors(manifest: Mapping[str, Any]) -> str:
    """Who wrote questions, tests and solutions."""
    model, given = manifest["models"], manifest["without_model"]
    solutions = name(model["solutions"]["model"])
    if not given:
        return f"questions by {name(model['questions']['model'])} · tests and solutions by {solutions}"
    written = "solutions" if "tests" in given else "tests and solutions"
    return f"{' and '.join(given)} of {name(manifest['given']['file'])}, without a model · {written} by {solutions}"


def _bar(share: float) -> str:
    return f'<td class="bars"><i style="width:{100 * share:.1f}%"></i></td>'


def _funnel(funnel: Mapping[str, int]) -> str:
    most = max(*funnel.values(), 1)
    rows = []
    for stage, before in zip(FUNNEL, ("", *FUNNEL), strict=False):
        count, paper = funnel[stage], PAPER[stage]
        share = f"{count / funnel[before]:.1%}" if before and funnel[before] else ""
        rows.append(
            f"<tr><th>{stage.replace('_', ' ')}</th>{_bar(count / most)}<td>{count:,}</td><td>{share}</td>"
            f'<td class="muted">{f"about {paper:,}" if paper else ""}</td></tr>'
        )
    head = '<tr class="muted"><td></td><td></td><td>number</td><td>of those before</td><td>paper</td></tr>'
    return f'<section class="card"><table>{head}{"".join(rows)}</table></section>'


def _table(title: str, counts: Mapping[str, int], meaning: Mapping[str, str]) -> str:
    if not counts:
        return ""
    most = max(counts.values())
    rows = "".join(
        f'<tr><th title="{escape(meaning.get(key, ""))}">{escape(key.replace("_", " "))}</th>{_bar(count / most)}'
        f"<td>{count:,}</td></tr>"
        for key, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f'<section class="card"><b>{title}</b><table>{rows}</table></section>'


def _pass_rates(found: _Gathered) -> str:
    counts = {f"{passed} of {found.solutions}": found.pass_counts[passed] for passed in range(found.solutions + 1)}
    return _histogram("Pass rate by question", "solutions that pass all tests", counts)


def _mutants(found: _Gathered) -> str:
    counts = {f"{10 * tenth} to {10 * tenth + 9}%": found.killed[tenth] for tenth in range(10)}
    counts["all"] = found.killed[10]
    return _histogram("Mutants that tests reject", "of the mutants of the accepted solution", counts)


def _histogram(title: str, unit: str, counts: Mapping[str, int]) -> str:
    if not any(counts.values()):
        return ""
    most = max(counts.values())
    rows = "".join(f"<tr><th>{key}</th>{_bar(n / most)}<td>{n:,}</td></tr>" for key, n in counts.items())
    return f'<section class="card"><b>{title}</b> <span class="muted">{unit}</span><table>{rows}</table></section>'


def _dropped(reason: str, rows: Iterable[Mapping[str, Any]]) -> str:
    meaning = MEANING.get(reason, "")
    title = f"<b>{escape(reason.replace('_', ' '))}</b> <span class='muted'>{escape(meaning)}</span>"
    return f"<p>{title}</p>{''.join(map(_example, rows))}"


def _example(row: Mapping[str, Any]) -> str:
    """A question with its tests; the chosen solution, or the first; and one that failed."""
    tests = "\n".join(row.get("tests", ()))
    solutions = [entry for entry in row.get("solutions", ()) if "program" in entry]
    chosen = [entry for entry in solutions if entry["index"] == row.get("chosen")]
    failed = [entry for entry in solutions if entry["status"] != "passed" and entry["index"] != row.get("chosen")]
    shown = [*chosen, *failed][: 2 if chosen else 1]
    accepted = [entry["program"] for entry in row.get("wrong_programs", ()) if not entry["rejected"]]
    columns = "".join(_solution(entry, entry in chosen) for entry in shown)
    if accepted:
        columns += (
            f'<p class="muted">a wrong program that the tests accept</p><pre>{shortened(accepted[0], CHARACTERS)}</pre>'
        )
    left = f"<p>{shortened(row['question'], CHARACTERS)}</p>"
    left += f"<pre>{shortened(tests, CHARACTERS)}</pre>" if tests else ""
    left += f'<p class="muted">question {row["id"]}</p>'
    return f'<article class="card"><div>{left}</div><div>{columns}</div></article>'


def _solution(entry: Mapping[str, Any], chosen: bool) -> str:
    state = "state finished" if entry["status"] == "passed" else "state"
    title = f"solution {entry['index']}{', chosen' if chosen else ''}"
    message = name(entry["message"] or "all tests pass")
    return (
        f'<p>{title} <span class="{state}">{escape(entry["status"])}</span> {message}</p>'
        f"<pre>{shortened(entry['program'], CHARACTERS)}</pre>"
    )
