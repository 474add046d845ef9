"""Whether two statements about a number or a text hold."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, block, finished
from codellama_jax.exercises.families.texts import TEXTS
from codellama_jax.exercises.primitive import Primitive as P

OF_NUMBERS: Mapping[str, P] = {
    "even": P(("is even",), ("{x} % 2 == 0",), "even"),
    "odd": P(("is odd",), ("{x} % 2 == 1",), "odd"),
    "positive": P(("is positive",), ("{x} > 0",), "positive"),
    "negative": P(("is negative",), ("{x} < 0",), "negative"),
    "above": P(("is greater than {c}", "is above {c}"), ("{x} > {c}",), "above", constant="digit"),
    "below": P(("is less than {c}", "is below {c}"), ("{x} < {c}",), "below", constant="digit"),
    "divisible": P(("is divisible by {c}", "is a multiple of {c}"), ("{x} % {c} == 0",), "multiple", constant="digit"),
    "indivisible": P(("is not divisible by {c}",), ("{x} % {c} != 0",), "indivisible", constant="digit"),
    "equal": P(("is equal to {c}",), ("{x} == {c}",), "equal", constant="digit"),
    "other": P(("is different from {c}",), ("{x} != {c}",), "different", constant="digit"),
    "at_least": P(("is at least {c}",), ("{x} >= {c}",), "least", constant="digit"),
    "at_most": P(("is at most {c}",), ("{x} <= {c}",), "most", constant="digit"),
}
OF_TEXTS: Mapping[str, P] = {
    "starts": P(("starts with '{c}'", "begins with '{c}'"), ("{x}.startswith('{c}')",), "starts", constant="letter"),
    "ends": P(("ends with '{c}'",), ("{x}.endswith('{c}')",), "ends", constant="letter"),
    "contains": P(("contains '{c}'",), ("'{c}' in {x}",), "contains", constant="letter"),
    "lacks": P(("does not contain '{c}'",), ("'{c}' not in {x}",), "lacks", constant="letter"),
    "longer": P(
        ("is longer than {c} characters", "has more than {c} characters"),
        ("len({x}) > {c}",),
        "long",
        constant="length",
    ),
    "shorter": P(
        ("is shorter than {c} characters", "has fewer than {c} characters"),
        ("len({x}) < {c}",),
        "short",
        constant="length",
    ),
    "lower": P(("is in lower case",), ("{x}.islower()",), "lower"),
    "letters": P(("has only letters",), ("{x}.isalpha()",), "alpha"),
    "digits": P(("has only digits",), ("{x}.isdigit()",), "digits"),
    "palindrome": P(("is a palindrome",), ("{x} == {x}[::-1]",), "palindrome"),
    "empty": P(("is empty",), ("{x} == ''",), "empty"),
    "even_length": P(("has an even length",), ("len({x}) % 2 == 0",), "even"),
}
_TABLES = {"number": OF_NUMBERS, "text": OF_TEXTS}
_CONNECTIVES = {"and": ("{one} and {other}",), "or": ("{one} or {other}",), "unless": ("{one}, unless it {other}",)}


class Predicates:
    """Two statements, joined by "and", "or" or "unless": the first, and not the second."""

    name, weight = "predicates", 3

    def all_keys(self) -> Iterator[Key]:
        for kind, table in _TABLES.items():
            for one, other, connective in itertools.product(table, table, _CONNECTIVES):
                if one != other:
                    yield (self.name, kind, one, other, connective)

    def composition(self, key: Key) -> Key:
        """Statements that "and" or "or" joins can be exchanged."""
        *_, one, other, connective = key
        return key if connective == "unless" else (*key[:2], *sorted((one, other)), connective)

    def make(self, key: Key, choices: Choices) -> Exercise:
        _, kind, *names, connective = key
        variables = ("n", "x", "number", "value", "k") if kind == "number" else (*TEXTS, "word", "name")
        variable = choices.pick(variables)
        one, other = (choices.apply(_TABLES[kind], name, x=variable) for name in names)
        said = choices.pick(_CONNECTIVES[connective]).format(one=one.wording, other=other.wording)
        asked = choices.pick(("Return True if {x} {said}.", "Check whether {x} {said}.", "Return whether {x} {said}."))
        if connective == "unless":
            code = f"{one.code} and not ({other.code})"
        else:
            code = f"{one.code} {connective} {other.code}"
        return finished(
            key,
            choices,
            parameters={variable: "int" if kind == "number" else "str"},
            returns="bool",
            purpose=asked.format(x=variable, said=said),
            bodies=(block(f"return {code}"), block(f"if {code}:", "    return True", "return False")),
            words=(choices.draws.pick(("is", "check", "test")), one.word, other.word),
            inputs=lambda draws: (_argument(draws, kind, choices.constants),),
        )


def _argument(draws: Draws, kind: str, constants: list[int | str]) -> int | str:
    if kind == "number":
        return inputs.number(draws, constants)
    match draws.integer(0, 9):
        case 0:
            return ""
        case 1 | 2:
            return str(draws.integer(0, 50_000))
        case 3 | 4:
            return inputs.text(draws, constants)
        case 5:
            half = inputs.word(draws, constants)
            return half + half[-2::-1]  # a palindrome
        case _:
            return inputs.word(draws, constants)
