"""Measures the cost of a build: documents and megabytes per CPU-second, and the growth of memory and time.

    python benchmarks/build.py --tokenizer=/path/to/llama2/tokenizer.model [--against=problems.jsonl ...]
                               [--megabytes=25] [--out=benchmarks/build.md]

The corpora are source files of the Python installation that runs this program, including its installed packages, in
the order of a hash of their paths: --megabytes of them, and 2 and 4 times as many. One in ten files also has a copy
with a few changed lines. Each build runs the user's command in separate processes. Memory is the sum of the
proportional set sizes (Pss) of these processes, sampled ten times per second.
"""

import argparse
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from result_file import processor

ROOT = Path(__file__).resolve().parent.parent
ENDINGS = (".py", ".h", ".js", ".cc", ".c", ".hpp", ".pyi", ".sh")
FACTORS = (1, 2, 4)
MEMORY = 24 << 20  # Build.memory of the builds whose memory is measured
SHARD = 2 << 20
COLUMNS = ("documents", "MB", "peak memory, MiB", "CPU s", "wall s", "CPU s of other processes")
HEAD = f"| {' | '.join(COLUMNS)} | documents per CPU-second | MB per CPU-second |"


class Cost(NamedTuple):
    """The cost of one build.

    Attributes:
        wall: wall-clock seconds.
        cpu: CPU seconds of its processes.
        others: CPU seconds of all other processes during the build.
        peak: peak memory, bytes.
        steps: name and seconds of each step.
        out: the folder of the build.
    """

    wall: float
    cpu: float
    others: float
    peak: int
    steps: list[str]
    out: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--against", type=Path, action="append", default=[])
    parser.add_argument("--megabytes", type=int, default=25, help="size of the smallest corpus")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = "".join(line + "\n" for line in result(options, Path(folder)))
    print(text)
    if options.out:
        options.out.write_text(text)


