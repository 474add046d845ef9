"""Problems with tests: functions of compositions that are not in training, which their tests tell from others."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws, fraction
from codellama_jax.exercises.exercise import Exercise, Key
from codellama_jax.exercises.families import FAMILIES
from codellama_jax.exercises.split import SPLITS, keys

TESTS = 8
_CANDIDATES = 32  # inputs that the tests are chosen from
_SIBLINGS = 4
_LOOP = re.compile(r"^    for (.+?) in .+:\n", re.MULTILINE)
_RAISES = object()  # the value of a call that raises

Row = dict[str, str]


def problems(split: str, count: int | None = None) -> list[Row]:
    """Problems of a split, in the fields of HumanEval: the first `count` or all, each of another composition.

    The fields are task_id, prompt, entry_point, canonical_solution, test and family. Half of the constants are digits
    that training functions never have there. The tests of a problem reject each of its siblings, other functions of its
    family with the same arguments; where no such tests are found, there is no problem. The first problems are the same
    for every count.

    Raises:
        ValueError: `split` is not "test" or "questions", or it has fewer problems.
    """
    return _first(split, count, itertools.starmap(_row, _solved(split)))


def question(row: Row) -> str:
    """A problem as a request in words, which has the name, the parameters and the purpose of the function."""
    signature, _, text = row["prompt"].partition("\n")
    purpose = text.strip().strip('"')
    return f"Write a Python function `{signature.removeprefix('def ').removesuffix(':')}`. {purpose}"


def holes(split: str, count: int) -> list[Row]:
    """The problems with a loop, with a hole in the place of the loop's first line, as rows of HumanEval-infilling.

    The suffix decides the hole: the loop's variable has one of several names, which is in the text after the hole, and
    not in that before it. The fields are those of `problems`, and suffix.

    Raises:
        ValueError: as `problems`.
    """
    return _first(split, count, filter(None, itertools.starmap(_hole, _solved(split))))


def _first(split: str, count: int | None, rows: Iterable[Row]) -> list[Row]:
    if split not in SPLITS[1:]:
        raise ValueError(f"split is {split!r}: it is one of {', '.join(SPLITS[1:])}")
    found = list(itertools.islice(rows, count))
    if count is not None and len(found) < count:
        raise ValueError(f"there are {len(found):,} such problems, not {count:,}")
    return found


def _row(exercise: Exercise, tests: Sequence[str]) -> Row:
    return {
        "task_id": "/".join(exercise.key),
        "prompt": exercise.prompt,
        "entry_point": exercise.name,
        "canonical_solution": exercise.body,
        "test": "def check(candidate):\n" + "".join(f"    {test}" for test in tests),
        "family": exercise.key[0],
    }


def _hole(exercise: Exercise, tests: Sequence[str]) -> Row:
    """The row of a problem with a hole; empty if it has no hole that its suffix decides."""
    for body in exercise.bodies:
        if match := _LOOP.search(body):
            before, after = exercise.prompt + body[: match.start()], body[match.end() :]
            names = match[1].split(", ")
            if all(_has(after, name) and not _has(before, name) for name in names):
                row = {"prompt": before, "canonical_solution": match[0], "suffix": after}
                return _row(exercise, tests) | row
    return {}


def _has(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None


def _solved(split: str) -> Iterator[tuple[Exercise, list[str]]]:
    """The functions of a split that have tests, with these."""
    for key in _ordered(split):
        exercise, tests = _with_tests(key)
        if tests:
            yield exercise, tests


@functools.cache
def _with_tests(key: Key) -> tuple[Exercise, list[str]]:
    """The problem of a key. Kept, because several benchmarks ask for it."""
    exercise = _of_key(key)
    return exercise, _tests(exercise, Draws("tests", *key))


def _ordered(split: str) -> list[Key]:
    """The keys of a split. The families have their weights as long as they have keys left."""
    places: list[tuple[float, Key]] = []
    for name, found in keys()[split].items():
        shuffled = sorted(found, key=lambda key: fraction("order of problems", *key))
        places += [((place + 0.5) / FAMILIES[name].weight, key) for place, key in enumerate(shuffled)]
    return [key for _, key in sorted(places)]


def _of_key(key: Key, shift: tuple[int, int] = (0, 0)) -> Exercise:
    """The function of a key that is its problem; with a `shift`, the same with another constant (Choices)."""
    return _made(key, Draws("problem", *key), shift)


def _made(key: Key, draws: Draws, shift: tuple[int, int] = (0, 0)) -> Exercise:
    return FAMILIES[key[0]].make(key, Choices(draws.integer(0, 2**52), draws, held_out=True, shift=shift))


def _tests(exercise: Exercise, draws: Draws) -> list[str]:
    """The tests, or none if no 8 of the inputs that were tried reject all siblings.

    Each test is the input that most of those siblings are wrong on that are not yet rejected.
    """
    function = exercise.function()
    candidates = [(arguments, _value(function, arguments)) for arguments in exercise.calls(draws, _CANDIDATES)]
    values = [value for _, value in candidates]
    if len(candidates) < TESTS or _RAISES in values or len(set(map(repr, values))) < 2:
        return []
    wrong = [
        {index for index, (arguments, value) in enumerate(candidates) if _value(sibling, arguments) != value}
        for sibling in _siblings(exercise, draws)
    ]
    chosen: list[int] = []
    while len(chosen) < TESTS:
        left = [of for of in wrong if of.isdisjoint(chosen)]
        others = [index for index in range(len(candidates)) if index not in chosen]
        chosen.append(max(others, key=lambda index: sum(index in of for of in left)))
    if any(of.isdisjoint(chosen) for of in wrong):
        return []
    return [exercise.assertion(*candidates[index], called="candidate") for index in chosen]


def _siblings(exercise: Exercise, draws: Draws) -> list[Callable[..., Any]]:
    """Functions of the same family and arguments: the same with a digit that is one more or less, others of the same
    composition, of compositions that differ in one primitive, and any others."""
    every = _family(exercise.key[0])
    near = [key for key in every if len(key) == len(exercise.key) and sum(map(str.__ne__, key, exercise.key)) == 1]
    found = [_of_key(exercise.key, (index, step)) for index in range(len(exercise.constants)) for step in (1, -1)]
    for keys_, count in (((exercise.key,), _SIBLINGS), (near, 2 * _SIBLINGS), (every, _SIBLINGS)):
        made = (_made(draws.pick(keys_), draws) for _ in range(3 * count))
        found += itertools.islice((other for other in made if other.kinds == exercise.kinds), count)
    return [other.function() for other in found if (other.key, other.constants) != (exercise.key, exercise.constants)]


@functools.cache
def _family(name: str) -> tuple[Key, ...]:
    return tuple(FAMILIES[name].all_keys())


def _value(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except (IndexError, TypeError, ValueError, AttributeError):
        return _RAISES
