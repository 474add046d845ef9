"""A function that a family makes of a key."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.draws import Draws

Key = tuple[str, ...]  # the family, and the primitives in its slots
Inputs = Callable[[Draws], tuple[Any, ...]]

_GENERIC = ("solve", "compute", "process", "transform", "task", "run", "answer", "calculate", "evaluate", "helper")
_VERBS = ("get", "find", "make")
_CALLS = 4  # inputs that are tried for each one that is wanted


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A function.

    Attributes:
        key: what it is composed of.
        name: its name.
        signature: its first line, with the line end.
        purpose: the text of its docstring.
        body: its body, below the docstring.
        bodies: the same in all styles.
        inputs: draws arguments.
        kinds: annotations of the parameters.
        constants: the digits and letters in it, in the order in which they were chosen.
    """

    key: Key
    name: str
    signature: str
    purpose: str
    body: str
    bodies: tuple[str, ...]
    inputs: Inputs
    kinds: tuple[str, ...]
    constants: tuple[int | str, ...]

    @property
    def prompt(self) -> str:
        """Signature and docstring."""
        return f'{self.signature}    """{self.purpose}"""\n'

    @property
    def source(self) -> str:
        return self.prompt + self.body

    @property
    def request(self) -> str:
        """What the function is, for a sentence that asks for it: its name and parameters, and its purpose."""
        return f"`{self.signature[len('def ') : -len(':x')]}`. {self.purpose}"

    def function(self) -> Callable[..., Any]:
        """The function itself. Its source is the generator's own."""
        scope: dict[str, Any] = {}
        exec(self.source, scope)
        found: Callable[..., Any] = scope[self.name]
        return found

    def calls(self, draws: Draws, count: int) -> list[tuple[Any, ...]]:
        """Arguments, at most `count` different ones."""
        found: dict[str, tuple[Any, ...]] = {}
        for _ in range(_CALLS * count):
            arguments = self.inputs(draws)
            found.setdefault(repr(arguments), arguments)
            if len(found) == count:
                break
        return list(found.values())

    def assertion(self, arguments: tuple[Any, ...], value: object, called: str = "") -> str:
        """An assert statement about a call. `called` stands for the function's name."""
        return f"assert {called or self.name}({', '.join(map(repr, arguments))}) == {value!r}\n"


class Family(Protocol):
    """A kind of function. Each module of families/ has one or two.

    Attributes:
        name: first item of its keys.
        weight: share of the functions of this family, in parts of the sum of all.
    """

    name: str
    weight: int

    def all_keys(self) -> Iterator[Key]:
        """All keys."""

    def composition(self, key: Key) -> Key:
        """The same for keys that mean the same: they are in one split."""

    def make(self, key: Key, choices: Choices) -> Exercise:
        """The function of a key and choices."""


def finished(
    key: Key,
    choices: Choices,
    *,
    parameters: Mapping[str, str],
    returns: str,
    purpose: str,
    bodies: tuple[str, ...],
    words: Iterable[str],
    inputs: Inputs,
) -> Exercise:
    """An exercise with a name and a signature.

    Args:
        parameters: name -> annotation.
        returns: annotation.
        bodies: the same in several styles.
        words: for the name.
    """
    body = choices.pick(bodies)
    name = _name([word for word in words if word], next(iter(parameters)), choices.draws)
    if choices.draws.chance(0.3):
        shown = ", ".join(f"{parameter}: {kind}" for parameter, kind in parameters.items())
        signature = f"def {name}({shown}) -> {returns}:\n"
    else:
        signature = f"def {name}({', '.join(parameters)}):\n"
    kinds, constants = tuple(parameters.values()), tuple(choices.constants)
    return Exercise(key, name, signature, purpose, body, bodies, inputs, kinds, constants)


def _name(words: list[str], parameter: str, draws: Draws) -> str:
    """A name that says all, something or nothing about the function. It has two words unless it is a generic one, so
    that it is no built-in function."""
    kind = draws.integer(1, 20)
    if kind <= 12:
        return "_".join(words if len(words) > 1 else [*words, parameter])
    if kind <= 15:
        return f"{draws.pick(_GENERIC)}_{draws.pick(words)}"
    if kind <= 18:
        return "_".join([draws.pick(_VERBS), *words])
    return draws.pick(_GENERIC)


def block(*lines: str) -> str:
    """The lines of a body, indented."""
    return "".join(f"    {line}\n" for line in lines)
