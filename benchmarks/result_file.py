"""Parts of the result files of benchmarks."""

import platform
import statistics
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def paragraph(text: str) -> Iterator[str]:
    """The lines of a wrapped paragraph, followed by an empty line."""
    yield from textwrap.wrap(" ".join(text.split()), 118, break_long_words=False, break_on_hyphens=False)
    yield ""


def write(lines: Iterable[str], out: Path | None) -> None:
    """Prints the lines of a result as they come, and writes them to a file, if one is given, when all are there."""
    text = ""
    for line in lines:
        print(line, flush=True)
        text += line + "\n"
    if out:
        out.write_text(text)


def median_and_range(seconds: list[float]) -> str:
    """Two cells of a table: the median, and the extremes."""
    return f"{statistics.median(seconds):.2f} | {min(seconds):.2f} .. {max(seconds):.2f} |"
