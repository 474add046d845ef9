"""The sandbox: what programs can do, what they cannot, and how a job ends."""

import dataclasses
import gzip
import json
from pathlib import Path

import numpy
import pytest

from codellama_jax.errors import UserError
from codellama_jax.sandbox.jobs import MIB, Commands, Limits, PythonScript, PythonTest, Step
from codellama_jax.sandbox.pool import Pool

ADD = "def add(a, b):\n    return a + b\n"
SHORT = Limits(cpu_seconds=0.2)  # so that the limit of elapsed time is two seconds


@pytest.fixture(scope="module")
def pool():
    with Pool(workers=2) as pool:
        yield pool


def run(pool, job):
    return pool.submit(job).result(timeout=60)


def test_a_right_program_passes_and_a_wrong_one_fails(pool):
    assert run(pool, PythonTest(ADD, "assert add(1, 2) == 3")).passed
    outcome = run(pool, PythonTest(ADD, "assert add(1, 2) == 4, 'sum'"))
    assert (outcome.status, outcome.message) == ("failed", "AssertionError: sum")
    assert "<test>" in outcome.stderr


@pytest.mark.parametrize(
    ("program", "status", "message"),
    [
        ("def add(a, b:", "error", "SyntaxError"),
        ("import nowhere", "error", "ModuleNotFoundError"),
        ("def add(a, b):\n    raise KeyError('x')", "error", "KeyError"),
        ("class Odd(Exception): pass\ndef add(a, b):\n    raise Odd('x')", "error", "Odd: x"),
        ("def add(a, b):\n    assert a is None", "failed", "AssertionError"),
        ("import sys\nsys.exit(0)", "error", "SystemExit"),
        ("import sys\ndef add(a, b):\n    sys.exit(0)", "error", "SystemExit"),
        ("import os\nos._exit(0)", "error", "the program has ended"),
        ("def add(a, b):\n    while True: pass", "cpu_time", "0.2 seconds"),
        ("import time\ndef add(a, b):\n    time.sleep(100)", "wall_time", "2 seconds"),
        ("def add(a, b):\n    return [0] * 10**9", "memory", "MemoryError"),
        ("def add(a, b):\n    while True: print('x' * 1000)", "output", "standard output"),
        ("class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()", "failed", ""),
        ("class Any(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Any()", "failed", ""),
        ("def add(a, b):\n    return add", "failed", ""),
    ],
)
def test_outcomes_of_programs_that_fail(pool, program, status, message):
    outcome = run(pool, PythonTest(program, "assert add(1, 2) == 3", SHORT))
    assert outcome.status == status
    assert message in outcome.message
    assert run(pool, PythonTest(ADD, "assert add(1, 2) == 3")).passed


@pytest.mark.parametrize(
    "test", ["", "assert True", "add(1, 2)", "assert 1 == 1.0", "def check():\n    assert add(1, 2) == 3"]
)
def test_a_test_that_asserts_nothing_about_the_program_does_not_pass(pool, test):
    assert run(pool, PythonTest(ADD, test)).status == "no_test"


@pytest.mark.parametrize("name", ["abs", "len", "isinstance", "all", "math"])
def test_a_program_does_not_answer_for_python(pool, name):
    program = f"def f(): return 0.0\nclass math:\n    isclose = lambda *a: True\n{name} = {name}\n"
    program += f"def {name}(*a): return 1\n" if name != "math" else ""
    test = "assert abs(f() - 2.5) < 1e-6 and math.isclose(f(), 2.5) and all([len([]) == 1])"
    assert run(pool, PythonTest(program, f"import math\n{test}")).status == "failed"
    own = PythonTest("def sum(a, b): return a - b", "assert sum(5, 3) == 2", names=("sum",))
    assert run(pool, own).passed


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ("(1, [2.5, 'x'], {'k': {3}})", "(1, [2.5, 'x'], {'k': {3}})"),
        ("float('nan')", "x != x"),
        ("-0.0", "str(x) == '-0.0'"),
        ("10 ** 400", "10 ** 400"),
        ("'\\ud800'", "'\\ud800'"),
        ("b'\\x00\\xff'", "b'\\x00\\xff'"),
        ("__import__('collections').Counter('aab')", "__import__('collections').Counter('aab')"),
        ("__import__('collections').namedtuple('P', 'x y')(1, 2)", "(1, 2)"),
        ("__import__('decimal').Decimal('1.10')", "__import__('decimal').Decimal('1.10')"),
        ("__import__('datetime').datetime(2020, 1, 2, 3)", "__import__('datetime').datetime(2020, 1, 2, 3)"),
        ("iter([1, 2])", "list(x) == [1, 2]"),
        ("(n for n in range(3))", "sum(x) == 3"),
        ("{1: 'a'}.keys()", "{1}"),
        ("{1: 'a'}.items()", "{(1, 'a')}"),
        ("int", "int"),
        ("1 + 2j", "1 + 2j"),
    ],
)
def test_values_arrive_as_they_are(pool, value, same):
    check = same if "x" in same.replace("'x'", "").replace("\\x", "") else f"x == {same}"
    assert run(pool, PythonTest(f"def f(): return {value}", f"x = f()\nassert {check}")).passed


def test_objects_and_arguments_of_a_test(pool):
    program = """
class Node:
    def __init__(self, value): self.value, self.next = value, None
def total(node): return node.value + (total(node.next) if node.next else 0)
def sort(items): items.sort()
def kind(x, t): return isinstance(x, t)
"""
    test = """
first = Node(1)
first.next = Node(2)
assert total(first) == 3 and first.next.value == 2
items = [3, 1, 2]
assert sort(items) is None and items == [1, 2, 3]
assert kind(1, int) and not kind(1, str)
try:
    total(None)
    assert False
except AttributeError:
    pass
"""
    assert run(pool, PythonTest(program, test)).passed


