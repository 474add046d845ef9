"""APPS: both published layouts, prompts, and programs with standard input or of a function."""

import json
from pathlib import Path
from typing import Any

import pytest

from codellama_jax.config.language_benchmarks import APPS as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.apps import APPS
from codellama_jax.evaluation.benchmarks.apps_comparison import same_output, same_value, with_integer_keys
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.pool import Pool

SUM = {
    "question": "Read two numbers and print their sum.",
    "difficulty": "introductory",
    "starter_code": "",
    "solutions": ["a, b = map(int, input().split())\nprint(a + b)"],
    "tests": {"inputs": ["1 2\n", ["3 4", ""]], "outputs": ["3\n", ["7"]]},
}
PAIRS = {
    "question": "Return the pairs of numbers that differ by one.",
    "difficulty": "interview",
    "starter_code": "class Solution:\n    def pairs(self, numbers: List[int]):\n",
    "solutions": [
        "class Solution:\n    def pairs(self, n: List[int]):\n        return [(a, a + 1) for a in n if a + 1 in n]"
    ],
    "tests": {"fn_name": "pairs", "inputs": [[[1, 2, 5]], [[]]], "outputs": [[[[1, 2]]], [[]]]},
}
TOTAL = {
    "question": "Return the sum of the values.",
    "difficulty": "competition",
    "starter_code": "",
    "solutions": ["def total(values):\n    return sum(values.values()) + min(values)"],
    "tests": {"fn_name": "total", "inputs": [[{"1": 2, "3": 4}]], "outputs": [7]},
}
UNTESTED = SUM | {"tests": None}
ROWS = [SUM, PAIRS, TOTAL, UNTESTED]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hand-made problems in the layout of Hugging Face."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "apps").mkdir()
    for split in ("train", "test"):
        lines = [
            {key: row[key] for key in ("question", "difficulty", "starter_code")}
            | {"id": number, "solutions": json.dumps(row["solutions"])}
            | {"input_output": json.dumps(row["tests"]) if row["tests"] else "", "url": ""}
            for number, row in enumerate(ROWS)
        ]
        (folder / "apps" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same problems in the layout of the archive."""
    folder = tmp_path_factory.mktemp("archive")
    for split in ("train", "test"):
        for number, row in enumerate(ROWS):
            task = folder / "apps" / split / f"{number:04}"
            task.mkdir(parents=True)
            (task / "question.txt").write_text(row["question"])
            (task / "metadata.json").write_text(json.dumps({"difficulty": row["difficulty"]}))
            (task / "solutions.json").write_text(json.dumps(row["solutions"]))
            if row["starter_code"]:
                (task / "starter_code.py").write_text(row["starter_code"])
            if row["tests"]:
                (task / "input_output.json").write_text(json.dumps(row["tests"]))
    return folder


def judged(benchmark: APPS, pool: Pool, problem: Problem, raw: str) -> Judgement:
    completion = benchmark.completion(problem, raw)
    outcome = pool.submit(benchmark.job(problem, completion)).result()
    return benchmark.judged(problem, completion, outcome, Answer(raw))


def named(problems: list[Problem], number: int) -> Problem:
    return next(problem for problem in problems if problem.task_id == f"test/{number:04}")


def test_both_layouts_give_the_same_problems(data: Path, archive: Path, caplog):
    benchmark = APPS(Settings())
    problems = benchmark.problems(data)
    assert "apps: 1 of 4 problems have no tests: left out" in caplog.text
    assert problems == benchmark.problems(archive)
    assert [problem.variant for problem in problems] == ["introductory", "interview", "competition"]


def test_prompts(data: Path):
    problem = named(APPS(Settings(shots=(1, 0))).problems(data), 0)
    begin = (
        "Q: Write a python code to solve the following coding problem that obeys the constraints and passes the example"
        " test cases. The output code needs to use the provided function signature. Please wrap your code answer using"
        " ```:\nReturn the pairs"
    )
    assert problem.input.text.startswith(begin)
    assert f"\nA: ```{PAIRS['solutions'][0]}```\nQ: Write" in problem.input.text
    assert problem.input.text.endswith("read from and write to standard IO. Please wrap your code answer using ```:\n"
                                       "Read two numbers and print their sum.\nA:")  # fmt: skip
    asked = named(APPS(Settings(prompt="instruct")).problems(data), 1).input.messages[0]["content"]
    assert asked.startswith("Write a python code") and asked.endswith(f"differ by one.\n{PAIRS['starter_code']}\n")


def test_sampling_and_results_of_each_difficulty(data: Path):
    benchmark = APPS(Settings(samples=5))
    sampling = benchmark.sampling(benchmark.problems(data)[0])
    assert (sampling.temperature, sampling.top_p, sampling.stop) == (0.6, 0.95, ("\nQ:",))
    shared: dict[str, Any] = {"seed": 0, "prompt": "", "raw": "", "completion": "", "reason": ""}
    samples = [
        Sample(task_id=task, sample=sample, variant=variant, passed=sample < right, **shared)
        for task, variant, right in (("a", "introductory", 1), ("b", "interview", 0))
        for sample in range(5)
    ]
    summary = benchmark.summary(samples)
    assert summary["pass@5"] == 0.5 and summary["pass@1"] == pytest.approx(0.1)
    assert summary["variants"]["introductory"]["pass@5"] == 1.0 and summary["variants"]["interview"]["pass@5"] == 0.0


@pytest.mark.parametrize("number", range(3))
def test_solutions_pass(data: Path, pool: Pool, number: int):
    benchmark = APPS(Settings(samples=1))
    problem = named(benchmark.problems(data), number)
    assert judged(benchmark, pool, problem, benchmark.canonical(problem)) == Judgement(True)


READ = "a, b = map(int, input().split())\n"
PROGRAMS = {
    "print(sum(map(int, open(0).read().split())))": "",
    "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))": "",
    "if __name__ == '__main__':\n    print(sum(int(word) for word in input().split()))\n    exit()": "",
    f"{READ}def f():\n    print(a + b)\nimport threading\nthreading.Thread(target=f).start()": "",
    f"{READ}print(a + b, '  ')": "",  # white space
    f"{READ}print(float(a + b))": "",
    "print(3)": "failed: AssertionError",
    "print(3); print(7)": "failed: AssertionError",
    "import os\nos._exit(0)": "failed: AssertionError",
    "1 / 0": "error: RuntimeError: the program ended with exit code 1",
    "while True: pass": "error: TimeoutError: a test took more than 0.2 seconds",
    "print(": "error: RuntimeError",
    "import os\nos.kill(os.getppid(), 9)": "error:",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_with_standard_input(data: Path, pool: Pool, program: str):
    benchmark = APPS(Settings(samples=1, cpu_seconds=0.2))
    reason = judged(benchmark, pool, named(benchmark.problems(data), 0), f" ```python\n{program}\n```\nQ: more").reason
    assert reason.startswith(PROGRAMS[program]) and bool(reason) == bool(PROGRAMS[program])


def test_a_program_that_waits_is_stopped(data: Path, pool: Pool):
    benchmark = APPS(Settings(samples=1, cpu_seconds=0.05))
    reason = judged(benchmark, pool, named(benchmark.problems(data), 0), "import time\ntime.sleep(60)").reason
    assert reason == "error: TimeoutError: a test took more than 0.05 seconds"


FUNCTIONS = {
    "def pairs(n):\n    return [[a, a + 1] for a in n if a + 1 in n]": "",
    "def pairs(n):\n    return []": "failed: AssertionError",
    "class Solution:\n    def other(self, n): pass": "error: AttributeError",
    "def pairs(n):\n    while True: pass": "error: TimeoutError: a test took more than 0.2 seconds",
    "class E:\n    def __eq__(self, other): return True\ndef pairs(n):\n    return E()": "failed: AssertionError",
    "import sys\nsys.exit(0)": "error:",
}


@pytest.mark.parametrize("program", FUNCTIONS)
def test_functions(data: Path, pool: Pool, program: str):
    benchmark = APPS(Settings(samples=1, cpu_seconds=0.2))
    reason = judged(benchmark, pool, named(benchmark.problems(data), 1), program).reason
    assert reason.startswith(FUNCTIONS[program]) and bool(reason) == bool(FUNCTIONS[program])


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("3\n", "3", True),
        ("  a \n b\n", "a\nb\n", True),
        ("a\n\nb\n", "a\nb", True),
        ("a b", "a  c", False),
        ("0.30000001\n2\n", "0.3\n2.0", True),
        ("0.3001", "0.3", True),  # equal to three decimals
        ("0.301", "0.3", False),
        ("b\na\n", "a\nb\n", True),  # the evaluator's last rules ignore order and repetition
        ("1 2 2", "2 1", True),
        ("1.00001 2", "2 1", True),
        ("1.01 2", "2 1", False),
        ("", "", True),
        ("", "x", False),
        ("nan", "1", False),
    ],
)
def test_comparison_of_outputs(output: str, expected: str, same: bool):
    assert same_output(output, expected) is same


def test_comparison_of_values():
    assert same_value(3, 3) and same_value(3, [3]) and same_value((1, 2), [1, 2]) and same_value((1, 2), [[1, 2]])
    assert same_value([(1, 2), (3, 4)], [[[1, 2], [3, 4]]])
    assert not same_value([(1, 2)], [[1, 2]]) and not same_value(None, []) and not same_value([(1,), 2], [[[1], 2]])
    assert with_integer_keys([{"1": 2}]) == [{1: 2}] and with_integer_keys({"1": 2}) == [{1: 2}]
    assert with_integer_keys([{"a": 2}]) == [{"a": 2}] and with_integer_keys([[1]]) == [[1]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_output": "{"}, r"test.jsonl:1: input_output is not JSON"),
        ({"input_output": '{"inputs": [1], "outputs": []}'}, "as many inputs as outputs"),
        ({"difficulty": "easy"}, "difficulty is 'easy', not one of introductory"),
        ({"solutions": "3"}, "solutions is not a list"),
        ({"question": None}, "question is not a text"),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, row: dict, message: str):
    (tmp_path / "apps").mkdir()
    complete = {"question": "x", "difficulty": "interview", "input_output": '{"inputs": [1], "outputs": [1]}'}
    (tmp_path / "apps" / "test.jsonl").write_text(json.dumps(complete | row))
    with pytest.raises(UserError, match=message):
        APPS(Settings(prompt="instruct")).problems(tmp_path)


def test_missing_data_and_examples_are_named(data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"apps has neither test.jsonl nor test/0000"):
        APPS(Settings()).problems(tmp_path)
    with pytest.raises(UserError, match=r"no problem train/0009 with a solution.*--gin.APPS.shots"):
        APPS(Settings(shots=(9,))).problems(data)


def test_very_long_numbers_are_read(tmp_path: Path, pool: Pool):
    long = "1" + "0" * 5000
    tests = f'{{"fn_name": "f", "inputs": [[3]], "outputs": [{long}]}}'
    (tmp_path / "apps").mkdir()
    row = {"question": "x", "difficulty": "interview", "input_output": tests}
    (tmp_path / "apps" / "test.jsonl").write_text(json.dumps(row))
    benchmark = APPS(Settings(prompt="instruct", samples=1))
    (problem,) = benchmark.problems(tmp_path)
    assert judged(benchmark, pool, problem, "def f(x): return 10 ** 5000").passed
    assert not judged(benchmark, pool, problem, "def f(x): return 10 ** 5001").passed
