"""Measures the time from the command to the first training step, by phase.

    python benchmarks/startup.py [--runs=5] [--against=CHECKOUT] [--out=FILE]

Each run is `python xm_launch.py --gin_file=gin/lcft.gin` with a new run folder: it starts the stage `code` of size
local with the embedded corpus, as `make demo` does. SIGKILL ends it when the first step is logged. The first run is not
counted: it trains the tokenizer and compiles the bytecode if these are not cached. With --against, runs alternate
between this checkout and another one, in the same environment.
"""

import argparse
import datetime
import importlib.metadata
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result_file import processor

ROOT = Path(__file__).resolve().parent.parent
# Phase -> the line of output that marks its end.
PHASES = {
    "launcher": re.compile(r"size local"),
    "configuration": re.compile(r"code: loading"),
    "imports and data": re.compile(r"validation loss .* before the first step"),
    "first step": re.compile(r"code: step 1/"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the time to the first training step.")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each checkout")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    checkouts = {"this checkout": ROOT} | ({"the other": options.against.resolve()} if options.against else {})
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for run in range(options.runs + 1):
        for name, checkout in checkouts.items():
            phases = seconds_to_phases(checkout)
            print(f"{name}: " + ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in phases.items()), flush=True)
            if run:
                measured[name].append(phases)
    text = report(measured, options.runs)
    print(text)
    if options.out:
        options.out.write_text(text)


def seconds_to_phases(checkout: Path) -> dict[str, float]:
    """Seconds from the start of the process to the end of each phase, in their order.

    Raises:
        RuntimeError: the run ended before its first step.
    """
    seen: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="startup_") as folder:
        command = [sys.executable, "xm_launch.py", "--gin_file=gin/lcft.gin", f"--run_dir={folder}"]
        started = time.monotonic()
        child = subprocess.Popen(
            command,
            cwd=checkout,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert child.stdout
        lines = []
        try:
            for line in child.stdout:
                lines.append(line)
                seen |= {
                    phase: time.monotonic() - started
                    for phase, pattern in PHASES.items()
                    if phase not in seen and pattern.search(line)
                }
                if "first step" in seen:
                    return seen
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    raise RuntimeError("the run ended before its first step:\n" + "".join(lines))


def report(measured: dict[str, list[dict[str, float]]], runs: int) -> str:
    """The text of the result file."""
    arguments = ["--against=CHECKOUT" if argument.startswith("--against=") else argument for argument in sys.argv[1:]]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "orbax-checkpoint"))
    lines = [
        f"# Time to the first step, {datetime.date.today()}",
        "",
        f"    python {' '.join(['benchmarks/startup.py', *arguments])}",
        "",
        f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}. Medians of"
        f" {runs} runs, with the extremes; the tokenizer is cached. Each column is the time since the previous phase.",
        "",
        "| | " + " | ".join(PHASES) + " | total |",
        "|---|" + "---|" * (len(PHASES) + 1),
    ]
    for name, of_runs in measured.items():
        ends = [[phases[phase] for phase in PHASES] for phases in of_runs]
        steps = [[end - before for before, end in zip([0.0, *run], run, strict=False)] for run in ends]
        medians = [f"{statistics.median(column):.2f} s" for column in zip(*steps, strict=True)]
        total = [run[-1] for run in ends]
        lines.append(
            f"| {name} | {' | '.join(medians)} | **{statistics.median(total):.2f} s** ({min(total):.2f} ..."
            f" {max(total):.2f}) |"
        )
    if len(measured) == 2:
        ours, theirs = ([phases["first step"] for phases in of_runs] for of_runs in measured.values())
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        lines += ["", f"Median over runs of the ratio of this checkout to the other: {ratio:.2f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