def result(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of the result file."""
    corpora = {factor: corpus(folder / f"corpus{factor}", factor * options.megabytes) for factor in FACTORS}
    yield f"# Building a training set, {datetime.date.today()}"
    yield ""
    command = f"    python benchmarks/build.py {' '.join(sys.argv[1:])}"
    for path in (options.tokenizer, *options.against):
        command = command.replace(str(path), path.name)
    yield command
    yield ""
    packages = ("apache-beam", "numpy", "pyarrow", "sentencepiece")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield f"{os.cpu_count()} cores of {processor()}, shared; Python {platform.python_version()}, {versions}."
    yield "The complete build: reading, filters, redaction, tokens (Llama 2's tokenizer), exact and near-duplicates,"
    problems = f"decontamination against {len(options.against)} files of problems, " if options.against else ""
    yield f"{problems}split, shuffle, shards. Sizes are of the text that passes the filters."
    yield ""

    yield "## Memory and time by size of the corpus"
    yield ""
    yield f"`Build.memory` {MEMORY >> 20} MiB, `Build.shard_bytes` {SHARD >> 20} MiB, one process."
    yield ""
    yield f"| corpus {HEAD}"
    yield "|---|---|---|---|---|---|---|---|---|"
    points = []
    for factor, source in corpora.items():
        cost = build(options, source, folder / "out", 1, [f"--gin.Build.memory={MEMORY}"])
        documents, size = accepted(cost.out)
        points.append((size, cost))
        yield row(f"{factor}x", documents, size, cost)
    yield ""
    exponent = slope([(math.log(size), math.log(cost.cpu)) for size, cost in points])
    base = build(options, corpus(folder / "few", 0.1), folder / "out", 1, []).cpu
    net = slope([(math.log(size), math.log(cost.cpu - base)) for size, cost in points])
    growth = points[-1][1].peak / points[0][1].peak
    yield f"CPU seconds grow with the size of the corpus to the power of {exponent:.2f}, or of {net:.2f} without the"
    yield f"{base:.1f} s of a build of about 20 files. Peak memory for the corpus 4x is {growth:.2f} times that for 1x."
    yield ""

    yield "## Workers"
    yield ""
    yield "The largest corpus, the default `Build.memory` (1 GiB); the shards of all rows are identical, byte by byte."
    yield ""
    yield f"| workers {HEAD}"
    yield "|---|---|---|---|---|---|---|---|---|"
    digests, costs = set(), []
    for workers in options.workers:
        cost = build(options, corpora[FACTORS[-1]], folder / "out", workers, [])
        costs.append(cost)
        digests.add(hashlib.sha256((cost.out / "manifest.json").read_bytes()).hexdigest())
        yield row(str(workers), *accepted(cost.out), cost)
    assert len(digests) == 1, "the number of workers changed the build"
    yield ""
    yield "Steps of the last row that take at least half a second: " + ", ".join(costs[-1].steps) + "."
    yield ""
    yield "## Documents after each step, for the largest corpus"
    yield ""
    yield "| step | documents | tokens |"
    yield "|---|---|---|"
    for step in json.loads((costs[-1].out / "manifest.json").read_text())["steps"]:
        yield f"| {step['step']} | {step['left']['documents']:,} | {step['left']['tokens']:,} |"


def row(label: str, documents: int, size: int, cost: Cost) -> str:
    """A row of a table."""
    speeds = f"{documents / cost.cpu:,.0f} | {size / 1e6 / cost.cpu:.2f}"
    costs = f"{cost.peak >> 20} | {cost.cpu:.1f} | {cost.wall:.1f} | {cost.others:.1f}"
    return f"| {label} | {documents:,} | {size / 1e6:,.1f} | {costs} | {speeds} |"


def corpus(folder: Path, megabytes: float) -> Path:
    """Makes a corpus of source files of this environment, in folders that represent repositories."""
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platlib")]
    paths = {path for root in roots for ending in ENDINGS for path in root.rglob(f"*{ending}")}
    files = sorted(paths, key=lambda path: hashlib.blake2b(str(path).encode()).digest())
    remaining, rng = megabytes * 1_000_000, random.Random(0)
    for path in files:
        size = path.stat().st_size
        if remaining <= 0:
            break
        if not 0 < size < 1 << 20:
            continue
        root = roots[1] if path.is_relative_to(roots[1]) else roots[0]
        text = path.read_bytes()
        copies = [text] if rng.random() > 0.1 else [text, changed(text, rng)]
        for number, copy in enumerate(copies):
            target = folder / ("forks" if number else "originals") / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(copy)
            remaining -= size
    return folder


def changed(text: bytes, rng: random.Random) -> bytes:
    """Appends a word to one line in a hundred."""
    lines = text.split(b"\n")
    for _ in range(1 + len(lines) // 100):
        lines[rng.randrange(len(lines))] += b"  changed"
    return b"\n".join(lines)


def build(options: argparse.Namespace, source: Path, out: Path, workers: int, flags: list[str]) -> Cost:
    """Runs the build command and measures it."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "tasks.build", f"--source={source}", f"--out={out}", f"--workers={workers}"]
    command += [f"--tokenizer={options.tokenizer}", f"--gin.Build.shard_bytes={SHARD}", *flags]
    command += [f"--against={path}" for path in options.against]
    before, busy_before, start = resource.getrusage(resource.RUSAGE_CHILDREN), busy(), time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = Peak(process.pid)
    output, _ = process.communicate()
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, output
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    steps = [
        step.partition("] ")[2].partition(" s,")[0].removesuffix(" s") for step in output.splitlines() if "] " in step
    ]
    slow = [f"{step} s" for step in steps if float(step.rpartition(": ")[2]) >= 0.5]
    return Cost(wall, cpu, max(0.0, busy() - busy_before - cpu), peak.stop(), slow, out)


def busy() -> float:
    """CPU seconds of all processes of this machine since it booted."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


class Peak:
    """Samples the total memory of a process and its descendants, and records the maximum."""

    def __init__(self, pid: int):
        self._pid, self._most, self._ended = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stops sampling; returns the maximum in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self._most = max(self._most, sum(map(memory, descendants(self._pid))))


def descendants(pid: int) -> list[int]:
    """The process ids of a process and all its descendants."""
    try:
        tasks = Path(f"/proc/{pid}/task")
        children = [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(member for child in children for member in descendants(child))]


def memory(pid: int) -> int:
    """The proportional set size of a process, bytes."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def accepted(out: Path) -> tuple[int, int]:
    """Documents and bytes that passed the filters."""
    left: dict[str, Any] = json.loads((out / "manifest.json").read_text())["steps"][0]["left"]
    return left["documents"], left["bytes"]


def slope(points: list[tuple[float, float]]) -> float:
    """The slope of the least-squares line through points."""
    mean = [sum(values) / len(points) for values in zip(*points, strict=True)]
    covariance = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return covariance / sum((x - mean[0]) ** 2 for x, _ in points)


if __name__ == "__main__":
    main()
