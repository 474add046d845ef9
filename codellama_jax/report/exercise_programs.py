"""Programs that a stage wrote for the benchmark exercises: some right and some wrong ones, with what they fail."""

import hashlib
import re
from collections.abc import Mapping, Sequence

from codellama_jax.evaluation import sample_file
from codellama_jax.evaluation.sample import Sample
from codellama_jax.exercises import problems
from codellama_jax.report.charts import escape
from codellama_jax.report.sample_views import badge, name, shortened
from codellama_jax.report.stage_files import StageFiles

BENCHMARK = "exercises"
SHOWN = 5  # right programs, and as many wrong ones
_CHARACTERS = 1_500  # of a text


def programs(folder: StageFiles) -> str:
    """Right and wrong programs of a stage; "" if it has no results of the benchmark.

    They are chosen by a hash of their names, from different families first.
    """
    results = folder.results.get(BENCHMARK)
    if not results:
        return ""
    samples = sample_file.read(folder.path / "evaluation" / "samples" / f"{BENCHMARK}.jsonl").samples.values()
    first = [sample for sample in samples if sample.sample == 0 and sample.passed is not None]
    rows = _rows(results)
    right, wrong = ([sample for sample in first if sample.passed is passed] for passed in (True, False))
    by = f"programs by {escape(folder.name)}"
    body = ""
    if chosen := _chosen(right):
        shown = "".join(f'<div class="card">{_program(sample)}</div>' for sample in chosen)
        body += f'<h2>Right {by} <small>{_counts(chosen, right)}</small></h2><div class="grid">{shown}</div>'
    if chosen := _chosen(wrong):
        shown = "".join(_failure(sample, rows.get(sample.task_id, {})) for sample in chosen)
        body += f"<h2>Wrong {by} <small>{_counts(chosen, wrong)}</small></h2>{shown}"
    return body


def _rows(results: Mapping[str, object]) -> dict[str, problems.Row]:
    """task_id -> the problem, with its tests and a solution, which the samples do not have."""
    settings = results.get("settings")
    count = settings.get("problems") if isinstance(settings, Mapping) else None
    if not isinstance(count, int):
        return {}
    try:
        return {row["task_id"]: row for row in problems.problems("test", count)}
    except ValueError:  # results of a version with more problems
        return {}


def _chosen(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that are shown."""
    ordered = sorted(samples, key=lambda sample: hashlib.sha256(sample.task_id.encode()).digest())
    seen = dict.fromkeys(map(_family, ordered), 0)
    rounds = list[tuple[int, int, Sample]]()
    for sample in ordered:
        rounds.append((seen[_family(sample)], len(rounds), sample))
        seen[_family(sample)] += 1
    return [sample for _, _, sample in sorted(rounds, key=lambda item: item[:2])[:SHOWN]]


def _family(sample: Sample) -> str:
    return sample.task_id.partition("/")[0]


def _counts(chosen: Sequence[Sample], of: Sequence[Sample]) -> str:
    return f"{len(chosen)} of {len(of):,}, chosen at random"


def _program(sample: Sample) -> str:
    """The prompt with the answer."""
    prompt, answer = (shortened(text, _CHARACTERS) for text in (sample.prompt, sample.completion.rstrip()))
    return f"<pre><span>{prompt}</span><mark>{answer}</mark></pre>"


def _failure(sample: Sample, row: problems.Row) -> str:
    """A wrong program, beside the test that fails and a right answer."""
    if row.get("prompt") != sample.prompt:  # a problem of another version
        row = {}
    verdict = badge(sample) + (_failed_test(sample, row) or f"<p>{name(sample.reason)}</p>")
    if row:
        verdict += f'<p class="muted">A right answer</p><pre><ins>{escape(row["canonical_solution"])}</ins></pre>'
    return f'<article class="card">{_program(sample)}<div>{verdict}</div></article>'


def _failed_test(sample: Sample, row: problems.Row) -> str:
    """The test in which the program failed, as HTML; "" if that is not known."""
    lines = ["", "", *row.get("test", "").splitlines()]  # the test follows an empty line; lines count from 1
    at = re.search(r'File "<test>", line (\d+), in check$', sample.stderr, re.MULTILINE)
    if at is None or int(at[1]) >= len(lines):
        return ""
    test = lines[int(at[1])].strip().removeprefix("assert ").replace("candidate(", f"{row['entry_point']}(", 1)
    error = sample.reason.partition(": ")[2]
    reason = "" if error in ("", "AssertionError") else f"<p>{name(error)}</p>"
    return f"<pre>{escape(test)}</pre>{reason}"
