"""Checks the generator of exercises: leaks into its training functions, and right and wrong programs in the sandbox.

    python benchmarks/exercises.py [--workers=2] [--tokenizer=FILE] [--out=FILE]

All training functions are different, are right about the arguments that are tried, and share no prompt and no pair of
docstring and body with a problem. All canonical solutions pass in the sandbox. No program passes that returns a list
around the right value, or None, or has another digit. Of training functions whose composition differs in one primitive,
the share that passes is shown: some are right, because they mean the same.
"""

import argparse
import datetime
import os
import platform
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from result_file import paragraph, processor

from codellama_jax.config.exercise_benchmarks import MOST_HOLES, MOST_PROBLEMS, Exercises, ExercisesInfilling
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.table import BENCHMARKS
from codellama_jax.exercises import training
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise
from codellama_jax.exercises.families import FAMILIES
from codellama_jax.exercises.split import SPLITS, keys, split_of
from codellama_jax.sandbox.pool import Pool
from codellama_jax.tokenizer import SentencePieceTokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the generator of exercises.")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model, to count tokens")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    start = time.perf_counter()
    functions = [training.function(number) for number in range(training.count())]
    seconds = time.perf_counter() - start
    problems = BENCHMARKS["exercises"](Exercises(problems=MOST_PROBLEMS)).problems(Path())
    faults = list(found_faults(functions, problems))
    verdicts = list(judged(functions, problems, options.workers))
    faults += [fault for _, fault in verdicts if fault]
    text = "\n".join(report(functions, seconds, [row for row, _ in verdicts], faults, options))
    if options.out:
        options.out.write_text(text + "\n")
    print(text)
    return 1 if faults else 0


def found_faults(functions: list[Exercise], problems: list[Problem]) -> Iterator[str]:
    """What is wrong with the functions."""
    sources = {function.source for function in functions}
    if len(sources) < len(functions):
        yield f"{len(functions) - len(sources):,} functions are equal to others"
    if any(split_of(function.key) != "train" for function in functions):
        yield "a function is of another split"
    rows = [problem.data for problem in problems]
    leaked = {function.prompt for function in functions} & {row["prompt"] for row in rows}
    solved = {(function.purpose, function.body) for function in functions}
    leaked |= solved & {(row["prompt"].split('"""')[1], row["canonical_solution"]) for row in rows}
    if leaked:
        yield f"{len(leaked):,} problems are among the functions"
    for function in functions:
        for arguments in function.calls(Draws("check", *function.key), 2):
            function.function()(*arguments)


def judged(functions: list[Exercise], problems: list[Problem], workers: int) -> Iterator[tuple[str, str]]:
    """(row of the table, what is wrong) of each kind of program."""
    infilling = BENCHMARKS["exercises_infilling"](ExercisesInfilling(problems=MOST_HOLES, orders=("psm",)))
    whole = BENCHMARKS["exercises"](Exercises())
    holes = infilling.problems(Path())
    kinds = {
        "canonical": [whole.job(problem, problem.data["canonical_solution"]) for problem in problems],
        "canonical, of holes": [infilling.job(problem, problem.data["canonical_solution"]) for problem in holes],
        "holes with another variable": [infilling.job(problem, renamed(problem)) for problem in holes],
        "a list around the value": [whole.job(problem, wrapped(problem)) for problem in problems],
        "None": [whole.job(problem, "    return None\n") for problem in problems],
        "another digit": [whole.job(problem, body) for problem in problems if (body := other_digit(problem))],
        "another primitive": [
            whole.job(problem, body) for problem in problems if (body := other_primitive(problem, functions))
        ],
    }
    with Pool(workers) as pool:
        for name, jobs in kinds.items():
            start = time.perf_counter()
            passed = sum(future.result().passed for future in [pool.submit(job) for job in jobs])
            speed = len(jobs) / (time.perf_counter() - start)
            row = f"| {name} | {len(jobs):,} | {passed:,} | {100 * passed / len(jobs):.1f}% | {speed:.0f} |"
            print(row, file=sys.stderr, flush=True)
            wanted = len(jobs) if name.startswith("canonical") else 0
            wrong = name != "another primitive" and passed != wanted
            yield row, f"{name}: {passed:,} of {len(jobs):,} passed" if wrong else ""


