"""report.html: what a training set contains, and which documents were removed and why.

The page contains no times, so the same build gives the same page.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_jax.config.run import current_name
from codellama_jax.report import html as pages
from codellama_jax.report.charts import Line, chart, escape, number
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.ledger import Ledger
from tasks.curation.summary import BINDINGS, LABELS, SPLITS, Summary
from tasks.curation.units import unit_file
from tasks.sources.filters import format_counts

NAME = "report.html"
MAX_PAIRS = 6  # shown side by side
MAX_LINES, MAX_CHARACTERS = 28, 1600  # of each side
MAX_LANGUAGES = 16  # rows of the table; the last sums up the others

Row = tuple[str, float, str, tuple[str, ...]]  # label, share for the bar, colour, cells


def page(ledger: Ledger, summary: Summary) -> str:
    """The page of a build whose steps are finished."""
    body = f"""
<header><h1>Training set <small>{escape(ledger.inputs.stream)}</small></h1>
<p class="muted">{escape(ledger.inputs.description)} · build {ledger.digest[:12]}</p></header>
{_figures(summary)}
<div class="grid">
{_steps(summary)}
{_removed(summary)}
{_lengths(summary)}
{_clusters(summary)}
</div>
{_languages(summary)}
{_pairs(ledger, summary)}
{_contaminated(summary)}
{_parameters(ledger.parameters)}"""
    return pages.html("Training set", body, _STYLE, f"build {ledger.digest}")


def _figures(summary: Summary) -> str:
    counts = summary.counts
    kept = {m: sum(counts[f"{m}/{split}"] for split in SPLITS) for m in ("documents", "tokens")}
    removed = 1 - kept["tokens"] / max(1, counts["tokens/read"])
    figures = {
        "documents": f"{kept['documents']:,}",
        "tokens": number(kept["tokens"]),
        "in validation": f"{counts['tokens/validation'] / max(1, kept['tokens']):.2%}",
        "tokens removed": f"{removed:.1%}",
        "shards": f"{len(summary.shards):,}",
        "size": f"{number(sum(shard['bytes'] for shard in summary.shards))}B",
    }
    entries = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures.items())
    return f'<dl class="figures">{entries}</dl>'


def _table(title: str, about: str, head: tuple[str, ...], rows: Iterator[Row]) -> str:
    """A table with a bar in each row."""
    body = ""
    for label, share, colour, cells in rows:
        bar = f'<td class="bars"><i style="width:{min(1.0, max(0.0, share)):.2%}"></i></td>'
        columns = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f'<tr class="{colour}"><th>{label}</th>{bar}{columns}</tr>'
    heads = "".join(f"<td>{name}</td>" for name in head)
    return f"""<section class="card"><b>{title}</b> <span class="muted">{about}</span>
