"""Checks the evaluation's harness on all solutions that benchmarks come with, and on wrong ones made of them.

    python benchmarks/harness.py --data=DIR [--rounds=1] [--workers=2] [--out=FILE]

Every canonical solution must pass, and no mutant may: one kind returns a list around the right value, the other
returns None. A round runs everything; all rounds must give the same verdicts.
"""

import argparse
import dataclasses
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from result_file import paragraph, processor

from codellama_jax.config import evaluation as settings
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.sandbox.jobs import PythonTest
from codellama_jax.sandbox.pool import Pool

ORDER = ("psm",)  # the programs are the same in both

# Name in the table -> benchmark, its settings, and whether mutants are made.
SETS: dict[str, tuple[str, Any, bool]] = {
    "HumanEval": ("humaneval", settings.HumanEval(), True),
    "MBPP, all splits": ("mbpp", settings.MBPP(split="all"), True),
    "MBPP, sanitized": ("mbpp", settings.MBPP(split="all", sanitized=True), True),
    "infilling, single line": ("infilling_single_line", settings.HumanEvalInfilling(orders=ORDER), False),
    "infilling, multi line": ("infilling_multi_line", settings.HumanEvalInfilling(orders=ORDER), False),
    "infilling, random span": ("infilling_random_span", settings.HumanEvalInfilling(orders=ORDER), False),
    "infilling, random span light": ("infilling_random_span_light", settings.HumanEvalInfilling(orders=ORDER), False),
}
MUTANTS: dict[str, Callable[[str], str]] = {
    "in a list": lambda name: f"_right_{name} = {name}\ndef {name}(*a, **k):\n    return [_right_{name}(*a, **k)]\n",
    "None": lambda name: f"def {name}(*a, **k):\n    return None\n",
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs canonical solutions and mutants of them.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of data files")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    rows, verdicts = list[str](), list[list[str]]()
    with Pool(options.workers) as pool:
        for _ in range(options.rounds):
            rows.clear()
            verdicts.append([])
            for title, (name, of, mutants) in SETS.items():
                row, found = measured(pool, BENCHMARKS[name](of), options.data, title, mutants)
                print(row, flush=True)
                rows.append(row)
                verdicts[-1].extend(found)
    same = all(found == verdicts[0] for found in verdicts)
    text = "\n".join(report(rows, same, options))
    if options.out:
        options.out.write_text(text + "\n")
    return 0 if same and not any("**" in row for row in rows) else 1


def measured(pool: Pool, benchmark: Benchmark[Any], data: Path, title: str, mutants: bool) -> tuple[str, list[str]]:
    """The row of a set, in which what is wrong is bold, and the verdicts."""
    problems = benchmark.problems(data)
    canonical = [canonical_job(benchmark, problem) for problem in problems]
    jobs = {"canonical": canonical}
    if mutants:
        for name, mutant in MUTANTS.items():
            jobs[name] = [
                dataclasses.replace(job, program=job.program + "\n" + "".join(map(mutant, tested(problem))))
                for problem, job in zip(problems, canonical, strict=True)
            ]
    statuses, seconds = dict[str, list[str]](), 0.0
    for name, made in jobs.items():
        start = time.perf_counter()
        futures = [pool.submit(job) for job in made]
        statuses[name] = [future.result().status for future in futures]
        seconds += time.perf_counter() - start
    cells = [title, f"{len(problems):,}"]
    for name in ("canonical", *MUTANTS):
        found = statuses.get(name)
        if found is None:
            cells.append("")
            continue
        passed = found.count("passed")
        right = passed == (len(found) if name == "canonical" else 0)
        cells.append(f"{passed:,}" if right else f"**{passed:,}**")
        if not right:
            odd = [
                f"{problem.task_id} ({status})"
                for problem, status in zip(problems, found, strict=True)
                if (status == "passed") != (name == "canonical")
            ]
            print(f"{title}, {name}: {', '.join(odd[:20])}", file=sys.stderr)
    cells.append(f"{sum(map(len, jobs.values())) / seconds:.0f}")
    return f"| {' | '.join(cells)} |", [status for found in statuses.values() for status in found]


def canonical_job(benchmark: Benchmark[Any], problem: Problem) -> PythonTest:
    """The job of the canonical solution."""
    solution = benchmark.canonical(problem)
    assert solution is not None
    job = benchmark.job(problem, benchmark.completion(problem, solution))
    assert isinstance(job, PythonTest)
    return job


def tested(problem: Problem) -> list[str]:
    """The names of the functions that the tests call."""
    if "entry_point" in problem.data:
        return [problem.data["entry_point"]]
    tests = "\n".join(problem.data["tests"])
    names = [line.split("(")[0].removeprefix("def ").strip() for line in problem.data["code"].splitlines()]
    defined = [name for name in names if name.isidentifier()]
    return [name for name in dict.fromkeys(defined) if f"{name}(" in tests or f"{name} (" in tests]


def report(rows: list[str], same: bool, options: argparse.Namespace) -> Iterator[str]:
    """The lines of the result file."""
    yield f"# The harness on right and wrong programs, {datetime.date.today()}\n"
    yield f"    python benchmarks/harness.py --data=DIR --rounds={options.rounds} --workers={options.workers}\n"
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared with other work; Python {platform.python_version()}. Each"
        " program and its test ran in two sandboxed processes. 'In a list' and 'None' are mutants of each canonical"
        " solution, which return a list around the right value, and None. Passed programs are counted: all canonical"
        f" solutions must pass, and no mutant. {options.rounds} round{'s' * (options.rounds > 1)};"
        f" {'the verdicts were the same in all' if same else 'THE VERDICTS DIFFERED'}."
    )
    yield "| set | tasks | canonical | in a list | None | programs/s |"
    yield "|---|---|---|---|---|---|"
    yield from rows


if __name__ == "__main__":
    sys.exit(main())
