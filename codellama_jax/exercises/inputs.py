"""Arguments for functions: mostly small, and often at the edge of what the constants of a function tell apart."""

from collections.abc import Sequence

from codellama_jax.exercises.draws import Draws

_VOCABULARY = (
    "apple river stone cat dog window table green tiger ocean note sun moon anna level kayak tree bread "
    "castle ring edge under winter snow oak ant owl iron pool rabbit guitar echo lamp hat"
)
_WORDS = tuple(_VOCABULARY.split())
_LETTERS = "abcdefghiklmnoprstuw"
_CHARACTERS = "aeiouaeiouabcdstrnlmpwhgkAEBTS 0123 "


def number(draws: Draws, constants: Sequence[int | str] = (), low: int = -9, high: int = 15) -> int:
    """An integer, a quarter of the time next to a constant, or equal to it."""
    digits = [value for value in constants if isinstance(value, int)]
    if digits and draws.chance(0.25):
        return draws.pick(digits) + draws.integer(-1, 1)
    return draws.integer(low, high)


def numbers(draws: Draws, constants: Sequence[int | str] = (), count: int | None = None) -> list[int]:
    length = draws.integer(0, 7) if count is None else count
    return [number(draws, constants) for _ in range(length)]


def word(draws: Draws, constants: Sequence[int | str] = ()) -> str:
    """A word. Half of the time it has a letter that is a constant, if there is one."""
    letters = [value for value in constants if isinstance(value, str)]
    if not letters or draws.chance(0.5):
        return draws.pick(_WORDS)
    letter, rest = draws.pick(letters), "".join(draws.pick(_LETTERS) for _ in range(draws.integer(0, 4)))
    cut = draws.integer(0, len(rest))
    return rest[:cut] + letter + rest[cut:]


def sentence(draws: Draws, constants: Sequence[int | str] = ()) -> str:
    return " ".join(word(draws, constants) for _ in range(draws.integer(0, 6)))


def text(draws: Draws, constants: Sequence[int | str] = ()) -> str:
    """Characters of all kinds."""
    letters = [value for value in constants if isinstance(value, str)]
    return "".join(
        draws.pick(letters) if letters and draws.chance(0.15) else draws.pick(_CHARACTERS)
        for _ in range(draws.integer(0, 12))
    )
