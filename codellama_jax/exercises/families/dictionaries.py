"""The entries of a dictionary: a filter, and what becomes of them."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws
from codellama_jax.exercises.exercise import Exercise, Key, block, finished
from codellama_jax.exercises.primitive import Primitive as P

FILTERS: Mapping[str, P] = {
    "all": P(("",), ("",)),
    "above": P(
        (" whose value is greater than {c}", " whose value is above {c}"), ("{v} > {c}",), "large", constant="digit"
    ),
    "below": P(
        (" whose value is less than {c}", " whose value is below {c}"), ("{v} < {c}",), "small", constant="digit"
    ),
    "even": P((" whose value is even", " with an even value"), ("{v} % 2 == 0",), "even"),
    "positive": P((" whose value is positive", " with a positive value"), ("{v} > 0",), "positive"),
    "negative": P((" whose value is negative", " with a negative value"), ("{v} < 0",), "negative"),
    "other": P((" whose value is not {c}",), ("{v} != {c}",), "other", constant="digit"),
    "divisible": P((" whose value is divisible by {c}",), ("{v} % {c} == 0",), "multiples", constant="digit"),
    "key_starts": P((" whose key starts with '{c}'",), ("{k}.startswith('{c}')",), "starting", constant="letter"),
    "key_contains": P((" whose key contains '{c}'",), ("'{c}' in {k}",), "containing", constant="letter"),
    "key_longer": P((" whose key is longer than {c} letters",), ("len({k}) > {c}",), "long", constant="length"),
}


class Result(NamedTuple):
    """What becomes of entries.

    Attributes:
        made: the function's primitive. Its code is a format of {k}, {v}, {c} and {each}, the loop of a comprehension.
        returns: annotation.
        loop: the same as a loop: what it starts with and what it does for an entry; empty: there is no such form.
    """

    made: P
    returns: str
    loop: tuple[str, str] | tuple[()] = ()


_ENTRIES = "the entries of {d}{f}"
RESULTS: Mapping[str, Result] = {
    "keys": Result(
        P((f"Return a list of the keys of {_ENTRIES}.",), ("[{k} {each}]",), "keys"),
        "list[str]",
        ("result = []", "result.append({k})"),
    ),
    "values": Result(
        P((f"Return a list of the values of {_ENTRIES}.",), ("[{v} {each}]",), "values"),
        "list[int]",
        ("result = []", "result.append({v})"),
    ),
    "sum": Result(
        P(
            (f"Return the sum of the values of {_ENTRIES}.", f"Add up the values of {_ENTRIES}."),
            ("sum({v} {each})",),
            "sum",
        ),
        "int",
        ("total = 0", "total += {v}"),
    ),
    "count": Result(
        P((f"Return the number of {_ENTRIES}.", f"Count {_ENTRIES}."), ("sum(1 {each})",), "count"),
        "int",
        ("total = 0", "total += 1"),
    ),
    "dict": Result(
        P((f"Return a dictionary of {_ENTRIES}.",), ("{{{k}: {v} {each}}}",), "filter"),
        "dict[str, int]",
        ("result = {{}}", "result[{k}] = {v}"),
    ),
    "doubled": Result(
        P((f"Return a dictionary of {_ENTRIES}, with the values doubled.",), ("{{{k}: 2 * {v} {each}}}",), "double"),
        "dict[str, int]",
        ("result = {{}}", "result[{k}] = 2 * {v}"),
    ),
    "plus": Result(
        P(
            (f"Return a dictionary of {_ENTRIES}, with {{c}} added to the values.",),
            ("{{{k}: {v} + {c} {each}}}",),
            "increase",
            constant="digit",
        ),
        "dict[str, int]",
        ("result = {{}}", "result[{k}] = {v} + {c}"),
    ),
    "swapped": Result(
        P((f"Return a dictionary of {_ENTRIES}, with keys and values swapped.",), ("{{{v}: {k} {each}}}",), "swap"),
        "dict[int, str]",
        ("result = {{}}", "result[{v}] = {k}"),
    ),
    "upper": Result(
        P(
            (f"Return a dictionary of {_ENTRIES}, with the keys in upper case.",),
            ("{{{k}.upper(): {v} {each}}}",),
            "upper",
        ),
        "dict[str, int]",
        ("result = {{}}", "result[{k}.upper()] = {v}"),
    ),
    "key_lengths": Result(
        P((f"Return the total length of the keys of {_ENTRIES}.",), ("sum(len({k}) {each})",), "length"),
        "int",
        ("total = 0", "total += len({k})"),
    ),
    "pairs": Result(
        P((f"Return a list of the pairs of key and value of {_ENTRIES}.",), ("[({k}, {v}) {each}]",), "pairs"),
        "list[tuple[str, int]]",
        ("result = []", "result.append(({k}, {v}))"),
    ),
    "sorted_keys": Result(
        P((f"Return the keys of {_ENTRIES}, in alphabetical order.",), ("sorted({k} {each})",), "sorted"), "list[str]"
    ),
    "sorted_values": Result(
        P((f"Return the values of {_ENTRIES}, in ascending order.",), ("sorted({v} {each})",), "ordered"), "list[int]"
    ),
    "max": Result(
        P(
            (f"Return the largest value of {_ENTRIES}, or 0 if there are none.",),
            ("max(({v} {each}), default=0)",),
            "max",
        ),
        "int",
    ),
    "min": Result(
        P(
            (f"Return the smallest value of {_ENTRIES}, or 0 if there are none.",),
            ("min(({v} {each}), default=0)",),
            "min",
        ),
        "int",
    ),
}
_MADE = {name: result.made for name, result in RESULTS.items()}


class Dictionaries:
    name, weight = "dictionaries", 2

    def all_keys(self) -> Iterator[Key]:
        for filter_, result in itertools.product(FILTERS, RESULTS):
            if (filter_, result) not in (("all", "dict"), ("all", "count")):
                yield (self.name, filter_, result)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        result = RESULTS[key[2]]
        table = choices.pick(("scores", "prices", "counts", "table", "d", "stock", "mapping"))
        k, v = choices.pick((("key", "value"), ("k", "v"), ("name", "value"), ("name", "number")))
        kept = choices.apply(FILTERS, key[1], k=k, v=v)
        head = f"for {k}, {v} in {table}.items()"
        each = head + (f" if {kept.code}" if kept.code else "")
        made = choices.apply(_MADE, key[2], k=k, v=v, d=table, f=kept.wording, each=each)
        bodies = [block(f"return {made.code}")]
        if result.loop:
            constant = choices.constants[-1] if result.made.constant else ""
            start, action = (line.format(k=k, v=v, c=constant) for line in result.loop)
            lines = [f"if {kept.code}:", f"    {action}"] if kept.code else [action]
            inner = [f"    {line}" for line in lines]
            bodies.append(block(start, f"{head}:", *inner, f"return {start.split()[0]}"))

        def arguments(draws: Draws) -> tuple[dict[str, int]]:
            constants = choices.constants
            size = draws.integer(0, 5)
            return ({inputs.word(draws, constants): inputs.number(draws, constants) for _ in range(size)},)

        return finished(
            key,
            choices,
            parameters={table: "dict[str, int]"},
            returns=result.returns,
            purpose=made.wording,
            bodies=tuple(bodies),
            words=(made.word, kept.word, "entries"),
            inputs=arguments,
        )
