"""Two steps that change a list or a text, one after the other."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, block, finished
from codellama_jax.exercises.families.texts import TEXTS
from codellama_jax.exercises.primitive import Primitive as P

OF_LISTS: Mapping[str, P] = {
    "ascending": P(("sort it in ascending order", "sort it"), ("sorted({a})",), "sort"),
    "descending": P(("sort it in descending order",), ("sorted({a}, reverse=True)",), "descend"),
    "reversed": P(("reverse it",), ("{a}[::-1]",), "reverse"),
    "head": P(("keep the first {c} elements", "take the first {c} elements"), ("{a}[:{c}]",), "head", constant="few"),
    "tail": P(("keep the last {c} elements", "take the last {c} elements"), ("{a}[-{c}:]",), "tail", constant="few"),
    "drop_first": P(("remove the first element", "drop the first element"), ("{a}[1:]",), "rest"),
    "drop_last": P(("remove the last element", "drop the last element"), ("{a}[:-1]",), "init"),
    "second": P(("keep every second element",), ("{a}[::2]",), "second"),
    "append": P(("append {c}", "add {c} at the end"), ("{a} + [{c}]",), "append", constant="digit"),
    "prepend": P(("put {c} in front", "insert {c} at the beginning"), ("[{c}] + {a}",), "prepend", constant="digit"),
    "twice": P(("repeat it twice",), ("{a} * 2",), "repeat"),
    "squared": P(("square every element",), ("[{x} * {x} for {x} in {a}]",), "square"),
    "plus": P(("add {c} to every element",), ("[{x} + {c} for {x} in {a}]",), "shift", constant="digit"),
    "even": P(("keep the even elements",), ("[{x} for {x} in {a} if {x} % 2 == 0]",), "even"),
    "positive": P(("keep the positive elements",), ("[{x} for {x} in {a} if {x} > 0]",), "positive"),
}
OF_TEXTS: Mapping[str, P] = {
    "upper": P(("convert it to upper case",), ("{a}.upper()",), "upper"),
    "lower": P(("convert it to lower case",), ("{a}.lower()",), "lower"),
    "stripped": P(("strip white space from both ends",), ("{a}.strip()",), "strip"),
    "reversed": P(("reverse it",), ("{a}[::-1]",), "reverse"),
    "replaced": P(("replace '{c}' by '{e}'",), ("{a}.replace('{c}', '{e}')",), "replace", constant="letter"),
    "removed": P(("remove every '{c}'",), ("{a}.replace('{c}', '')",), "remove", constant="letter"),
    "head": P(
        ("keep the first {c} characters", "take the first {c} characters"), ("{a}[:{c}]",), "head", constant="few"
    ),
    "tail": P(
        ("keep the last {c} characters", "take the last {c} characters"), ("{a}[-{c}:]",), "tail", constant="few"
    ),
    "append": P(("append '{c}'", "add '{c}' at the end"), ("{a} + '{c}'",), "append", constant="letter"),
    "prepend": P(("put '{c}' in front",), ("'{c}' + {a}",), "prepend", constant="letter"),
    "times": P(("repeat it {c} times",), ("{a} * {c}",), "repeat", constant="few"),
    "capitalized": P(("capitalize it",), ("{a}.capitalize()",), "capitalize"),
    "swapped": P(("swap upper and lower case",), ("{a}.swapcase()",), "swap"),
    "drop_first": P(("remove the first character",), ("{a}[1:]",), "rest"),
    "drop_last": P(("remove the last character",), ("{a}[:-1]",), "init"),
    "no_spaces": P(("remove all spaces",), ("{a}.replace(' ', '')",), "compact"),
}
_TABLES = {"list": OF_LISTS, "text": OF_TEXTS}
_KINDS = {"list": "list[int]", "text": "str"}
_REPLACEMENTS = "xyz-_*"  # no letters of choices.LETTERS: a letter is not replaced by itself
_PARAMETERS = {"list": ("numbers", "values", "nums", "xs", "items", "data", "array", "lst"), "text": TEXTS}


class Steps:
    name, weight = "steps", 4

    def all_keys(self) -> Iterator[Key]:
        for kind, table in _TABLES.items():
            for steps in itertools.permutations(table, 2):
                yield (self.name, kind, *steps)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        _, kind, *names = key
        table, parameter = _TABLES[kind], choices.pick(_PARAMETERS[kind])
        loops = any("{x}" in table[name].codes[0] for name in names)
        variable = choices.pick(("x", "v", "number", "value", "item", "element")) if loops else ""
        steps = []
        for name in names:
            letter = choices.pick(_REPLACEMENTS) if "{e}" in table[name].codes[0] else ""
            steps.append(choices.apply(table, name, a=parameter, x=variable, e=letter))
        noun = "list" if kind == "list" else "string"
        start = choices.pick((f"Take the {noun} {parameter}: ", f"With the {noun} {parameter}: "))
        between, end = choices.pick((", then ", " and then ")), choices.pick((".", "; return the result."))
        first, last = (step.code for step in steps)
        return finished(
            key,
            choices,
            parameters={parameter: _KINDS[kind]},
            returns=_KINDS[kind],
            purpose=start + between.join(step.wording for step in steps) + end,
            bodies=(
                block(f"{parameter} = {first}", f"return {last}"),
                block(f"{parameter} = {first}", f"{parameter} = {last}", f"return {parameter}"),
            ),
            words=(step.word for step in steps),
            inputs=lambda draws: (_argument(draws, kind, choices.constants),),
        )


def _argument(draws: Draws, kind: str, constants: list[int | str]) -> list[int] | str:
    if kind == "list":
        return inputs.numbers(draws, constants)
    text = draws.pick((inputs.text, inputs.sentence, inputs.word))(draws, constants)
    return " " * draws.chance(0.4) + text + " " * draws.chance(0.3)
