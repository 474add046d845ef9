"""report.html: what is in a training set, and what was left out of it and why.

The same build gives the same page: no times stand in it.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_jax.report import html as pages
from codellama_jax.report.charts import Line, chart, escape, number
from tasks.curation import storage, tables
from tasks.curation.clean import read
from tasks.curation.ledger import Ledger, Unit
from tasks.curation.summary import BINDINGS, SAID, SPLITS, Summary

NAME = "report.html"
EXAMPLES = 6  # pairs shown side by side
LINES, CHARACTERS = 28, 1600  # of each side
LANGUAGES = 16  # in the table; the rest as one


def page(job: Ledger, summary: Summary) -> str:
    """The page of a build whose steps are finished."""
    body = f"""
<header><h1>Training set <small>{escape(job.inputs.stream)}</small></h1>
<p class="muted">{escape(job.inputs.place)} · build {job.digest[:12]}</p></header>
{_figures(summary)}
<div class="grid">
{_steps(summary)}
{_left_out(summary)}
{_lengths(summary)}
{_clusters(summary)}
</div>
{_languages(summary)}
{_pairs(job, summary)}
{_contaminated(summary)}
{_parameters(job.parameters)}"""
    return pages.html("Training set", body, _STYLE, f"build {job.digest}")


def _figures(summary: Summary) -> str:
    counts = summary.counts
    kept = {m: sum(counts[f"{m}/{split}"] for split in SPLITS) for m in ("documents", "tokens")}
    lost = 1 - kept["tokens"] / max(1, counts["tokens/read"])
    figures = {
        "documents": f"{kept['documents']:,}",
        "tokens": number(kept["tokens"]),
        "of them validation": f"{counts['tokens/validation'] / max(1, kept['tokens']):.2%}",
        "tokens left out": f"{lost:.1%}",
        "shards": f"{len(summary.shards):,}",
        "size": f"{number(sum(shard['bytes'] for shard in summary.shards))}B",
    }
    known = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in figures.items())
    return f'<dl class="figures">{known}</dl>'


def _table(
    title: str, about: str, head: tuple[str, ...], rows: Iterator[tuple[str, float, str, tuple[str, ...]]]
) -> str:
    """A table with bars: (label, share for the bar, colour, cells) a row."""
    body = ""
    for label, share, colour, cells in rows:
        bar = f'<td class="bars"><i style="width:{min(1.0, max(0.0, share)):.2%}"></i></td>'
        columns = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f'<tr class="{colour}"><th>{label}</th>{bar}{columns}</tr>'
    heads = "".join(f"<td>{name}</td>" for name in head)
    return f"""<section class="card"><b>{title}</b> <span class="muted">{about}</span>
