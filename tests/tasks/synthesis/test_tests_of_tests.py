"""What tests must reject, which solution is chosen, and verdicts that nobody can forge."""

import ast
import dataclasses

import pytest

from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.sandbox.pool import Pool
from tasks.synthesis import execution, mutants, selection
from tasks.synthesis.parsing import Case
from tasks.synthesis.selection import Solution

PROGRAM = '''
import math

LIMIT = 3


def f(xs, limit=1):
    """Docstring."""
    total = 0
    for x in xs:
        if x > limit and x != 7:
            total += x * 2
    return sorted(xs)[0] if not total else total
'''


def test_mutants_differ_in_one_place_of_a_function_and_can_be_compiled():
    found = mutants.mutants(PROGRAM, 1000, 0)
    original = ast.unparse(ast.parse(PROGRAM)).splitlines()
    assert len(found) == len(set(found)) > 12
    for source in found:
        compile(source, "mutant", "exec")
        changed = [pair for pair in zip(original, source.splitlines(), strict=True) if pair[0] != pair[1]]
        assert len(changed) == 1 and changed[0][0].startswith("    ") and "Docstring" not in changed[0][0]
    for line in ("if x >= limit and x != 7:", "if x > limit or x != 7:", "total -= x * 2", "total += x + 2"):
        assert any(line in source for source in found)


def test_the_choice_of_mutants_is_a_function_of_the_seed():
    assert mutants.mutants(PROGRAM, 5, 1) == mutants.mutants(PROGRAM, 5, 1) != mutants.mutants(PROGRAM, 5, 2)
    assert len(mutants.mutants(PROGRAM, 5, 1)) == 5


def test_a_stub_returns_none():
    namespace: dict = {}
    exec(mutants.stub(PROGRAM), namespace)
    assert namespace["f"]([1]) is None and namespace["LIMIT"] == 3


def solutions(*passed: str) -> list[Solution]:
    return [Solution(index, f"program {index}", found) for index, found in enumerate(passed)]


FIRST, AGREEMENT = SelfInstruct(), SelfInstruct(choice="agreement")


@pytest.mark.parametrize(
    ("settings", "passed", "index", "tests"),
    [
        (FIRST, ("110", "111", "111"), 1, (0, 1, 2)),
        (FIRST, ("110", "", "011"), None, ()),
        (AGREEMENT, ("110", "111", "110", "110"), 0, (0, 1)),  # 3 * 2 against one opinion
        (AGREEMENT, ("100", "111", "100", "111"), 1, (0, 1, 2)),  # 2 * 3 against 2 * 1
        (AGREEMENT, ("111", "110", "101"), None, ()),  # nobody agrees
        (AGREEMENT, ("000", "000"), None, ()),
    ],
)
def test_which_solution_is_kept(settings, passed, index, tests):
    choice = selection.choose(solutions(*passed), settings)
    assert (choice and choice.solution.index, choice.tests if choice else ()) == (index, tests)


def test_repeated_programs_are_one_opinion():
    same = [dataclasses.replace(solution, program="the same") for solution in solutions("111", "111", "111")]
    assert selection.choose(same, AGREEMENT) is None


@pytest.mark.parametrize(
    ("stub", "rejected", "others", "least", "reason"),
    [
        (False, [True], {}, 0.0, "accepts_stub"),
        (True, [False, False], {1: False}, 0.0, "rejects_nothing"),
        (True, [False, False], {1: True}, 0.0, ""),
        (True, [], {}, 0.0, ""),  # there is nothing to reject
        (True, [True, False, False], {}, 0.5, "rejects_few"),
        (True, [True, True, False], {}, 0.5, ""),
    ],
)
def test_tests_that_reject_too_little(stub, rejected, others, least, reason):
    assert selection.weakness(stub, rejected, others, SelfInstruct(least_rejected=least)) == reason


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


CASES = [Case("x = 2\nassert f(x) == 4"), Case("assert f(3) == 6"), Case("assert f('a\\n') == 'a\\na\\n'")]


@pytest.mark.parametrize(
    ("program", "status", "passed"),
    [
        ("def f(x): return x * 2", "passed", "111"),
        ("def f(x): return x + 2", "failed", "100"),
        ("def f(x): raise AssertionError('111')", "failed", "000"),
        ("raise AssertionError('111')", "error", "000"),
        ("def g(x): return x * 2", "error", "000"),
        ("def f(x):\n    if x == 3: raise SystemExit\n    return x * 2", "failed", "101"),
        ("import os\ndef f(x):\n    if x == 3: os._exit(0)\n    return x * 2", "failed", "100"),
        ("def f(x):\n    if x == 3:\n        while True: pass\n    return x * 2", "cpu_time", "000"),
        (
            "_passed_of_each_test = '111'\nclass f:\n    def __init__(self, x): pass\n"
            "    def __eq__(self, other): return True",
            "failed",
            "000",
        ),
    ],
)
def test_each_test_has_a_result(pool, program, status, passed):
    job = execution.job(program, CASES, mutants.functions(CASES, program), 0.3)
    run = execution.run_of(pool.submit(job).result(), len(CASES))
    assert (run.status, run.passed) == (status, passed), run


@pytest.mark.parametrize("test", ["assert exit() or f(1)", "assert _passed_of_each_test.clear() or f(1) == 5"])
def test_tests_that_end_or_change_the_record_pass_nothing(pool, test):
    run = execution.run_of(pool.submit(execution.job("def f(x): return 1", [Case(test)], ("f",), 0.3)).result(), 1)
    assert run.passed == "0"