@pytest.mark.parametrize(
    ("program", "test"),
    [
        ("def f(items): return items", "x = [1]\nassert f(x) is x and f((1,)) == (1,)"),
        ("def f(items):\n    items.append(2)\n    return items", "x = [1]\nassert f(x) is x and x == [1, 2]"),
        ("def f(g, x): return [g(y) for y in x]", "assert f(lambda y: y + 1, [1, 2]) == [2, 3]"),
        (
            "def f(x, key): return sorted(x, key=key)",
            "def last(s): return s[-1]\nassert f(['b', 'ca'], last) == ['ca', 'b']",
        ),
        ("def f(g): return g\ndef twice(x): return 2 * x", "assert f(lambda: 3)() == 3 and f(twice)(4) == 8"),
        ("def f(n, g): return n if n == 0 else g(n - 1)", "def g(n): return f(n, g) + 1\nassert f(5, g) == 5"),
        (
            "def f(g):\n    try:\n        return g()\n    except KeyError as e:\n        return str(e)",
            "def g(): raise KeyError('k')\nassert 'k' in f(g)",
        ),
        ("def f(x): raise ValueError('no')", "try:\n    f(1)\nexcept ValueError as error:\n    text = str(error)"),
        (
            "class Empty(LookupError): pass\ndef f(x): raise Empty('none')",
            "try:\n    f(1)\n    assert False\nexcept Empty as error:\n    assert str(error) == 'none'",
        ),
        (
            "import collections\nP = collections.namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
            "assert f().x == 1 and f() == (1, 2) and f()._asdict() == {'x': 1, 'y': 2}",
        ),
    ],
)
def test_a_test_sees_what_it_would_see_in_one_process(pool, program, test):
    outcome = run(pool, PythonTest(program, test))
    assert (outcome.status, outcome.message) == ("passed", "")


def test_a_script_reads_its_input_and_is_the_main_program(pool):
    script = "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin)))\n    sys.exit(3)"
    outcome = run(pool, PythonScript(script, "1\n2\n"))
    assert (outcome.stdout, outcome.exit_code, outcome.status) == ("3\n", 3, "error")
    assert run(pool, PythonScript("print('x')")).passed


def test_commands_run_until_one_fails(pool):
    hello = '#include <stdio.h>\nint main() { puts("hello"); return 0; }'
    compile_, start = Step(("gcc", "src/a.c", "-o", "a")), Step(("./a",))
    outcome = run(pool, Commands({"src/a.c": hello}, (compile_, start)))
    assert (outcome.status, outcome.stdout, outcome.step) == ("passed", "hello\n", 1)
    outcome = run(pool, Commands({"src/a.c": "int main("}, (compile_, start)))
    assert (outcome.status, outcome.step) == ("error", 0)
    assert "error" in outcome.stderr
    outcome = run(pool, Commands({}, (Step(("bash", "-c", "read x; echo $x $x"), "a"), Step(("no_such_program",)))))
    assert (outcome.stdout, outcome.exit_code, outcome.message) == ("a a\n", 127, "no_such_program: not found")


def test_limits_count_all_processes_of_a_job(pool):
    forks = "import os\nfor _ in range(3):\n    if not os.fork(): break\n"
    busy = run(pool, PythonScript(forks + "while True: pass", limits=Limits(cpu_seconds=0.5)))
    assert busy.status == "cpu_time" and busy.cpu_seconds < 1.5
    hungry = forks + "import time\ndata = bytearray(60 * 2**20)\ntime.sleep(100)"
    assert run(pool, PythonScript(hungry, limits=Limits(memory=160 * MIB, cpu_seconds=2))).status == "memory"


def test_what_a_program_writes_is_gone_afterwards(pool):
    write = "open('x', 'x').write('1' * 1000)\nprint(open('x').read() == '1' * 1000)"
    for _ in range(3):
        assert run(pool, PythonScript(write)).stdout == "True\n"
    full = "open('x', 'w').write('1' * 10**8)"
    assert "No space left" in run(pool, PythonScript(full, limits=Limits(scratch=MIB, output=10**9))).message


def test_canonical_solutions_pass(pool, shared_data):
    with gzip.open(shared_data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in file][::4]
    jobs = []
    for problem in problems:
        program = problem["prompt"] + problem["canonical_solution"]
        helpers = problem["prompt"][: problem["prompt"].rindex(f"def {problem['entry_point']}")]
        jobs.append(PythonTest(program, f"{helpers}{problem['test']}\ncheck({problem['entry_point']})"))
    outcomes = [future.result() for future in [pool.submit(job) for job in jobs]]
    assert [outcome.status for outcome in outcomes] == ["passed"] * len(jobs)
    wrong = [
        dataclasses.replace(job, program=f"{job.program}\ndef {problem['entry_point']}(*arguments): return object()")
        for job, problem in zip(jobs, problems, strict=True)
    ]
    outcomes = [future.result() for future in [pool.submit(job) for job in wrong]]
    assert not any(outcome.passed for outcome in outcomes)


def test_programs_import_packages_from_a_named_folder(pool):
    program = "import numpy as np\ndef f(): return np.int64(2), np.float64(0.5), np.arange(3).sum()"
    test = "assert f() == (2, 0.5, 3)"
    assert "numpy" in run(pool, PythonTest(program, test)).message
    folder = Path(numpy.__file__).parents[1]
    with Pool(workers=1, packages=folder) as with_packages:
        assert run(with_packages, PythonTest(program, test)).passed
    with pytest.raises(UserError, match="does not exist"):
        Pool(packages=folder / "missing")
