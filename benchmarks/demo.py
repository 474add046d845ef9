"""Runs `make demo` with several seeds, and measures what its model can do, and what it takes.

    python benchmarks/demo.py --run_dir=DIR [--seeds=3] [--cores=2] [--against=CHECKOUT] [--out=FILE]

Each run is the command of `make demo` with its own cache: it trains the tokenizer and compiles everything, as on a new
machine. The installation of the packages is not included. A run that DIR has from an earlier call is not repeated. With
--against, another checkout runs the first seed too, with the packages of this one.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from result_file import paragraph, processor

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures make demo.")
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="number of runs")
    parser.add_argument("--cores", type=int, default=2, help="number of processor cores that a run may use")
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.cores:
        parser.error(f"--cores={options.cores}: this process may use {len(cores)}")
    if options.against and not (options.against / ".git").exists():
        parser.error(f"--against={options.against} is not a checkout")
    os.sched_setaffinity(0, cores[-options.cores :])
    runs = options.run_dir.resolve()
    rows = [measured(runs / "seed-0", 0)]
    other = measured(runs / "against" / "seed-0", 0, options.against.resolve()) if options.against else None
    rows += [measured(runs / f"seed-{seed}", seed) for seed in range(1, options.seeds)]
    text = "\n".join(report(rows, other, options))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def measured(folder: Path, seed: int, checkout: Path = ROOT) -> dict[str, Any]:
    """Runs the demo of a checkout unless the folder has it; its resources and the results of both stages.

    Raises:
        RuntimeError: the run failed.
    """
    file = folder / "resources.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "xm_launch.py", "--gin_file=gin/lcft.gin", f"--run_dir={folder}"]
        command += [f"--gin.Stage.seed={seed}", f"--gin.DataLoader.seed={seed}"]
        started = time.monotonic()
        child = subprocess.Popen(command, cwd=checkout, env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")})
        _, status, usage = os.wait4(child.pid, 0)  # with the processes that the launcher has waited for
        if status:
            raise RuntimeError(f"seed {seed}: the run failed")
        resources = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
        file.write_text(json.dumps(resources | {"memory": usage.ru_maxrss << 10}))
    row = json.loads(file.read_text()) | {"seed": seed}
    for stage in ("code", "lcft"):
        results = json.loads((folder / "local" / stage / "evaluation/results.json").read_text())
        row[stage] = results["exercises"]
    return row | {"done": json.loads((folder / "local/lcft/done.json").read_text())}


def report(rows: list[dict[str, Any]], other: dict[str, Any] | None, options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file; `other` is the first seed of --against."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax"))
    problems = rows[0]["lcft"]["tasks"]
    yield f"# The demo, {datetime.date.today()}\n"
    against = " --against=CHECKOUT" if other else ""
    yield f"    python benchmarks/demo.py --run_dir=DIR --seeds={options.seeds} --cores={options.cores}{against}\n"
    yield from paragraph(
        f"{options.cores} cores of {processor()}; Python {platform.python_version()}, {versions}. pass@1 (greedy) of"
        f" {problems:,} held-out exercises at the end of each stage, with its 95% interval; perplexity at"
        f" {rows[0]['done']['context_length']:,} tokens of context before and after lcft. Time includes the tokenizer,"
        " compilation and evaluation; memory is the peak of the largest process."
    )
    yield "| seed | pass@1 after code | after lcft | 95% interval | perplexity | minutes | processor minutes | MB |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in [*rows, other | {"seed": "0, the other checkout"}] if other else rows:
        code, (low, high), done = row["code"]["pass@1"], row["lcft"]["pass@1_interval"], row["done"]
        yield (
            f"| {row['seed']} | {code:.1%} | {row['lcft']['pass@1']:.1%} | {low:.1%} to {high:.1%}"
            f" | {done['perplexity_before']:.1f} → {done['perplexity_after']:.1f} | {row['wall'] / 60:.1f}"
            f" | {row['cpu'] / 60:.1f} | {row['memory'] / 1e6:,.0f} |"
        )
    if other:
        git = ["git", "-C", str(options.against), "log", "-1", "--format=%h of %cs"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        wall, cpu = (rows[0][name] / other[name] for name in ("wall", "cpu"))
        yield ""
        yield from paragraph(
            f"The other checkout is commit {commit}. Seed 0 takes {wall:.2f} of its time, and {cpu:.2f} of its"
            " processor time."
        )


if __name__ == "__main__":
    main()
