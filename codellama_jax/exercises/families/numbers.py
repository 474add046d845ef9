"""Lists of numbers, and ranges: a filter, an operation on each number, and what becomes of them."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.exercise import Exercise, Key, finished
from codellama_jax.exercises.pipeline import Pipeline, is_trivial
from codellama_jax.exercises.primitive import Primitive as P
from codellama_jax.exercises.reductions import OF_NUMBERS

FILTERS: Mapping[str, P] = {
    "all": P(("{n}",), ("",)),
    "even": P(("even {n}",), ("{x} % 2 == 0",), "even"),
    "odd": P(("odd {n}",), ("{x} % 2 == 1", "{x} % 2 != 0"), "odd"),
    "positive": P(("positive {n}", "{n} greater than zero"), ("{x} > 0",), "positive"),
    "negative": P(("negative {n}", "{n} less than zero"), ("{x} < 0",), "negative"),
    "nonzero": P(("non-zero {n}", "{n} that are not zero"), ("{x} != 0",), "nonzero"),
    "above": P(
        ("{n} greater than {c}", "{n} above {c}", "{n} larger than {c}"), ("{x} > {c}",), "large", constant="digit"
    ),
    "below": P(
        ("{n} less than {c}", "{n} below {c}", "{n} smaller than {c}"), ("{x} < {c}",), "small", constant="digit"
    ),
    "at_least": P(("{n} that are at least {c}",), ("{x} >= {c}",), "least", constant="digit"),
    "at_most": P(("{n} that are at most {c}",), ("{x} <= {c}",), "most", constant="digit"),
    "divisible": P(
        ("{n} divisible by {c}", "{n} that are multiples of {c}"), ("{x} % {c} == 0",), "multiples", constant="digit"
    ),
    "indivisible": P(("{n} not divisible by {c}",), ("{x} % {c} != 0",), "indivisible", constant="digit"),
    "other": P(("{n} different from {c}", "{n} other than {c}"), ("{x} != {c}",), "other", constant="digit"),
}
OPERATIONS: Mapping[str, P] = {
    "same": P(("the {f}",), ("{x}",)),
    "square": P(("the squares of the {f}", "the {f}, each squared"), ("{x} * {x}", "{x} ** 2"), "squares"),
    "cube": P(("the cubes of the {f}", "the {f}, each cubed"), ("{x} ** 3",), "cubes"),
    "double": P(("the doubles of the {f}", "the {f}, each doubled"), ("2 * {x}",), "doubles"),
    "plus": P(
        ("the {f}, each increased by {c}", "the {f}, each plus {c}"), ("{x} + {c}",), "increased", constant="digit"
    ),
    "minus": P(
        ("the {f}, each decreased by {c}", "the {f}, each minus {c}"), ("{x} - {c}",), "decreased", constant="digit"
    ),
    "times": P(
        ("the {f}, each multiplied by {c}", "the {f}, each times {c}"), ("{x} * {c}",), "scaled", constant="digit"
    ),
    "negation": P(("the negations of the {f}", "the {f}, each negated"), ("-{x}",), "negated"),
    "absolute": P(("the absolute values of the {f}",), ("abs({x})",), "absolute"),
    "modulo": P(
        ("the {f}, each modulo {c}", "the remainders of the {f} divided by {c}"),
        ("{x} % {c}",),
        "remainders",
        constant="digit",
    ),
    "quotient": P(("the {f}, each divided by {c} and rounded down",), ("{x} // {c}",), "quotients", constant="digit"),
}

_VARIABLES = ("x", "v", "number", "value", "item", "element")
_PIPELINE = Pipeline(FILTERS, OPERATIONS, OF_NUMBERS)


class Lists:
    """What becomes of the numbers of a list."""

    name, weight = "lists", 5

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(FILTERS, OPERATIONS, OF_NUMBERS):
            if not is_trivial(*chosen) and (chosen[0], chosen[2]) != ("all", "first"):
                yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        list_ = choices.pick(("numbers", "values", "nums", "xs", "items", "data", "array", "lst"))
        variable = choices.pick(_VARIABLES)
        where = choices.pick((" in the list", f" in {list_}", f" of the list {list_}", " of the given list"))
        noun = choices.pick(("numbers", "values", "elements", "integers"))
        found = _PIPELINE.make(key[1:], choices, variable, list_, where, n=noun)
        return finished(
            key,
            choices,
            parameters={list_: "list[int]"},
            inputs=lambda draws: (inputs.numbers(draws, choices.constants),),
            **found,
        )


class Ranges:
    """What becomes of the numbers from 1 to n."""

    name, weight = "ranges", 2

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(FILTERS, OPERATIONS, OF_NUMBERS):
            filter_, operation, reduction = chosen
            if filter_ in ("positive", "negative", "nonzero") or operation == "absolute":
                continue  # the numbers are positive
            if reduction not in ("min", "distinct", "first") and not is_trivial(*chosen):
                yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        end = choices.pick(("n", "limit", "stop", "end"))
        variable = choices.pick(("i", "k", "x", "number"))
        where = choices.pick((f" from 1 to {end}", f" between 1 and {end}"))
        noun = choices.pick(("numbers", "integers"))
        found = _PIPELINE.make(key[1:], choices, variable, f"range(1, {end} + 1)", where, n=noun)
        return finished(key, choices, parameters={end: "int"}, inputs=lambda draws: (draws.integer(0, 16),), **found)
