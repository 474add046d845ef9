"""Which solution of a question is kept, and whether its tests test anything."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

from codellama_jax.config.self_instruct import SelfInstruct


@dataclasses.dataclass(frozen=True)
class Solution:
    """A solution and the results of its run.

    Attributes:
        index: among the solutions of the question.
        program: source code; "" if the answer was malformed.
        passed: "1" or "0" for each test; "" if nothing ran.
    """

    index: int
    program: str
    passed: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """The solution that is kept, and its tests.

    Attributes:
        solution: the solution.
        tests: indices of the tests that are kept with it. It passes them, unless SelfInstruct.choice is "first".
    """

    solution: Solution
    tests: tuple[int, ...]


def choose(solutions: Sequence[Solution], settings: SelfInstruct) -> Choice | None:
    """The solution that SelfInstruct.choice keeps; None: no solution is good enough.

    Args:
        solutions: those that ran, in the order of their indices.
    """
    if settings.choice == "first":
        return Choice(solutions[0], tuple(range(len(solutions[0].passed)))) if solutions else None
    if settings.choice == "first_passing":
        first = next((solution for solution in solutions if solution.passed and "0" not in solution.passed), None)
        return Choice(first, tuple(range(len(first.passed)))) if first else None
    return _by_agreement(solutions, settings)


def _by_agreement(solutions: Sequence[Solution], settings: SelfInstruct) -> Choice | None:
    """The first solution of the class with the largest product of solutions and tests; of equal ones, the first.

    Solutions of the same text count once: a repeated text is no second opinion.
    """
    classes = defaultdict[str, dict[str, Solution]](dict)
    for solution in solutions:
        if solution.passed.count("1") >= settings.least_tests:
            classes[solution.passed].setdefault(" ".join(solution.program.split()), solution)
    agreeing = {passed: list(found.values()) for passed, found in classes.items()}
    agreeing = {passed: found for passed, found in agreeing.items() if len(found) >= settings.least_agreeing}
    if not agreeing:
        return None
    passed = max(agreeing, key=lambda passed: len(agreeing[passed]) * passed.count("1"))
    return Choice(agreeing[passed][0], tuple(index for index, found in enumerate(passed) if found == "1"))


def weakness(
    stub_rejected: bool, mutants_rejected: Sequence[bool], others: Mapping[int, bool], settings: SelfInstruct
) -> str:
    """Why tests that the chosen solution passes say too little; "" if they do not.

    Args:
        stub_rejected: whether the tests reject the stub.
        mutants_rejected: whether they reject each mutant.
        others: index of each other solution that ran -> whether they reject it.

    Returns:
        "accepts_stub"; "rejects_nothing", of mutants and other solutions, if there are any; "rejects_few", less than
        SelfInstruct.least_rejected of the mutants; or "".
    """
    if not stub_rejected:
        return "accepts_stub"
    wrong = [*mutants_rejected, *others.values()]
    if wrong and not any(wrong):
        return "rejects_nothing"
    if mutants_rejected and sum(mutants_rejected) < settings.least_rejected * len(mutants_rejected):
        return "rejects_few"
    return ""
