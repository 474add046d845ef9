"""The words of a text, and its characters."""

import itertools
from collections.abc import Iterator, Mapping

from codellama_jax.exercises import inputs
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.exercise import Exercise, Key, finished
from codellama_jax.exercises.pipeline import Pipeline, is_trivial
from codellama_jax.exercises.primitive import Primitive as P
from codellama_jax.exercises.reductions import OF_CHARACTERS, OF_WORDS

TEXTS = ("text", "s", "sentence", "string", "line", "phrase")

WORD_FILTERS: Mapping[str, P] = {
    "all": P(("words",), ("",)),
    "longer": P(
        ("words longer than {c} letters", "words with more than {c} letters"),
        ("len({x}) > {c}",),
        "long",
        constant="length",
    ),
    "shorter": P(
        ("words shorter than {c} letters", "words with fewer than {c} letters"),
        ("len({x}) < {c}",),
        "short",
        constant="length",
    ),
    "of_length": P(
        ("words of length {c}", "words with exactly {c} letters"), ("len({x}) == {c}",), "exact", constant="length"
    ),
    "starts": P(
        ("words that start with '{c}'", "words that begin with '{c}'"),
        ("{x}.startswith('{c}')", "{x}[0] == '{c}'"),
        "starting",
        constant="letter",
    ),
    "ends": P(
        ("words that end with '{c}'", "words ending in '{c}'"),
        ("{x}.endswith('{c}')", "{x}[-1] == '{c}'"),
        "ending",
        constant="letter",
    ),
    "contains": P(
        ("words that contain '{c}'", "words with the letter '{c}'"), ("'{c}' in {x}",), "containing", constant="letter"
    ),
    "lacks": P(
        ("words without the letter '{c}'", "words that do not contain '{c}'"),
        ("'{c}' not in {x}",),
        "without",
        constant="letter",
    ),
    "even": P(("words of even length",), ("len({x}) % 2 == 0",), "even"),
}
WORD_OPERATIONS: Mapping[str, P] = {
    "same": P(("the {f}",), ("{x}",)),
    "upper": P(("the {f} in upper case", "the upper-cased {f}"), ("{x}.upper()",), "upper"),
    "capitalized": P(("the {f}, each capitalized",), ("{x}.capitalize()",), "capitalized"),
    "reversed": P(("the {f}, each reversed", "the reversed {f}"), ("{x}[::-1]",), "reversed"),
    "initial": P(("the first letters of the {f}", "the initials of the {f}"), ("{x}[0]",), "initials"),
    "last": P(("the last letters of the {f}",), ("{x}[-1]",), "endings"),
    "prefix": P(("the first {c} letters of the {f}",), ("{x}[:{c}]",), "prefixes", constant="length"),
    "suffix": P(("the {f}, each followed by '{c}'",), ("{x} + '{c}'",), "extended", constant="letter"),
    "twice": P(("the {f}, each repeated twice",), ("{x} * 2",), "repeated"),
    "length": P(("the lengths of the {f}",), ("len({x})",), "lengths"),
}
CHARACTER_FILTERS: Mapping[str, P] = {
    "all": P(("characters",), ("",)),
    "vowels": P(("vowels",), ("{x} in 'aeiou'",), "vowels"),
    "not_vowels": P(("characters that are not vowels",), ("{x} not in 'aeiou'",), "consonants"),
    "digits": P(("digits",), ("{x}.isdigit()",), "digits"),
    "letters": P(("letters",), ("{x}.isalpha()",), "letters"),
    "upper_case": P(("upper case letters",), ("{x}.isupper()",), "capitals"),
    "lower_case": P(("lower case letters",), ("{x}.islower()",), "lowercase"),
    "not_spaces": P(("characters that are not spaces",), ("{x} != ' '",), "nonspace"),
    "equal": P(("characters equal to '{c}'",), ("{x} == '{c}'",), "same", constant="letter"),
    "other": P(
        ("characters other than '{c}'", "characters except '{c}'"), ("{x} != '{c}'",), "other", constant="letter"
    ),
    "before": P(("characters that come before '{c}'",), ("{x} < '{c}'",), "before", constant="letter"),
}
CHARACTER_OPERATIONS: Mapping[str, P] = {
    "same": P(("the {f}",), ("{x}",)),
    "upper": P(("the {f} in upper case", "the upper-cased {f}"), ("{x}.upper()",), "upper"),
    "lower": P(("the {f} in lower case", "the lower-cased {f}"), ("{x}.lower()",), "lower"),
    "twice": P(("the {f}, each doubled", "the {f}, each repeated twice"), ("{x} * 2",), "doubled"),
    "suffix": P(("the {f}, each followed by '{c}'",), ("{x} + '{c}'",), "extended", constant="letter"),
    "star": P(("the {f}, each replaced by a star",), ("'*'",), "masked"),
}

_WORDS = Pipeline(WORD_FILTERS, WORD_OPERATIONS, OF_WORDS)
_CHARACTERS = Pipeline(CHARACTER_FILTERS, CHARACTER_OPERATIONS, OF_CHARACTERS)


class Words:
    """What becomes of the words of a text."""

    name, weight = "words", 3

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(WORD_FILTERS, WORD_OPERATIONS, OF_WORDS):
            if chosen[1] == "length" and chosen[2] not in ("list", "sorted", "reversed"):
                continue  # lengths are numbers
            if not is_trivial(*chosen):
                yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        text, variable = choices.pick(TEXTS), choices.pick(("word", "w", "token", "part"))
        where = choices.pick((" in the text", f" in {text}", f" of {text}", " of the sentence"))
        return finished(
            key,
            choices,
            parameters={text: "str"},
            inputs=lambda draws: (inputs.sentence(draws, choices.constants),),
            **_WORDS.make(key[1:], choices, variable, f"{text}.split()", where),
        )


class Characters:
    """What becomes of the characters of a text."""

    name, weight = "characters", 3

    def all_keys(self) -> Iterator[Key]:
        for chosen in itertools.product(CHARACTER_FILTERS, CHARACTER_OPERATIONS, OF_CHARACTERS):
            if chosen[1] == "star" and chosen[2] in ("sorted", "distinct", "backwards"):
                continue  # all elements are equal
            if not is_trivial(*chosen):
                yield (self.name, *chosen)

    def composition(self, key: Key) -> Key:
        return key

    def make(self, key: Key, choices: Choices) -> Exercise:
        text, variable = choices.pick(TEXTS), choices.pick(("c", "ch", "char", "letter"))
        where = choices.pick((" in the text", f" in {text}", f" of {text}", " of the string"))
        return finished(
            key,
            choices,
            parameters={text: "str"},
            inputs=lambda draws: (inputs.text(draws, choices.constants),),
            **_CHARACTERS.make(key[1:], choices, variable, text, where),
        )
