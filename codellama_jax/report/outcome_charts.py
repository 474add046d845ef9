"""Figures about the samples of a benchmark: failures, pass@k, orders of infilling, and a map of the tasks."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from codellama_jax.evaluation.comparison import share
from codellama_jax.evaluation.failure import MEANING
from codellama_jax.evaluation.paired import of_single_samples
from codellama_jax.evaluation.pass_at_k import interval, pass_at_k
from codellama_jax.evaluation.sample_index import Entry
from codellama_jax.report.charts import Line, chart, escape
from codellama_jax.report.published import Published

Tasks = Mapping[str, Sequence[Entry]]
KS = (*range(1, 10), *range(10, 50, 5), *range(50, 1001, 25))  # where the curve of pass@k is drawn

STYLE = """
.failures td { padding-top: 3px; padding-bottom: 3px; white-space: nowrap; }
.failures .bars { width: 38%; min-width: 80px; text-align: left; }
.failures .bars i { display: inline-block; height: 9px; margin: 0; border-radius: 0; vertical-align: middle; }
.failures .bars .whole { background: var(--c4); } .failures .bars .cut { background: var(--c2); }
.map svg { min-width: 0; } .map path { stroke: none; } .map .level0 { fill: var(--rule); }
.map .level1 { fill: color-mix(in srgb, var(--c3) 35%, var(--rule)); }
.map .level2 { fill: color-mix(in srgb, var(--c3) 65%, var(--rule)); } .map .level3 { fill: var(--c3); }
"""


def failures(title: str, tasks: Tasks) -> str:
    """The failed samples by class, as bars and numbers; an empty string if there are none.

    The part of answers that were cut off has a colour of its own: their failures may be of the limit, not of the model.
    """
    entries = [entry for found in tasks.values() for entry in found if entry.passed is not None]
    failed = Counter(entry.failure for entry in entries if entry.failure)
    if not failed:
        return ""
    cut = Counter(entry.failure for entry in entries if entry.failure and entry.cut_off)
    most = max(failed.values())
    rows = []
    for failure, count in failed.most_common():
        bars = "".join(
            f'<i class="{css}" style="width:{100 * part / most:.2f}%"></i>'
            for css, part in (("whole", count - cut[failure]), ("cut", cut[failure]))
        )
        cells = f"<td>{count:,}</td><td>{count / len(entries):.1%}</td><td>{cut[failure]:,}</td>"
        tip = escape(MEANING.get(failure, "an exception of this type"))
        rows.append(f'<tr><th title="{tip}">{escape(failure)}</th><td class="bars">{bars}</td>{cells}</tr>')
    passed = sum(bool(entry.passed) for entry in entries)
    cells = f"<td>{passed:,}</td><td>{passed / len(entries):.1%}</td><td></td>"
    head = "<td></td><td></td><td>samples</td><td>share</td><td>cut off</td>"
    return f"""<section class="card failures"><b>Failures of {title}</b>
<span class="muted">yellow: cut off at the limit of tokens</span>
<div class="scroll"><table><tr class="muted">{head}</tr>{"".join(rows)}
<tr class="muted"><th>passed</th><td></td>{cells}</tr></table></div></section>"""


def pass_at_k_chart(title: str, variants: Mapping[str, Tasks], published: Published) -> str:
    """pass@k against k, with its interval and published values; an empty string for single samples."""
    lines, colours = list[Line](), iter(("c1", "c3", "c5", "c6"))
    for variant, tasks in list(variants.items())[:4]:
        judged = [[bool(e.passed) for e in entries if e.passed is not None] for entries in tasks.values()]
        counts = [(len(found), sum(found)) for found in judged if found]
        fewest = min((samples for samples, _ in counts), default=0)
        if fewest < 2:
            continue
        colour, estimates, lows, highs = next(colours), [], [], []
        for k in dict.fromkeys([*(k for k in KS if k < fewest), fewest]):
            value, low, high = pass_at_k_interval(counts, k)
            estimates.append((float(k), 100 * value))
            lows.append((float(k), 100 * low))
            highs.append((float(k), 100 * high))
        lines.append(Line(variant or "this model", estimates, colour, "marked"))
        lines += [Line("95% interval", points, f"{colour} limit") for points in (lows, highs)]
    if not lines:
        return ""
    values = [(k, published.value(f"pass@{k}")) for k in (1, 10, 100)]
    points = [(float(k), 100 * value) for k, value in values if value is not None]
    lines.append(Line(f"{published.model} (published, {published.source})", points, "c4", "rings"))
    return chart(title, "% of tasks that at least one of k samples solves", "k", lines, zero=True, log_x=True)


def pass_at_k_interval(counts: Sequence[tuple[int, int]], k: int) -> tuple[float, float, float]:
    """pass@k and its 95% interval.

    Args:
        counts: (number of samples, number that passed) of each task, at least k samples.
    """
    values = [pass_at_k(samples, passed, k) for samples, passed in counts]
    # samples of a task in groups of k are as many independent trials
    low, high = interval(values, sum(samples // k for samples, _ in counts))
    return math.fsum(values) / len(values), low, high


def orders(benchmark: str, variants: Mapping[str, Tasks]) -> str:
    """How often PSM and SPM solve the same holes; an empty string unless both were evaluated."""
    if not {"psm", "spm"} <= variants.keys():
        return ""
    psm, spm = variants["psm"], variants["spm"]
    common = [task for task in psm if task in spm]
    pairs = Counter((share(psm[task]) > 0, share(spm[task]) > 0) for task in common)
    single = all(len(tasks[task]) == 1 for tasks in (psm, spm) for task in common)
    cells = [f"{100 * _mean(tasks, common):.1f}%" for tasks in (psm, spm)]
    if single and common:
        found = of_single_samples([share(psm[task]) > 0 for task in common], [share(spm[task]) > 0 for task in common])
        cells += [f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})", f"{found.p:.2g}"]
    else:
        cells += ["–", "–"]
    cells += [f"{pairs[both]:,}" for both in ((True, True), (True, False), (False, True), (False, False))]
    return f"<tr><th>{escape(benchmark)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _mean(tasks: Tasks, names: Sequence[str]) -> float:
    return math.fsum(share(tasks[name]) for name in names) / max(len(names), 1)


def task_map(title: str, tasks: Tasks) -> str:
    """A square for each task, in order; the darker, the more of its samples passed. "" if there are only scores."""
    judged = [entries for entries in tasks.values() if all(entry.passed is not None for entry in entries)]
    if not judged:
        return ""
    side = 13 if len(judged) <= 1200 else 7
    columns = 1030 // side
    paths = ["", "", "", ""]
    for place, entries in enumerate(judged):
        passed = share(entries)
        level = 3 if passed == 1 else 2 if passed >= 0.5 else 1 if passed > 0 else 0
        y, x = divmod(place, columns)
        paths[level] += f"M{side * x} {side * y}h{side - 1}v{side - 1}h-{side - 1}z"
    rows = -(-len(judged) // columns)
    svg = "".join(f'<path class="level{level}" d="{path}"/>' for level, path in enumerate(paths) if path)
    return f"""<figure class="map"><figcaption>{title} <span class="muted">a square for each of {len(judged):,} tasks,
in order; green: all samples pass, paler: some, grey: none</span></figcaption>
<svg viewBox="0 0 1030 {side * rows}" role="img" aria-label="{title}: tasks">{svg}</svg></figure>"""
