"""Shares of a stage's wall time: steps, and what kept it from them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# cause -> key of its seconds in metrics.jsonl
_OVERHEAD = {name: f"{name}_seconds" for name in ("startup", "validation", "save", "lost", "down")}


def goodput(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the wall time, from the lines of metrics.jsonl. They sum to 1; empty without lines.

    Returns:
        steps: steps that count. compilation: what the first step after a start took longer than the median step.
        startup: from the start of the process to that step. validation, save: while the loop waited for them. lost:
        steps that ran again. down: from the last step of a process that ended to the start of the next process.
    """
    if not lines:
        return {}
    median = statistics.median(line["seconds"] for line in lines)
    compiling = sum(max(line["seconds"] - median, 0.0) for line in lines if _OVERHEAD["startup"] in line)
    seconds = {"steps": sum(line["seconds"] for line in lines) - compiling, "compilation": compiling}
    seconds |= {cause: sum(line.get(name, 0.0) for line in lines) for cause, name in _OVERHEAD.items()}
    total = sum(seconds.values())
    return {cause: value / total for cause, value in seconds.items()}
