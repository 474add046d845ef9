"""One of two values of two numbers, by a condition."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, block, finished
from codellama_jax.exercises.primitive import Primitive as P

CONDITIONS: Mapping[str, P] = {
    "greater": P(("{a} is greater than {b}", "{a} is larger than {b}"), ("{a} > {b}",)),
    "less": P(("{a} is less than {b}", "{a} is smaller than {b}"), ("{a} < {b}",)),
    "equal": P(("{a} equals {b}", "{a} and {b} are equal"), ("{a} == {b}",)),
    "a_even": P(("{a} is even",), ("{a} % 2 == 0",)),
    "b_odd": P(("{b} is odd",), ("{b} % 2 == 1",)),
    "a_negative": P(("{a} is negative",), ("{a} < 0",)),
    "b_positive": P(("{b} is positive",), ("{b} > 0",)),
    "a_above": P(("{a} is greater than {c}", "{a} is above {c}"), ("{a} > {c}",), constant="digit"),
    "b_below": P(("{b} is less than {c}", "{b} is below {c}"), ("{b} < {c}",), constant="digit"),
    "sum_above": P(("the sum of {a} and {b} is greater than {c}",), ("{a} + {b} > {c}",), constant="digit"),
    "a_divisible": P(("{a} is divisible by {c}",), ("{a} % {c} == 0",), constant="digit"),
}
VALUES: Mapping[str, P] = {
    "sum": P(("the sum of {a} and {b}", "{a} plus {b}"), ("{a} + {b}",), "sum"),
    "difference": P(("the difference of {a} and {b}", "{a} minus {b}"), ("{a} - {b}",), "difference"),
    "reverse_difference": P(("{b} minus {a}",), ("{b} - {a}",), "difference"),
    "product": P(("the product of {a} and {b}", "{a} times {b}"), ("{a} * {b}",), "product"),
    "a": P(("{a}",), ("{a}",), "value"),
    "b": P(("{b}",), ("{b}",), "value"),
    "a_square": P(("the square of {a}", "{a} squared"), ("{a} ** 2",), "square"),
    "b_square": P(("the square of {b}", "{b} squared"), ("{b} ** 2",), "square"),
    "a_double": P(("twice {a}",), ("2 * {a}",), "double"),
    "a_plus": P(("{a} plus {c}",), ("{a} + {c}",), "value", constant="digit"),
    "b_times": P(("{b} times {c}",), ("{b} * {c}",), "multiple", constant="digit"),
    "larger": P(("the larger of {a} and {b}",), ("max({a}, {b})",), "larger"),
    "smaller": P(("the smaller of {a} and {b}",), ("min({a}, {b})",), "smaller"),
    "b_negation": P(("the negation of {b}",), ("-{b}",), "value"),
    "a_absolute": P(("the absolute value of {a}",), ("abs({a})",), "absolute"),
}

_NAMES = (("a", "b"), ("x", "y"), ("first", "second"), ("m", "n"), ("left", "right"), ("p", "q"))


class Conditions:
    name, weight = "conditions", 3

    def all_keys(self) -> Iterator[Key]:
        for condition, value, other in itertools.product(CONDITIONS, VALUES, VALUES):
            if value != other:
                yield (self.name, condition, value, other)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        a, b = choices.pick(_NAMES)
        condition = choices.apply(CONDITIONS, key[1], a=a, b=b)
        value, other = (choices.apply(VALUES, name, a=a, b=b) for name in key[2:])
        purpose = choices.pick(
            (
                "Return {value} if {condition}, otherwise {other}.",
                "Return {value} if {condition}, else {other}.",
                "If {condition}, return {value}; otherwise return {other}.",
            )
        ).format(value=value.wording, condition=condition.wording, other=other.wording)
        test, then = f"if {condition.code}:", f"    return {value.code}"

        def arguments(draws: Draws) -> tuple[int, int]:
            one = inputs.number(draws, choices.constants)
            same = draws.chance(0.4 if key[1] == "equal" else 0.1)
            return one, one if same else inputs.number(draws, choices.constants)

        return finished(
            key,
            choices,
            parameters={a: "int", b: "int"},
            returns="int",
            purpose=purpose,
            bodies=(
                block(test, then, f"return {other.code}"),
                block(test, then, "else:", f"    return {other.code}"),
                block(f"return {value.code} if {condition.code} else {other.code}"),
            ),
            words=(choices.draws.pick(("choose", "select", "pick", "decide")), value.word),
            inputs=arguments,
        )