<div class="scroll"><table><tr class="muted"><td></td><td></td>{heads}</tr>{body}</table></div></section>"""


def _steps(summary: Summary) -> str:
    whole = max(1, summary.counts["tokens/read"])

    def rows() -> Iterator[tuple[str, float, str, tuple[str, ...]]]:
        for step, left, _ in summary.left():
            share = left["tokens"] / whole
            yield SAID[step], share, "c1", (f"{left['documents']:,}", number(left["tokens"]), f"{share:.1%}")
        for split in SPLITS:
            documents, tokens = (summary.counts[f"{measure}/{split}"] for measure in ("documents", "tokens"))
            yield f"in {split}", tokens / whole, "c3", (f"{documents:,}", number(tokens), f"{tokens / whole:.1%}")

    return _table("What every step left", "by tokens", ("documents", "tokens", ""), rows())


def _left_out(summary: Summary) -> str:
    reading = {name: (count, BINDINGS.get(name, "")) for name, count in summary.left_out().items()}
    steps = {name: (summary.counts[f"documents/{name}"], BINDINGS.get(name, "")) for name in summary.removing}
    entries = sorted({**reading, **steps}.items(), key=lambda entry: -entry[1][0])
    most = max([count for _, (count, _) in entries] or [1]) or 1

    def rows() -> Iterator[tuple[str, float, str, tuple[str, ...]]]:
        for name, (count, binding) in entries:
            label = f'{escape(name)}<br><code class="muted">{escape(binding)}</code>' if binding else escape(name)
            yield label, count / most, "c4", (f"{count:,}",)

    redacted = summary.prefixed("redacted/")
    replaced = ", ".join(f"{count:,} {escape(kind)}" for kind, count in redacted.items())
    note = ""
    if redacted:
        documents, share = summary.counts["redacted_documents"], summary.redacted_share()
        note = f"Replaced: {replaced}, in {documents:,} documents; {share:.4%} of the characters."
    table = _table("What was left out", "documents, and what to bind to change it", ("documents",), rows())
    return table.removesuffix("</section>") + (f'<p class="muted">{note}</p>' if note else "") + "</section>"


def _languages(summary: Summary) -> str:
    before, after = summary.languages(), summary.languages("train")
    validation = summary.languages("validation")
    kept = {name: after.get(name, {}).get("tokens", 0) + validation.get(name, {}).get("tokens", 0) for name in before}
    names = sorted(before, key=lambda name: (-kept[name], name))
    shown = names if len(names) <= LANGUAGES else names[: LANGUAGES - 1]
    most = max(list(kept.values()) or [0]) or 1
    total = sum(kept.values()) or 1

    def row(label: str, members: list[str]) -> tuple[str, float, str, tuple[str, ...]]:
        read_, left = sum(before[name]["tokens"] for name in members), sum(kept[name] for name in members)
        return label, left / most, "c1", (number(left), f"{left / total:.1%}", f"{left / max(1, read_):.0%}")

    rows = [row(escape(name), [name]) for name in shown]
    if rest := names[len(shown) :]:
        rows.append(row(f"{len(rest)} others", rest))
    return _table("Tokens by language", "kept", ("tokens", "share", "of those read"), iter(rows))


def _lengths(summary: Summary) -> str:
    lines = []
    for label, name, colour in (("read", "read", "c4"), ("kept", "kept", "c1")):
        points = [(float(max(size, 1)), float(count)) for size, count in summary.histogram(f"length/{name}/")]
        lines.append(Line(label, points, colour, "marked"))
    note = "A point at 1,024 counts the documents of 1,024 to 2,047 tokens."
    return chart("Lengths of documents", "documents", "tokens", lines, log=True, note=note)


def _clusters(summary: Summary) -> str:
    lines = []
    for label, reason, colour in (("exact", "exact_duplicate", "c5"), ("near", "near_duplicate", "c2")):
        points = [(float(size), float(count)) for size, count in summary.histogram(f"clusters/{reason}/")]
        lines.append(Line(label, points, colour, "marked"))
    note = "Groups of duplicates, of each of which one document is kept. A point at 4 counts those of 4 to 7 documents."
    return chart("Sizes of clusters", "clusters", "documents of a cluster", lines, log=True, note=note)


def _pairs(job: Ledger, summary: Summary) -> str:
    """Near-duplicates side by side, what differs marked."""
    blocks = []
    for _, (left_out, kept, path, other) in summary.tally.samples.get("pairs/near_duplicate", [])[:EXAMPLES]:
        texts = [_text(job, id) for id in (left_out, kept)]
        sides = _marked(*texts)
        for title, name, side in zip(("left out", "kept"), (path, other), sides, strict=True):
            blocks.append(f'<div><span class="muted">{title}</span> <b>{escape(name)}</b><pre>{side}</pre></div>')
    pairs = "".join(
        f'<article class="card pair">{a}{b}</article>' for a, b in zip(blocks[::2], blocks[1::2], strict=True)
    )
    about = "Drawn by hash. Where they first differ; lines that only one side has are marked."
    return f'<h2>Near-duplicates</h2><p class="muted">{about}</p>{pairs}' if pairs else ""


def _text(job: Ledger, id: int) -> str:
    unit, wanted = Unit(id >> 32, 0, 0), id & 0xFFFFFFFF
    for group in tables.read(storage.join(job.folder(read.NAME), unit.file), ["number", "text"]):
        numbers = tables.integers(group["number"])
        if len(numbers) and numbers[0] <= wanted <= numbers[-1]:
            return group["text"][int(wanted - numbers[0])].as_py()
    return ""


def _marked(left_out: str, kept: str) -> tuple[str, str]:
    """Both as HTML from a little before the first difference, with the lines marked that the other has not."""
    a, b = left_out.splitlines()[:4000], kept.splitlines()[:4000]
    first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    begin = max(0, first - 4)
    a, b = a[begin : begin + LINES], b[begin : begin + LINES]
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
        if characters > CHARACTERS:
            shown.append("<span>⋯</span>")
            break
        shown.append(f"<span>{escape(line)}</span>" if index in same else f"<mark>{escape(line) or ' '}</mark>")
    return "\n".join(shown)


def _contaminated(summary: Summary) -> str:
    """Documents with the problem that they hit."""
    if "contaminated" not in summary.removing:
        return ""
    hits = summary.prefixed("problems/hit/")
    found = ", ".join(f"{escape(name)} {count:,}" for name, count in hits.items()) or "none"
    documents = summary.counts["documents/contaminated"]
    rows = ""
    for _, hit in summary.tally.samples.get("contaminated", []):
        how = "by structure" if hit["renamed"] else "by words"
        rows += (
            f"<tr><th>{escape(hit['path'])}</th><th>{escape(hit['problem'])}</th><th>{escape(hit['part'])}</th>"
            f"<td>{hit['overlap']:.0%}</td><th>{how}</th>"
            f'<th class="excerpt"><code>{escape(hit["excerpt"])}</code></th></tr>'
        )
    head = "<tr class='muted'><th>document</th><th>problem</th><th>its</th><td>overlap</td><th></th><th>from</th></tr>"
    table = f'<div class="scroll"><table>{head}{rows}</table></div>' if rows else ""
    about = f"{documents:,} documents were left out, which hit: {found}."
    drawn = (
        " Those below are drawn by hash; all are listed in left-out."
        if documents > len(summary.tally.samples.get("contaminated", []))
        else ""
    )
    return f'<h2>Evaluation problems</h2><section class="card"><p>{about}{drawn}</p>{table}</section>'


def _parameters(parameters: Mapping[str, Any]) -> str:
    lines = []
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            lines += [f"{name}.{field} = {setting!r}" for field, setting in value.items()]
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
