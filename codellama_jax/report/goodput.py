"""Where the wall time of a stage went: in steps that count, or beside them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# cause -> what the lines of metrics.jsonl call its seconds
_BESIDE = {name: f"{name}_seconds" for name in ("startup", "validation", "save", "lost", "down")}


def goodput(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the wall time from the lines of metrics.jsonl, which sum to 1; empty without lines.

    steps: those that count. compilation: by which the first step after a start took longer than the median step.
    startup: until that step. validation, save: while steps waited for them. lost: steps that were done again. down:
    between the last step of a process that ended and the start of the next one.
    """
    if not lines:
        return {}
    usual = statistics.median(line["seconds"] for line in lines)
    compiling = sum(max(line["seconds"] - usual, 0.0) for line in lines if _BESIDE["startup"] in line)
    seconds = {"steps": sum(line["seconds"] for line in lines) - compiling, "compilation": compiling}
    seconds |= {cause: sum(line.get(name, 0.0) for line in lines) for cause, name in _BESIDE.items()}
    whole = sum(seconds.values())
    return {cause: value / whole for cause, value in seconds.items()}
