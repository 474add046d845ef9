"""Valid Python of a wanted number of tokens, with a text between two of its statements."""

import ast
import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from codellama_jax.tokenizer import Tokenizer

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_SCAN = 400  # statements that are tried for the rest of the tokens


@dataclasses.dataclass(frozen=True)
class _Statement:
    text: str  # ends with a line feed
    tokens: int


class Filler:
    """Top-level statements of programs, which stand next to each other in any order and are valid Python.

    Args:
        programs: source code. Programs that are not valid Python 3 are left out.
        tokenizer: counts tokens.

    Attributes:
        programs: number of programs that are used.
    """

    def __init__(self, programs: Iterable[str], tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._programs = [self._measured(statements) for text in programs if (statements := top_level(text))]

    @property
    def programs(self) -> int:
        return len(self._programs)

    def around(
        self,
        inserted: str,
        end: str,
        length: int,
        position: float,
        rng: np.random.Generator,
        others: Sequence[str] = (),
    ) -> str:
        """Filler around `inserted`, and then `end`.

        The programs come in random order, and again in another order if there are too few. The last ones that fit are
        followed by single statements that do, so that only a few tokens are missing.

        Args:
            inserted: text that stands between two statements.
            end: the last text.
            length: tokens of the whole, with BOS: the result has at most so many.
            position: share of the tokens of filler that come before `inserted`; the nearest border is taken.
            rng: chooses the statements.
            others: statements that stand at random borders of the filler, and count as filler.

        Raises:
            ValueError: `inserted`, `others` and `end` alone have more than `length` tokens, or there are no programs.
        """
        room = length - self._count("".join(others) + inserted + end)
        if room < 0 or not self._programs:
            raise ValueError(f"no filler of {room} tokens")
        chosen = self._chosen(room, rng)
        scattered = list(zip(rng.random(len(others)), self._measured(others), strict=True))
        while True:
            text = _joined(_with_scattered(chosen, scattered), inserted, end, position)
            excess = self._count(text) - length
            if excess <= 0:
                return text
            # tokens across the borders of statements: the sum of the parts was too small
            while excess > 0 and chosen:
                excess -= chosen.pop().tokens

    def _chosen(self, room: int, rng: np.random.Generator) -> list[_Statement]:
        chosen = list[_Statement]()
        programs = self._endless(rng)
        for program in programs:
            size = sum(statement.tokens for statement in program)
            if size > room:
                break
            chosen += program
            room -= size
        rest = (statement for program in programs for statement in program)
        for _, statement in zip(range(_SCAN), rest, strict=False):
            if statement.tokens <= room:
                chosen.append(statement)
                room -= statement.tokens
        return chosen

    def _endless(self, rng: np.random.Generator) -> Iterator[list[_Statement]]:
        while True:
            yield from (self._programs[index] for index in rng.permutation(len(self._programs)))

    def _measured(self, statements: Sequence[str]) -> list[_Statement]:
        return [_Statement(text, len(self._tokenizer.encode_continuation(text))) for text in statements]

    def _count(self, text: str) -> int:
        return len(self._tokenizer.prompt_ids(text))


def top_level(program: str) -> list[str]:
    """The top-level statements of a program, with their lines; none if it is not valid.

    Two empty lines follow definitions. Statements that share a line stay together. Imports from __future__, which must
    come first, are left out.
    """
    program = program.replace("\r\n", "\n").replace("\r", "\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the program: escapes that are not valid, for example
            body = ast.parse(program).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    ranges = list[list[int]]()  # first line, line after the last one, and empty lines after it
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            continue
        decorators = getattr(statement, "decorator_list", [])
        start = min([statement.lineno, *(decorator.lineno for decorator in decorators)]) - 1
        end = statement.end_lineno or start + 1
        if ranges and start < ranges[-1][1]:
            ranges[-1][1] = end
        else:
            ranges.append([start, end, 2 * isinstance(statement, _DEFINITIONS)])
    lines = program.split("\n")  # as the parser counts them: a form feed ends no line
    return ["\n".join(lines[start:end]) + "\n" * (1 + empty) for start, end, empty in ranges]


def _with_scattered(
    chosen: Sequence[_Statement], scattered: Sequence[tuple[float, _Statement]]
) -> Sequence[_Statement]:
    """The statements, with others at shares of their number."""
    result = list(chosen)
    for share, statement in scattered:
        result.insert(int(share * (len(result) + 1)), statement)
    return result


def _joined(chosen: Sequence[_Statement], inserted: str, end: str, position: float) -> str:
    """The statements with `inserted` at the border that is nearest to a position, and `end`."""
    borders = np.cumsum([0, *(statement.tokens for statement in chosen)])
    place = int(np.argmin(np.abs(borders - position * borders[-1])))
    before, after = ("".join(statement.text for statement in part) for part in (chosen[:place], chosen[place:]))
    return before + inserted + after + end
