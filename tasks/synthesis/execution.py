"""Jobs that run a solution on tests, and what they say about each test."""

import ast
import dataclasses
from collections.abc import Iterable, Sequence

from codellama_jax.sandbox.jobs import Limits, Outcome, PythonTest
from tasks.synthesis.parsing import Case

_PASSED = "_passed_of_each_test"


@dataclasses.dataclass(frozen=True)
class Run:
    """What the run of a solution came to.

    Attributes:
        status: of the sandbox (jobs.Status).
        message: one line; "" if all tests passed.
        passed: "1" or "0" for each test.
    """

    status: str
    message: str
    passed: str

    @property
    def all_passed(self) -> bool:
        return self.status == "passed"


def job(program: str, cases: Sequence[Case], names: Iterable[str], cpu_seconds: float) -> PythonTest:
    """Runs all tests, one after another in one process, also after one has failed.

    If all of them pass the job passes by the sandbox's own rules. If not, the message of its failure has the result of
    each. The test catches what a test raises, so what a program raises cannot be taken for that message.
    """
    body = ast.parse(f"{_PASSED} = ''").body
    for case in cases:
        [attempt] = ast.parse(f"try:\n    {_PASSED} += '1'\nexcept Exception:\n    {_PASSED} += '0'").body
        assert isinstance(attempt, ast.Try)
        attempt.body[:0] = ast.parse(case.source).body
        body.append(attempt)
    body += ast.parse(f"if '0' in {_PASSED}:\n    raise AssertionError({_PASSED})").body
    return PythonTest(program, ast.unparse(ast.Module(body, [])), Limits(cpu_seconds=cpu_seconds), names=tuple(names))


def run_of(outcome: Outcome, count: int) -> Run:
    """What an outcome says about `count` tests.

    A program that ends in another way than by its tests passes none of them: it exceeded a limit, ended the process, or
    has none of the functions that are called.
    """
    if outcome.passed:
        return Run("passed", "", "1" * count)
    message = outcome.message.removeprefix("AssertionError: ")
    ran = outcome.status == "failed" and len(message) == count and set(message) <= {"0", "1"}
    if not ran:
        return Run(outcome.status, outcome.message, "0" * count)
    return Run("failed", f"{message.count('0')} of {count} tests failed", message)