<div class="scroll"><table><tr class="muted"><td></td><td></td>{heads}</tr>{body}</table></div></section>"""


def _steps(summary: Summary) -> str:
    tokens_read = max(1, summary.counts["tokens/read"])

    def row(label: str, counts: Mapping[str, int], colour: str) -> Row:
        share = counts["tokens"] / tokens_read
        return label, share, colour, (f"{counts['documents']:,}", number(counts["tokens"]), f"{share:.1%}")

    rows = [row(LABELS[remaining.step], remaining.total, "c1") for remaining in summary.remaining()]
    rows += [row(f"in {split}", summary.split(split), "c3") for split in SPLITS]
    return _table("What remains after each step", "by tokens", ("documents", "tokens", ""), iter(rows))


def _removed(summary: Summary) -> str:
    counts = summary.filtered() | {name: summary.counts[f"documents/{name}"] for name in summary.removing}
    largest = max([*counts.values(), 1])
    rows: list[Row] = []
    for name, count in sorted(counts.items(), key=lambda entry: -entry[1]):
        setting = f'<br><code class="muted">{escape(BINDINGS[name])}</code>' if name in BINDINGS else ""
        rows.append((escape(name) + setting, count / largest, "c4", (f"{count:,}",)))
    table = _table("Removed documents", "by reason, with the setting that controls it", ("documents",), iter(rows))
    if changed := summary.with_prefix("changed/"):
        table = (
            table.removesuffix("</section>")
            + f'<p class="muted">Changed: {escape(format_counts(changed))}</p></section>'
        )
    if redacted := summary.with_prefix("redacted/"):
        kinds = ", ".join(f"{count:,} {escape(kind)}" for kind, count in redacted.items())
        documents, share = summary.counts["redacted_documents"], summary.redacted_share()
        note = f"Redacted: {kinds}, in {documents:,} documents; {share:.4%} of the characters."
        table = table.removesuffix("</section>") + f'<p class="muted">{note}</p></section>'
    return table


def _languages(summary: Summary) -> str:
    before, after = summary.languages(), summary.languages("train")
    validation = summary.languages("validation")
    kept = {name: after.get(name, {}).get("tokens", 0) + validation.get(name, {}).get("tokens", 0) for name in before}
    names = sorted(before, key=lambda name: (-kept[name], name))
    shown = names if len(names) <= MAX_LANGUAGES else names[: MAX_LANGUAGES - 1]
    largest = max([*kept.values(), 1])
    total = sum(kept.values()) or 1

    def row(label: str, members: list[str]) -> Row:
        tokens_read, tokens = sum(before[name]["tokens"] for name in members), sum(kept[name] for name in members)
        cells = (number(tokens), f"{tokens / total:.1%}", f"{tokens / max(1, tokens_read):.0%}")
        return label, tokens / largest, "c1", cells

    rows = [row(escape(name), [name]) for name in shown]
    if others := names[len(shown) :]:
        rows.append(row(f"{len(others)} others", others))
    return _table("Tokens by language", "kept", ("tokens", "share", "of tokens read"), iter(rows))


def _lengths(summary: Summary) -> str:
    lines = []
    for label, name, colour in (("read", "read", "c4"), ("kept", "kept", "c1")):
        points = [(float(max(size, 1)), float(count)) for size, count in summary.histogram(f"length/{name}/")]
        lines.append(Line(label, points, colour, "marked"))
    note = "The point at 1,024 counts the documents with 1,024 to 2,047 tokens."
    return chart("Lengths of documents", "documents", "tokens", lines, log=True, note=note)


def _clusters(summary: Summary) -> str:
    lines = []
    for label, reason, colour in (("exact", "exact_duplicate", "c5"), ("near", "near_duplicate", "c2")):
        points = [(float(size), float(count)) for size, count in summary.histogram(f"clusters/{reason}/")]
        lines.append(Line(label, points, colour, "marked"))
    note = "One document of each cluster of duplicates is kept. The point at 4 counts the clusters of 4 to 7 documents."
    return chart("Sizes of clusters", "clusters", "documents of a cluster", lines, log=True, note=note)


def _pairs(ledger: Ledger, summary: Summary) -> str:
    """A sample of near-duplicates side by side, with the differences marked."""
    blocks = []
    for _, (removed, kept, path, kept_path) in summary.counters.samples.get("pairs/near_duplicate", [])[:MAX_PAIRS]:
        sides = _mark_differences(_text(ledger, removed), _text(ledger, kept))
        for title, name, side in zip(("removed", "kept"), (path, kept_path), sides, strict=True):
            blocks.append(f'<div><span class="muted">{title}</span> <b>{escape(name)}</b><pre>{side}</pre></div>')
    pairs = "".join(
        f'<article class="card pair">{a}{b}</article>' for a, b in zip(blocks[::2], blocks[1::2], strict=True)
    )
    about = "A random sample, each pair from its first difference on. Lines that occur on one side only are marked."
    return f'<h2>Near-duplicates</h2><p class="muted">{about}</p>{pairs}' if pairs else ""


def _text(ledger: Ledger, id: int) -> str:
    """The text of a document."""
    unit, index = id >> 32, id & 0xFFFFFFFF
    for group in tables.read(storage.join(ledger.folder(read.NAME), unit_file(unit)), ["number", "text"]):
        numbers = tables.to_numpy(group["number"])
        if len(numbers) and numbers[0] <= index <= numbers[-1]:
            return group["text"][int(index - numbers[0])].as_py()
    return ""


def _mark_differences(removed: str, kept: str) -> tuple[str, str]:
    """Both texts as HTML from shortly before the first difference, with lines marked that the other does not have."""
    a, b = removed.splitlines()[:4000], kept.splitlines()[:4000]
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    begin = max(0, first - 4)
    a, b = a[begin : begin + MAX_LINES], b[begin : begin + MAX_LINES]
    same_a: set[int] = set()
    same_b: set[int] = set()
    for match in difflib.SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks():
        same_a.update(range(match.a, match.a + match.size))
        same_b.update(range(match.b, match.b + match.size))
    return _side(a, same_a, begin), _side(b, same_b, begin)


def _side(lines: list[str], same: set[int], begin: int) -> str:
    shown, characters = ["<span>⋯</span>"] if begin else [], 0
    for index, line in enumerate(lines):
        characters += len(line) + 1
        if characters > MAX_CHARACTERS:
            shown.append("<span>⋯</span>")
            break
        shown.append(f"<span>{escape(line)}</span>" if index in same else f"<mark>{escape(line) or ' '}</mark>")
    return "\n".join(shown)


def _contaminated(summary: Summary) -> str:
    """A sample of the documents that contain evaluation problems."""
    if "contaminated" not in summary.removing:
        return ""
    hits = ", ".join(f"{escape(name)} {count:,}" for name, count in summary.with_prefix("problems/hit/").items())
    documents, sample = summary.counts["documents/contaminated"], summary.counters.samples.get("contaminated", [])
    rows = ""
    for _, hit in sample:
        how = "by structure" if hit["renamed"] else "by words"
        rows += (
            f"<tr><th>{escape(hit['path'])}</th><th>{escape(hit['problem'])}</th><th>{escape(hit['part'])}</th>"
            f"<td>{hit['overlap']:.0%}</td><th>{how}</th>"
            f'<th class="excerpt"><code>{escape(hit["excerpt"])}</code></th></tr>'
        )
    names = ("document", "problem", "part", "overlap", "found", "excerpt")
    head = "".join("<td>overlap</td>" if name == "overlap" else f"<th>{name}</th>" for name in names)
    table = f'<div class="scroll"><table><tr class="muted">{head}</tr>{rows}</table></div>' if rows else ""
    about = f"{documents:,} documents were removed. Problems found: {hits or 'none'}."
    note = " The table is a random sample; left-out has all of them." if documents > len(sample) else ""
    return f'<h2>Evaluation problems</h2><section class="card"><p>{about}{note}</p>{table}</section>'


def _parameters(parameters: Mapping[str, Any]) -> str:
    lines = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            lines += [f"{current_name(f'{name}.{field}')} = {setting!r}" for field, setting in value.items()]
        else:
            lines.append(f"{name} = {value!r}")
    text = escape("\n".join(lines))
    return f'<details class="card"><summary>Parameters</summary><pre>{text}</pre></details>'


_STYLE = """
code { font: 12px/1.4 ui-monospace, monospace; } .pair { grid-template-columns: repeat(2, minmax(0, 1fr)); }
.pair b { overflow-wrap: anywhere; } .pair pre { white-space: pre; overflow-x: auto; } td.bars { width: 40%; }
th br + code { font-size: 11px; } th.excerpt { white-space: normal; min-width: 280px; overflow-wrap: anywhere; }
section th { padding: 3px 14px 3px 0; vertical-align: top; }
@media (max-width: 800px) { .pair { grid-template-columns: minmax(0, 1fr); } }
"""
