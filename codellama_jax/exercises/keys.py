"""Documents for key retrieval: functions that return a word, among exercises, and assertions of what they return.

A key is a pair of words, the name of a function and what it returns. Every name and every word occurs in training; the
pairs of the split test never do.
"""

from collections.abc import Iterator
from typing import NamedTuple

from codellama_jax.exercises import training
from codellama_jax.exercises.draws import Draws, fraction

NAMES = (
    *("river", "stone", "cloud", "forest", "harbor", "garden", "window", "market", "bridge", "castle", "island"),
    *("meadow", "tunnel", "valley", "desert", "temple", "engine", "mirror", "ladder", "basket", "hammer", "anchor"),
    *("candle", "pillow", "carpet", "bottle", "rocket", "planet", "comet", "signal", "tower", "barrel"),
)
WORDS = (
    *("red", "blue", "green", "gold", "black", "white", "pink", "fox", "owl", "bear", "wolf", "goat", "swan", "lion"),
    *("tiger", "horse", "rice", "milk", "salt", "honey", "apple", "lemon", "plum", "iron", "silk", "glass", "paper"),
    *("sand", "rain", "snow", "moon", "sun"),
)
_TEST_SHARE = 1 / 8  # of the pairs
_SHORTEST = 0.1  # the shortest document, as a share of the longest
_EXERCISES = (0.0, 0.0, 0.2, 0.5)  # probabilities that a function is an exercise; a document has one of them
_ASSERTIONS = 3  # the most of a key


class Key(NamedTuple):
    """Attributes:
    name: of the function.
    word: that it returns.
    """

    name: str
    word: str

    @property
    def function(self) -> str:
        return f'def {self.name}():\n    return "{self.word}"\n'

    @property
    def question(self) -> str:
        """The assertion, up to the word's quotation mark."""
        return f'assert {self.name}() == "'

    @property
    def assertion(self) -> str:
        return f'{self.question}{self.word}"\n'


def split_of(key: Key) -> str:
    """The split of a key, train or test: a hash of the pair."""
    return "test" if fraction("split of keys", *key) < _TEST_SHARE else "train"


def keys(split: str, draws: Draws) -> Iterator[Key]:
    """Keys of a split in random order: no two have the same name or the same word."""
    names, words = list(NAMES), list(WORDS)
    while names:
        name = names.pop(draws.integer(0, len(names) - 1))
        of_split = [word for word in words if split_of(Key(name, word)) == split]
        if of_split:
            word = draws.pick(of_split)
            words.remove(word)
            yield Key(name, word)


def document(number: int, characters: int) -> str:
    """A document for training, of up to `characters` characters: functions, then one or more assertions of each key.

    Short documents are as frequent as long ones: on a logarithmic scale, lengths are uniform.
    """
    draws = Draws("keys", number)
    room = characters * _SHORTEST ** draws.fraction()
    exercises = draws.pick(_EXERCISES)
    unused = keys("train", draws)
    functions: list[str] = []
    assertions: list[str] = []
    while True:
        key = None if assertions and draws.chance(exercises) else next(unused, None)
        if key:
            function = key.function
            asserted = [key.assertion] * draws.integer(1, _ASSERTIONS)
        else:
            function, asserted = training.function(draws.integer(0, training.count() - 1)).source, []
        room -= len(function) + len("\n\n") + sum(map(len, asserted))
        if room < 0 and assertions:
            break
        functions.append(function)
        assertions += asserted
    _shuffle(functions, draws)
    _shuffle(assertions, draws)
    return "\n\n".join(functions) + "\n\n" + "".join(assertions)


def _shuffle(items: list[str], draws: Draws) -> None:
    for last in range(len(items) - 1, 0, -1):
        other = draws.integer(0, last)
        items[last], items[other] = items[other], items[last]