def renamed(problem: Problem) -> str:
    """The middle with another loop variable."""
    names = middle(problem).split("for ")[1].split(" in ")[0]
    return middle(problem).replace(names, re.sub(r"\w+", r"other_\g<0>", names), 1)


def middle(problem: Problem) -> str:
    return str(problem.data["canonical_solution"])


def wrapped(problem: Problem) -> str:
    """A solution that returns a list around the value."""
    name = problem.data["entry_point"]
    return f"{middle(problem)}\n_right = {name}\ndef {name}(*values):\n    return [_right(*values)]\n"


def other_digit(problem: Problem) -> str:
    """The solution with its only digit from 3 on increased; "" if it has several, or none."""
    digits = re.findall(r"\b[3-9]\b", middle(problem))
    return re.sub(r"\b[3-9]\b", str(int(digits[0]) + 1), middle(problem)) if len(digits) == 1 else ""


def other_primitive(problem: Problem, functions: list[Exercise]) -> str:
    """The body of a training function of the same signature and without other constants; "" if none is found."""
    head = problem.data["prompt"].partition("\n")[0].partition("(")[2]
    own = tuple(problem.task_id.split("/"))
    digits = re.findall(r"\b[3-9]\b", middle(problem))
    for function in _by_head(functions)[head, own[0]]:
        near = len(function.key) == len(own) and sum(map(str.__ne__, function.key, own)) == 1
        if near and re.findall(r"\b[3-9]\b", function.body) == digits:
            return function.body
    return ""


_HEADS: dict[tuple[str, str], list[Exercise]] = {}


def _by_head(functions: list[Exercise]) -> dict[tuple[str, str], list[Exercise]]:
    if not _HEADS:
        found = defaultdict[tuple[str, str], list[Exercise]](list)
        for function in functions:
            found[function.signature.partition("(")[2].rstrip("\n"), function.key[0]].append(function)
        _HEADS.update(found)
    return defaultdict(list, _HEADS)


def report(
    functions: list[Exercise], seconds: float, rows: list[str], faults: list[str], options: argparse.Namespace
) -> Iterator[str]:
    """The lines of the result file."""
    flags = f" --workers={options.workers}" + (" --tokenizer=FILE" if options.tokenizer else "")
    yield f"# The generator of exercises, {datetime.date.today()}\n"
    yield f"    python benchmarks/exercises.py{flags}\n"
    lengths = [len(function.source) for function in functions]
    tokens = ""
    if options.tokenizer:
        tokenizer = SentencePieceTokenizer.from_file(options.tokenizer, infilling=True)
        counts = [len(tokenizer.encode(function.source)) for function in functions[::20]]
        tokens = (
            f" and {statistics.mean(counts):.0f} tokens (median {statistics.median(counts):.0f}, most {max(counts)})"
        )
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared with other work; Python {platform.python_version()}."
        f" {len(functions):,} training functions with {sum(lengths) / 1e6:.1f} MB, on average"
        f" {statistics.mean(lengths):.0f} characters{tokens}, were made in {seconds:.1f} s. They are all different, run"
        " on their arguments, and are of no composition of another split; no problem has the prompt, or the docstring"
        " and the body, of one of them."
    )
    counts = {split: Counter({name: len(of) for name, of in keys()[split].items()}) for split in SPLITS}
    forms = Counter(function.key[0] for function in functions)
    yield "| family | " + " | ".join(f"keys, {split}" for split in SPLITS) + " | training functions |"
    yield "|---" * (len(SPLITS) + 2) + "|"
    for name in FAMILIES:
        cells = [f"{counts[split][name]:,}" for split in SPLITS]
        yield f"| {name} | {' | '.join(cells)} | {forms[name]:,} |"
    yield f"| all | {' | '.join(f'{counts[split].total():,}' for split in SPLITS)} | {len(functions):,} |\n"
    yield "| programs, in the sandbox | number | passed | share | programs/s |"
    yield "|---|---|---|---|---|"
    yield from rows
    yield ""
    yield from [f"**{fault}**" for fault in faults]
    yield from paragraph(
        "The programs of the last kind are not all wrong: the number of distinct values is the same for the values and"
        " for their doubles."
    )


if __name__ == "__main__":
    sys.exit(main())
