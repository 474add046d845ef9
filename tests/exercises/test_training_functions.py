"""The generated functions: what they are composed of, and that they are right, different and the same everywhere."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from codellama_jax.exercises import training
from codellama_jax.exercises.choices import DIGITS, held_out_digits
from codellama_jax.exercises.draws import Draws, permuted
from codellama_jax.exercises.exercise import Exercise
from codellama_jax.exercises.families import FAMILIES
from codellama_jax.exercises.split import SPLITS, keys, split_of

SAMPLE = 6_000  # functions


@pytest.fixture(scope="module")
def functions() -> list[Exercise]:
    return [training.function(number) for number in range(SAMPLE)]


# ---------------------------------------------------------------- compositions


def test_there_are_ten_families_and_thousands_of_compositions():
    counts = {split: sum(map(len, families.values())) for split, families in keys().items()}
    assert len(FAMILIES) == 10 and sum(counts.values()) == 7_419
    shares = [counts[split] / sum(counts.values()) for split in SPLITS]
    assert shares == pytest.approx([0.72, 0.16, 0.12], abs=0.01)
    for families in keys().values():
        assert all(families[name] for name in FAMILIES)


def test_compositions_are_in_one_split():
    """Keys with the same meaning, such as statements that are exchanged, are in one split."""
    splits: dict[tuple, set[str]] = {}
    for split, families in keys().items():
        for name, of in families.items():
            assert len(set(of)) == len(of)
            for key in of:
                splits.setdefault(FAMILIES[name].composition(key), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())
    assert split_of(("predicates", "number", "even", "above", "or")) == split_of(
        ("predicates", "number", "above", "even", "or")
    )


def test_every_primitive_occurs_in_training():
    def slots(split: str) -> set[tuple]:
        return {(key[0], slot, name) for of in keys()[split].values() for key in of for slot, name in enumerate(key)}

    assert slots("test") <= slots("train") and slots("questions") <= slots("train")


def test_training_has_no_composition_of_another_split(functions):
    assert all(split_of(function.key) == "train" for function in functions)
    assert len({function.key for function in functions}) > 2_500


def test_training_has_no_digit_that_is_held_out(functions):
    """Of the numbers after "greater than", which are constants of the primitive "above" in three families."""
    held_out = held_out_digits("above", "digit")
    found = Counter(
        int(digit)
        for function in functions
        if "above" in function.key
        for digit in re.findall(r"(?:greater than|above|larger than) (\d)", function.purpose)
    )
    assert set(found) == set(DIGITS["digit"]) - set(held_out) and len(held_out) == 2
    assert all(len(held_out_digits("any", kind)) >= 1 for kind in DIGITS)


# ---------------------------------------------------------------- functions


def test_functions_are_right_in_every_style(functions):
    """All styles of a function parse and return the same."""
    for number, function in enumerate(functions[:500]):
        arguments = function.inputs(Draws(number))
        expected = repr(function.function()(*arguments))
        assert [ast.get_docstring(node) for node in ast.parse(function.source).body] == [function.purpose]
        for body in function.bodies:
            scope: dict = {}
            exec(function.prompt + body, scope)
            assert repr(scope[function.name](*arguments)) == expected, function.prompt + body


def test_no_function_is_like_another(functions):
    assert len({function.purpose + function.body + function.signature for function in functions}) == SAMPLE
    assert len({function.prompt for function in functions}) > 0.97 * SAMPLE


def test_functions_do_not_hide_what_they_call(functions):
    """A function named like a built-in one would call itself."""
    for function in functions:
        assert function.name not in dir(__builtins__) and function.name not in function.body
        assert function.name.isidentifier()


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 65, 1000])
def test_permutations_take_every_value_once(size):
    values = [permuted(index, size, "seed") for index in range(size)]
    assert sorted(values) == list(range(size))
    assert size < 10 or values != sorted(values)


# ---------------------------------------------------------------- sizes and bytes


def test_sizes_and_shares(functions):
    assert training.count() == 70_570
    lengths = [len(function.source) for function in functions]
    assert 150 < sum(lengths) / SAMPLE < 250 and max(lengths) < 450
    counts = Counter(function.key[0] for function in functions)
    weights = sum(family.weight for family in FAMILIES.values())
    for name, family in FAMILIES.items():
        assert counts[name] / SAMPLE == pytest.approx(family.weight / weights, rel=0.25), name


_DIGEST = """
import hashlib, sys
from codellama_jax.exercises import problems, training
texts = [training.function(number).source for number in range(0, training.count(), 500)]
texts += [str(row) for make in (problems.problems, problems.holes) for row in make("test", 10)]
print(hashlib.sha256("".join(texts).encode()).hexdigest())
assert not {"jax", "tensorflow", "numpy"} & sys.modules.keys()
"""


def test_bytes_are_the_same_in_every_process():
    """With other hashes of strings too. Other bytes are another corpus and another benchmark: increase VERSION of
    tasks/sources/embedded/exercises.py, and state new results."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST],
            cwd=Path(__file__).parents[2],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert texts == {"734d068a093b58a74e877f506dc66693a281dad6d9a8a4f993447156158948af"}
