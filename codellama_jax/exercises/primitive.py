"""What functions are composed of."""

from typing import NamedTuple


class Primitive(NamedTuple):
    """A filter, an operation, a condition or the like.

    Attributes:
        wordings: how a docstring says it: formats.
        codes: how Python says it: formats. All mean the same.
        word: for the names of functions; "": none.
        constant: the kind of the constant {c}: "letter" or one of choices.DIGITS; "": it has none.
    """

    wordings: tuple[str, ...]
    codes: tuple[str, ...]
    word: str = ""
    constant: str = ""


class Applied(NamedTuple):
    """A primitive in one wording and one form, with its constant."""

    wording: str
    code: str
    word: str
