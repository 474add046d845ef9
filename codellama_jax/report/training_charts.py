"""The charts of a training report: loss, single metrics, and perplexity against context length."""

import statistics

from codellama_jax.config.training import BENCHMARKS
from codellama_jax.report.charts import NOISY, Line, Points, chart, number
from codellama_jax.report.stage_files import StageFiles, is_finite, step_points

_STREAMS = ("code", "python", "nl_code", "nl", "instruct")  # in a fixed order: a stream has one colour on all pages


def stream_colour(stream: str) -> str:
    """The CSS class of a stream's colour."""
    return f"c{_STREAMS.index(stream) + 1 if stream in _STREAMS else 6}"


def loss_chart(folders: list[StageFiles]) -> str:
    """Losses against the steps of one stage, or against the tokens of several stages in sequence."""
    lines, marks, start = [], [], 0
    for folder in (folder for folder in folders if folder.metrics):
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        keys = [(stream, f"loss/{stream}", stream_colour(stream)) for stream in folder.streams]
        keys.append(("all", "loss", "c0"))
        for label, key, colour in keys:
            lines.append(Line(label, step_points(folder.metrics, key, start, scale), colour, "noisy"))
        for _, key, colour in keys:
            lines.append(Line("validation", step_points(folder.validations, key, start, scale), colour, "rings"))
        marks.append((float(start), folder.name))
        start += folder.step * scale
    if not lines:
        return '<p class="card wide">No steps yet.</p>'
    note = "Faint: every step. Strong: the running mean." if any(len(line.points) > NOISY for line in lines) else ""
    if len(folders) == 1:
        return chart("Loss", "nats per token", "step", lines, wide=True, note=note)
    unit = "nats per token, stages in sequence"
    return chart("Loss", unit, "tokens", lines, wide=True, marks=marks, note=note)


def benchmark_chart(folders: list[StageFiles]) -> str:
    """Bits per byte of the benchmarks, with the x axis of the loss chart; "" if none was measured."""
    lines, marks, start, shortened = [], [], 0, {}
    for folder in folders:
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        keys = dict.fromkeys(key for record in folder.benchmarks for key in record if key.startswith("bits_per_byte/"))
        for key in keys:
            label = key.removeprefix("bits_per_byte/")
            points = step_points(folder.benchmarks, key, start, scale)
            lines.append(Line(label, points, _benchmark_colour(label), "marked"))
            shortened[label] = folder.benchmarks[-1].get(f"shortened/{label}", 0)
        marks.append((float(start), folder.name))
        start += folder.step * scale
    if not any(line.points for line in lines):
        return ""
    cut = [f"{count:,} of {label}" for label, count in shortened.items() if count]
    note = f"Prompts that were cut to the window: {', '.join(cut)}." if cut else ""
    title, unit = "Bits per byte of right answers", "after the benchmark's prompt"
    if len(folders) == 1:
        return chart(title, unit, "step", lines, note=note)
    return chart(title, unit, "tokens", lines, marks=marks, note=note)


def _benchmark_colour(label: str) -> str:
    """The CSS class of a curve's colour, which is the same on all pages."""
    orders = [f"{name}{order}" for name in BENCHMARKS for order in ("", "/psm", "/spm")]
    curves = [curve for curve in orders if curve.startswith("infilling") == ("/" in curve)]
    return f"c{curves.index(label) % 6 + 1 if label in curves else 6}"


def metric_chart(title: str, unit: str, key: str, folders: list[StageFiles]) -> str:
    """A metric of every step, with the x axis of the loss chart."""
    lines, marks, start = [], [], 0
    for folder in (folder for folder in folders if folder.metrics):
        scale = folder.stage["batch_tokens"] if len(folders) > 1 else 1
        lines.append(Line("", _without_peaks(step_points(folder.metrics, key, start, scale)), "c1"))
        marks.append((float(start), folder.name))
        start += folder.step * scale
    several = len(folders) > 1
    return chart(title, unit, "tokens" if several else "step", lines, zero=True, marks=marks if several else ())


def _without_peaks(points: Points) -> Points:
    """Limits each point to twice the median of itself and its four neighbours. When the host notices the end of a step
    late, the next step seems to take no time; such a peak is not a real speed, and would set the scale of the chart.
    Stalls stay visible."""
    values = [y for _, y in points]
    return [(x, min(y, 2 * statistics.median(values[max(i - 2, 0) : i + 3]))) for i, (x, y) in enumerate(points)]


def context_chart(folder: StageFiles) -> str:
    """Perplexity against the position in the context, before and after the stage."""
    lines, marks, perplexities, note = [], [], [], ""
    for when, colour in (("before", "c4"), ("after", "c1")):
        if record := folder.contexts.get(when):
            name, length, lengths, values = (record[k] for k in ("stage", "trained_length", "lengths", "perplexity"))
            points = [(x, y) for x, y in zip(lengths, values, strict=True) if is_finite(y)]
            lines.append(Line(f"{when}: {name}, RoPE base {record['rope_theta']:,.0f}", points, colour, "marked"))
            marks.append((length, f"{name} trained on {length:,}"))
            perplexities.append(f"{number(values[-1])} {when} {folder.name}")
            first, last = [0, *lengths][-2] + 1, lengths[-1]
            note = f"At positions {first:,} to {last:,} the perplexity is {' and '.join(perplexities)}."
    title = "Perplexity against context length"
    return chart(title, "", "position of the token", lines, log=True, marks=marks[:1], note=note)
