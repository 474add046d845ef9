"""The plan of a cascade, shown with what each stage costs, and asked about once."""

import sys
from collections.abc import Sequence

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import GiB, Topology
from launch import capacity
from launch.job import Experiment


def table(experiment: Experiment, answers: Sequence[capacity.Answer], slice_: Topology | None) -> str:
    """The stages in order: steps, tokens and, on a slice, what the planner knows of them."""
    costs = ["memory", "chip-hours", "days"] if answers else []
    rows = [["stage", "steps", "tokens", *costs]]
    hours = 0.0
    for number, job in enumerate(experiment.jobs):
        stage = job.config.stage
        row = [job.stage, f"{stage.steps:,}", f"{stage.steps * stage.batch_tokens:,}"]
        if slice_ and answers:
            answer = answers[number]
            cost = answer.chip_hours or 0.0
            hours += cost
            row += [f"{answer.peak_bytes / GiB:,.1f} GiB", f"{cost:,.0f}", f"{cost / slice_.chips / 24:,.1f}"]
        rows.append(row)
    if slice_ and answers:
        rows.append(["all", "", "", "", f"{hours:,.0f}", f"{hours / slice_.chips / 24:,.1f}"])
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(len(rows[0]))]
    lines = ["  ".join(word.rjust(width) for word, width in zip(row, widths, strict=False)) for row in rows]
    note = f"\n({answers[0].source}; nothing of it is measured)" if answers else ""
    return "\n".join(line.rstrip() for line in lines) + note


def agreed(*, yes: bool) -> bool:
    """Whether to go on: asks on the terminal, once.

    Raises:
        UserError: there is nobody to ask.
    """
    if yes:
        return True
    if not sys.stdin or not sys.stdin.isatty():
        raise UserError("a chain of stages is asked about once, and there is no terminal: add --yes", EXIT_USAGE)
    return input("run them one after another? [y/N] ").strip().lower() in ("y", "yes")
