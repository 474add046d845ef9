"""The section of a training report that compares the model before and after a stage on holes in files."""

from codellama_jax.report.charts import escape
from codellama_jax.report.stage_files import Record, StageFiles

_CORPORA = {"held_out": "held-out files", "general": "general code"}
_METRICS = {
    "exact_match": "filled exactly",
    "edit_similarity": "edit similarity",
    "bits_per_byte": "bits per byte",
}
_LOWER_IS_BETTER = ("bits_per_byte",)


def infilling_changes(folder: StageFiles) -> str:
    """The table of changes, and some holes that the models fill differently; "" if nothing was compared."""
    changes = folder.infilling.get("changes", [])
    if not changes:
        return ""
    rows = "".join(_row(change) for change in changes)
    head = "".join(
        f"<td>{name}</td>" for name in ("before", "after", "difference", "95% interval", "", "holes", "files")
    )
    units = sorted({change["unit"] for change in changes})
    note = (
        "The same holes before and after. Intervals are paired"
        + (": " + " or ".join(f"{unit}s" for unit in units) + " are independent" if units else "")
        + ". Held-out files show what the model has learned, general code what it has forgotten."
    )
    samples = "".join(_sample(sample) for sample in folder.infilling.get("samples", []))
    return f"""<section class="card">
<b>{escape(folder.name)}: infilling before and after</b> <span class="muted">{escape(note)}</span>
<div class="scroll"><table><tr class="muted"><td></td>{head}</tr>{rows}</table></div></section>{samples}"""


def _row(change: Record) -> str:
    metric, difference = change["metric"], change["difference"]
    label = f"{_CORPORA.get(change['corpus'], change['corpus'])}: {change['kind']}s, {_METRICS.get(metric, metric)}"
    better = (difference["value"] > 0) != (metric in _LOWER_IS_BETTER)
    certain = difference["low"] > 0 or difference["high"] < 0
    verdict = ("better" if better else "worse") if certain else ""
    cells = [
        *(_value(metric, change[when]) for when in ("before", "after")),
        _value(metric, difference["value"], signed=True),
        f"{_value(metric, difference['low'], signed=True)} to {_value(metric, difference['high'], signed=True)}",
        verdict,
        f"{change['holes']:,}",
        f"{change['files']:,}",
    ]
    return f"<tr><th>{escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _value(metric: str, value: float, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{value:{sign}.3f}" if metric == "bits_per_byte" else f"{value:{sign}.1%}"


def _sample(sample: Record) -> str:
    """A hole between its prefix and suffix, filled by the model after the stage, beside the other texts."""
    prefix = "\n".join(sample["prefix"].split("\n")[-8:])
    suffix = "\n".join(sample["suffix"].split("\n")[:5])
    return f"""<article class="card">
<div><b>{escape(sample["path"])}</b> <span class="muted">{escape(sample["kind"])}, after the stage</span>
<pre><span>{escape(prefix)}</span><mark>{escape(sample["after"])}</mark><span>{escape(suffix)}</span></pre></div>
<div><span class="muted">Before the stage</span><pre><mark>{escape(sample["before"])}</mark></pre>
<span class="muted">The removed text</span><pre><ins>{escape(sample["middle"])}</ins></pre></div></article>"""
