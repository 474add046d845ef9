"""The rows of a matrix: a filter, a number for each row, and what becomes of them."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs, reductions
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, finished
from codellama_jax.exercises.families.pairs import REDUCTIONS
from codellama_jax.exercises.primitive import Primitive as P
from codellama_jax.exercises.reductions import OF_NUMBERS

FILTERS: Mapping[str, P] = {
    "all": P(("rows",), ("",)),
    "longer": P(
        ("rows longer than {c}", "rows with more than {c} elements"), ("len({x}) > {c}",), "long", constant="few"
    ),
    "positive_sum": P(("rows with a positive sum", "rows whose sum is positive"), ("sum({x}) > 0",), "positive"),
    "first_even": P(("rows whose first element is even",), ("{x}[0] % 2 == 0",), "even"),
    "contains": P(("rows that contain {c}", "rows with a {c}"), ("{c} in {x}",), "containing", constant="digit"),
}
NUMBERS: Mapping[str, P] = {
    "sum": P(("sums",), ("sum({x})",), "sums"),
    "length": P(("lengths",), ("len({x})",), "lengths"),
    "max": P(("maxima", "largest elements"), ("max({x})",), "maxima"),
    "min": P(("minima", "smallest elements"), ("min({x})",), "minima"),
    "first": P(("first elements",), ("{x}[0]",), "firsts"),
    "last": P(("last elements",), ("{x}[-1]",), "lasts"),
    "spread": P(("differences of maximum and minimum",), ("max({x}) - min({x})",), "spreads"),
    "distinct": P(("numbers of distinct elements",), ("len(set({x}))",), "distincts"),
}


class Rows:
    name, weight = "rows", 2

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(FILTERS, NUMBERS, REDUCTIONS):
            yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        rows = choices.pick(("matrix", "rows", "grid", "table", "lists"))
        variable = choices.pick(("row", "r", "line", "part"))
        kept = choices.apply(FILTERS, key[1], x=variable)
        found = choices.apply(NUMBERS, key[2], x=variable)
        reduction = OF_NUMBERS[key[3]]

        def arguments(draws: Draws) -> tuple[list[list[int]]]:
            constants = choices.constants
            sizes = [draws.integer(1, 6 if "longer" in key else 4) for _ in range(draws.integer(0, 4))]
            return ([inputs.numbers(draws, constants, size) for size in sizes],)

        return finished(
            key,
            choices,
            parameters={rows: "list[list[int]]"},
            returns=reduction.returns,
            purpose=choices.pick(reduction.wordings).format(m=f"the {found.wording} of the {kept.wording} of {rows}"),
            bodies=reductions.bodies(key[3], found.code, kept.code, variable, rows),
            words=(reduction.word, kept.word, found.word),
            inputs=arguments,
        )
