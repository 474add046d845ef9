"""Samples of an evaluation as HTML: prompt, output, and verdict.

All text is a model's, and may be hostile: it is escaped, invisible and reordering characters are made visible
(charts.escape), and long text is shortened, with the number of characters that are left out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from codellama_jax.evaluation.failure import cut_off, failure_of
from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_index import Entry, SampleIndex
from codellama_jax.report.charts import escape, number

PROMPT, COUNTED, REST, STDERR = 6000, 4000, 1000, 1500  # characters that are shown of each text
NAMES = 300  # characters of a name or a reason

STYLE = """
.task pre { max-height: 420px; overflow: auto; contain: paint; direction: ltr; }
.task article { margin: 12px 0 0; padding: 12px 0 0; border: 0; border-top: 1px solid var(--rule); border-radius: 0; }
.task article .muted { font-size: 12px; } .task .cut { color: var(--c4); font-style: italic; }
bdi { overflow-wrap: anywhere; } summary .muted { font-weight: 400; }
"""


def shortened(text: str, most: int) -> str:
    """Text for HTML, of which the middle is left out where it is longer than `most` characters."""
    if len(text) <= most:
        return escape(text)
    head, tail = most * 2 // 3, most - most * 2 // 3
    left_out = f'<span class="cut">⋯ {len(text) - most:,} characters are not shown ⋯</span>'
    return f"{escape(text[:head])}{left_out}{escape(text[-tail:])}"


def name(text: str) -> str:
    """A name or another short text for HTML, isolated from the direction of the text around it."""
    return f"<bdi>{shortened(' '.join(text.split()) or '(no name)', NAMES)}</bdi>"


def prompt_view(sample: Sample) -> str:
    """What the model was asked: the prompt up to the place of the answer, the suffix, the dialogue, other fields."""
    more = dict(sample.input)
    suffix, messages = more.pop("suffix", ""), more.pop("messages", None)
    if isinstance(messages, list):
        body = "".join(_message(message) for message in messages)
    else:
        after = f"<span>{shortened(suffix, PROMPT)}</span>" if isinstance(suffix, str) else ""
        body = f'<pre><span>{shortened(sample.prompt, PROMPT)}</span><mark class="hole">▮</mark>{after}</pre>'
    facts = [f"{len(sample.prompt):,} characters"] if len(sample.prompt) > PROMPT else []
    facts += ["lines end in CRLF"] if "\r\n" in sample.prompt else []
    facts += [f"{key}: {json.dumps(value)}" for key, value in more.items() if key != "order"]
    return body + (f'<p class="muted">{name(" · ".join(facts))}</p>' if facts else "")


def _message(message: Any) -> str:
    role, content = (message.get(key, "") if isinstance(message, Mapping) else "" for key in ("role", "content"))
    return f'<p class="muted">{name(str(role))}</p><pre><span>{shortened(str(content), PROMPT)}</span></pre>'


def output_view(sample: Sample) -> str:
    """The raw output, in which what counts is marked; what counts by itself if it is not a part of the output."""
    start = sample.raw.find(sample.completion)
    if start < 0:
        return (
            f"<pre><span>{shortened(sample.raw, COUNTED)}</span></pre>"
            f'<p class="muted">What counts of it:</p><pre><mark>{shortened(sample.completion, COUNTED)}</mark></pre>'
        )
    end = start + len(sample.completion)
    before, after = (
        f"<span>{shortened(text, REST)}</span>" if text else "" for text in (sample.raw[:start], sample.raw[end:])
    )
    return f"<pre>{before}<mark>{shortened(sample.completion, COUNTED)}</mark>{after}</pre>"


def verdict_view(sample: Sample) -> str:
    """Whether the sample passed, why not, its scores and the beginning of standard error."""
    scores = ", ".join(f"{key} {number(value)}" for key, value in list(sample.scores.items())[:8])
    reason = f"<p>{name(sample.reason)}</p>" if sample.reason else ""
    stderr = f"<pre><span>{shortened(sample.stderr, STDERR)}</span></pre>" if sample.stderr.strip() else ""
    return f"{badge(sample)}{f'<p>{name(scores)}</p>' if scores else ''}{reason}{stderr}"


def badge(sample: Sample) -> str:
    """The verdict in one or two words."""
    if sample.passed is None:
        return '<span class="muted">scored</span>'
    if sample.passed:
        return '<span class="state finished">passed</span>'
    cut = " · cut off at the limit of tokens" if cut_off(sample) else ""
    return f'<span class="state">{escape(failure_of(sample))}{cut}</span>'


def sample_view(index: SampleIndex, entries: Sequence[Entry], of: int, heading: str = "") -> str:
    """Equal samples as one.

    Args:
        entries: of samples with the same completion and verdict; the first one is shown.
        of: number of samples of the task.
        heading: HTML to show first.
    """
    sample = index.read(entries[0])
    numbers = ", ".join(str(entry.sample) for entry in entries[:5]) + (", …" if len(entries) > 5 else "")
    which = f"sample {numbers}" + (f" ({len(entries):,} of {of:,})" if of > 1 else "")
    variant = f"{name(sample.variant)} · " if sample.variant else ""
    facts = f"{variant}{which} · seed {sample.seed} · line {entries[0].line:,} of samples/{escape(index.path.name)}"
    return f"""<article class="card"><div>{heading}{output_view(sample)}</div>
<div>{verdict_view(sample)}<p class="muted">{facts}</p></div></article>"""


def groups(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries of a task in groups of equal samples: one that passed, one of each failure, then the others."""
    equal = dict[bytes, list[Entry]]()
    for entry in entries:
        equal.setdefault(entry.digest, []).append(entry)
    rest, first, seen = list[list[Entry]](), list[list[Entry]](), set[tuple[bool | None, str]]()
    for group in sorted(equal.values(), key=lambda group: (not group[0].passed, -len(group), group[0].sample)):
        kind = group[0].passed, group[0].failure
        (rest if kind in seen else first).append(group)
        seen.add(kind)
    return first + rest
