"""The choices that turn a key into a function: wordings, names, constants and styles, decoded from one number."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from codellama_jax.exercises.draws import Draws, hash_of
from codellama_jax.exercises.primitive import Applied, Primitive

T = TypeVar("T")

LETTERS = "abcdefghiklmnoprstuw"
DIGITS = {"digit": range(2, 10), "length": range(2, 7), "few": range(2, 6)}  # kind of a constant -> its values


def held_out_digits(primitive: str, kind: str) -> tuple[int, ...]:
    """The digits that training functions never have as the constant of a primitive: a quarter of its digits."""
    digits = sorted(DIGITS[kind], key=lambda digit: hash_of("held-out digit", primitive, digit))
    return tuple(sorted(digits[: len(digits) // 4]))


_HELD_OUT: dict[tuple[str, str], tuple[int, ...]] = {}
_TRAINED: dict[tuple[str, str], tuple[int, ...]] = {}


def _digits(primitive: str, kind: str, held_out: bool) -> tuple[int, ...]:
    key = (primitive, kind)
    if key not in _HELD_OUT:
        _HELD_OUT[key] = held_out_digits(primitive, kind)
        _TRAINED[key] = tuple(digit for digit in DIGITS[kind] if digit not in _HELD_OUT[key])
    return (_HELD_OUT if held_out else _TRAINED)[key]


class Choices:
    """The choices that a number stands for, in the order in which they are asked for.

    The options of a choice depend on the key only, not on earlier choices. Every choice is visible in the text of the
    function. So the numbers from 0 to `space` - 1 give different functions.

    Args:
        number: at least 0.
        draws: for what is not visible in every function.
        held_out: whether constants may be digits that are held out of training; half of them are.
        shift: (index, step): the step is added to the constant of this index, if that is a digit.

    Attributes:
        draws: see above.
        space: the number of different choices so far.
        constants: the digits and letters that were chosen.
    """

    def __init__(self, number: int, draws: Draws, held_out: bool = False, shift: tuple[int, int] = (0, 0)):
        self._rest, self._held_out, self._shift = number, held_out, shift
        self.draws, self.space = draws, 1
        self.constants: list[int | str] = []

    def pick(self, options: Sequence[T]) -> T:
        self.space *= len(options)
        self._rest, index = divmod(self._rest, len(options))
        return options[index]

    def constant(self, primitive: str, kind: str) -> int | str:
        """A constant of a primitive: a digit of this kind, or a letter."""
        value: int | str
        if kind == "letter":
            value = self.pick(LETTERS)
        else:
            value = self.pick(_digits(primitive, kind, self._held_out and self.draws.chance(0.5)))
            index, step = self._shift
            value += step if index == len(self.constants) else 0
        self.constants.append(value)
        return value

    def apply(self, table: Mapping[str, Primitive], name: str, **values: object) -> Applied:
        """A primitive of a table, in one of its wordings and forms, with a constant as {c}."""
        primitive = table[name]
        if primitive.constant:
            values["c"] = self.constant(name, primitive.constant)
        wording, code = self.pick(primitive.wordings), self.pick(primitive.codes)
        return Applied(wording.format_map(values), code.format_map(values), primitive.word)
