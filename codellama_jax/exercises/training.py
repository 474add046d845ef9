"""The functions for training, by number: each composition of the split train, in many forms, in an order without
pattern. No two are equal, and none has a constant that is held out."""

import bisect
import functools
import itertools
from typing import NamedTuple

from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws, permuted
from codellama_jax.exercises.exercise import Exercise, Key
from codellama_jax.exercises.families import FAMILIES
from codellama_jax.exercises.split import keys

FUNCTIONS = 70_000  # about 10 MB of text; fewer where a composition has not so many forms


class _Plan(NamedTuple):
    """Attributes:
    keys: of the split train.
    forms: number of forms of each key.
    ends: sums of forms: the number of functions of a key and of those before it.
    """

    keys: tuple[Key, ...]
    forms: tuple[int, ...]
    ends: tuple[int, ...]


@functools.cache
def _plan() -> _Plan:
    weights = sum(family.weight for family in FAMILIES.values())
    found: list[Key] = []
    forms: list[int] = []
    for name, of in keys()["train"].items():
        family = FAMILIES[name]
        wanted = FUNCTIONS * family.weight / weights / len(of)
        found += of
        forms += [max(1, min(round(wanted), _space(key) // 2)) for key in of]
    return _Plan(tuple(found), tuple(forms), tuple(itertools.accumulate(forms)))


def _space(key: Key) -> int:
    choices = Choices(0, Draws(0))
    FAMILIES[key[0]].make(key, choices)
    return choices.space


def count() -> int:
    """The number of functions."""
    return _plan().ends[-1]


def function(number: int) -> Exercise:
    """A function, of those with the numbers from 0 to count() - 1."""
    plan = _plan()
    place = permuted(number, plan.ends[-1], "training functions")
    index = bisect.bisect_right(plan.ends, place)
    key = plan.keys[index]
    form = place - (plan.ends[index] - plan.forms[index])
    choices = Choices(permuted(form, _space(key), *key), Draws("form", *key, form))
    return FAMILIES[key[0]].make(key, choices)
