"""How the wall time of a stage is divided into training steps and overhead."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# cause -> key of its seconds in metrics.jsonl
_CAUSES = ("startup", "validation", "benchmarks", "infilling", "save", "lost", "down")
_OVERHEAD = {name: f"{name}_seconds" for name in _CAUSES}


def goodput(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the wall time, from the lines of metrics.jsonl. They sum to 1; empty without lines.

    Returns:
        steps: steps that were kept, without compilation.
        compilation: the time by which the first step after each start exceeded the median step.
        startup: from the start of the process to the first step.
        validation, benchmarks, infilling, save: the time that the loop waited for these.
        lost: steps that ran again, and the overhead between them.
        down: from the last step of a process to the start of the next process.
    """
    if not lines:
        return {}
    median = statistics.median(line["seconds"] for line in lines)
    compiling = sum(max(line["seconds"] - median, 0.0) for line in lines if _OVERHEAD["startup"] in line)
    seconds = {"steps": sum(line["seconds"] for line in lines) - compiling, "compilation": compiling}
    seconds |= {cause: sum(line.get(name, 0.0) for line in lines) for cause, name in _OVERHEAD.items()}
    total = sum(seconds.values())
    return {cause: value / total for cause, value in seconds.items()}
