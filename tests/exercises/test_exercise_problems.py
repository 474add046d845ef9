"""Problems: their tests, and that nothing of them is in the functions for training."""

import re

import pytest

from codellama_jax.exercises import training
from codellama_jax.exercises.choices import DIGITS, held_out_digits
from codellama_jax.exercises.problems import TESTS, Row, _first, holes, problems
from codellama_jax.exercises.split import split_of

COUNT = 150


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return problems("test", COUNT)


@pytest.fixture(scope="module")
def cut() -> list[Row]:
    return holes("test", 60)


def passes(row: Row, program: str) -> bool:
    """Whether a program passes. Only for programs of the generator and of these tests."""
    scope: dict = {}
    try:
        exec(f"{program}\n{row['test']}\ncheck({row['entry_point']})", scope)
    except Exception:
        return False
    return True


def test_problems_are_of_the_wanted_split_in_an_order_that_does_not_depend_on_their_number(rows):
    assert all(split_of(tuple(row["task_id"].split("/"))) == "test" for row in rows)
    assert len({row["task_id"] for row in rows}) == len({row["prompt"] for row in rows}) == COUNT
    assert problems("test", 20) == rows[:20]
    assert {row["family"] for row in rows} == {row["task_id"].split("/")[0] for row in rows} and rows[0] != rows[1]
    questions = problems("questions", 20)
    assert all(split_of(tuple(row["task_id"].split("/"))) == "questions" for row in questions)


def test_solutions_pass_and_others_fail(rows):
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        assert row["test"].count("assert ") == TESTS
        assert passes(row, row["prompt"] + row["canonical_solution"])
        for body in ("    return None\n", "    pass\n"):
            assert not passes(row, row["prompt"] + body)
        assert not passes(row, row["prompt"] + other["canonical_solution"]) or other["family"] == row["family"]


def test_the_tests_notice_another_constant(rows):
    """Of the solutions with one digit from 3 on, which is no other part of the program."""
    changed = [
        row | {"program": re.sub(r"\b[3-9]\b", lambda match: str(int(match[0]) + 1), row["canonical_solution"])}
        for row in rows
        if len(re.findall(r"\b[3-9]\b", row["canonical_solution"])) == 1
    ]
    noticed = [not passes(row, row["prompt"] + row["program"]) for row in changed]
    assert len(noticed) > 30 and all(noticed)


def test_no_problem_is_in_training(rows, cut):
    """The leak check: neither the prompts nor the pairs of docstring and solution occur in any of 6,000 functions.
    benchmarks/exercises.py checks all of them."""
    functions = [training.function(number) for number in range(20_000, 26_000)]
    prompts = {function.prompt for function in functions}
    solved = {(function.purpose, function.body) for function in functions}
    assert not prompts & {row["prompt"] for row in rows}
    assert not solved & {(row["prompt"].split('"""')[1], row["canonical_solution"]) for row in rows}


def test_many_constants_are_held_out_of_training(rows):
    held_out = held_out_digits("above", "digit")
    found = [
        int(digit)
        for row in rows
        if "/above" in row["task_id"]
        for digit in re.findall(r"(?:greater than|above|larger than) (\d)", row["prompt"])
    ]
    assert set(found) & set(held_out) and set(found) - set(held_out) and set(found) <= set(DIGITS["digit"])


def test_holes_are_decided_by_their_suffix(cut):
    for row in cut:
        before, hole, after = row["prompt"], row["canonical_solution"], row["suffix"]
        assert passes(row, before + hole + after)
        names = re.match(r"    for (.+) in ", hole)[1]
        for name in names.split(", "):
            assert not re.search(rf"\b{name}\b", before) and re.search(rf"\b{name}\b", after)
        other = ", ".join(f"other_{name}" for name in names.split(", "))
        assert not passes(row, before + hole.replace(f"for {names} in", f"for {other} in") + after)


def test_other_splits_and_counts_are_refused():
    with pytest.raises(ValueError, match="there are 1 such problems, not 2"):
        _first("test", 2, iter([{}]))
    with pytest.raises(ValueError, match="test, questions"):
        problems("train", 1)
