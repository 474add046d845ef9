"""Two lists, element by element."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs, reductions
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, finished
from codellama_jax.exercises.primitive import Primitive as P
from codellama_jax.exercises.reductions import OF_NUMBERS

COMBINATIONS: Mapping[str, P] = {
    "sum": P(("sums",), ("{x} + {y}",), "sums"),
    "difference": P(("differences",), ("{x} - {y}",), "differences"),
    "product": P(("products",), ("{x} * {y}",), "products"),
    "larger": P(("maxima", "larger elements"), ("max({x}, {y})",), "maxima"),
    "smaller": P(("minima", "smaller elements"), ("min({x}, {y})",), "minima"),
    "distance": P(("absolute differences", "distances"), ("abs({x} - {y})",), "distances"),
    "square": P(("squared differences",), ("({x} - {y}) ** 2",), "squares"),
    "weighted": P(("sums of the first and twice the second",), ("{x} + 2 * {y}",), "weighted"),
}
REDUCTIONS = tuple(name for name in OF_NUMBERS if name not in ("count", "first"))

_NAMES = (("xs", "ys"), ("first", "second"), ("left", "right"), ("a", "b"), ("old", "new"), ("one", "other"))
_VARIABLES = (("x", "y"), ("p", "q"), ("u", "v"), ("i", "j"), ("m", "n"))


class Pairs:
    name, weight = "pairs", 1

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(COMBINATIONS, REDUCTIONS):
            yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        (a, b), (x, y) = choices.pick(_NAMES), choices.pick(_VARIABLES)
        combined = choices.apply(COMBINATIONS, key[1], x=x, y=y)
        pairs = choices.pick((f"the pairs of {a} and {b}", f"the pairs of elements of {a} and {b}"))
        reduction = OF_NUMBERS[key[2]]

        def arguments(draws: Draws) -> tuple[list[int], list[int]]:
            count = draws.integer(0, 6)
            return inputs.numbers(draws, (), count), inputs.numbers(draws, (), count)

        return finished(
            key,
            choices,
            parameters={a: "list[int]", b: "list[int]"},
            returns=reduction.returns,
            purpose=choices.pick(reduction.wordings).format(m=f"the {combined.wording} of {pairs}"),
            bodies=reductions.bodies(key[2], combined.code, "", f"{x}, {y}", f"zip({a}, {b})"),
            words=(reduction.word, combined.word),
            inputs=arguments,
        )
