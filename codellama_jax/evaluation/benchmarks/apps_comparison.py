"""When an output of an APPS program is right, by the rules of the benchmark's own evaluator.

This file is also the first part of each test, so it imports the standard library only.
"""

import math
from typing import Any

RELATIVE, ABSOLUTE = 1e-5, 1e-8  # tolerances of floating-point numbers
DECIMALS = 3  # to which numbers are rounded where the order plays no part


def same_output(output: str, expected: str) -> bool:
    """Whether what a program has printed is right. It is if one of these holds:

    1. The texts are equal, without white space at their ends, or at the ends of each line that was printed.
    2. The lines that are not empty are equal, without white space at the ends of the expected ones.
    3. Each line is a number, and the numbers are equal within the tolerances.
    4. The sets of lines are equal, a line being the set of its words. Neither order nor repetition counts.
    5. The same, with all words as numbers, rounded to three decimals.
    """
    lines = output.splitlines()
    if expected.strip() in ("\n".join(lines).strip(), "\n".join(line.strip() for line in lines).strip()):
        return True
    wanted = [line.strip() for line in expected.split("\n") if line]
    printed = [line for line in lines if line]
    if wanted in (lines, printed) or _same_numbers(printed, wanted):
        return True
    words = [line.split() for line in printed if line.split()]
    wanted_words = [line.split() for line in wanted]
    if _sets(words) == _sets(wanted_words):
        return True
    try:
        return _sets(_rounded(words)) == _sets(_rounded(wanted_words))
    except (ValueError, OverflowError):
        return False


def _same_numbers(printed: list[str], wanted: list[str]) -> bool:
    try:
        pairs = list(zip(map(float, printed), map(float, wanted), strict=True))
    except ValueError:
        return False
    return all(a == b or (math.isfinite(b) and abs(a - b) <= ABSOLUTE + RELATIVE * abs(b)) for a, b in pairs)


def _sets(lines: list[list]) -> set[frozenset]:
    return {frozenset(line) for line in lines}


def _rounded(lines: list[list[str]]) -> list[list[float]]:
    return [[round(float(word), DECIMALS) for word in line] for line in lines]


def same_value(value: Any, expected: Any) -> bool:
    """Whether what a function has returned is right: it equals the expected value, or the first item of that list.

    A tuple is compared as a list, and so are the items of a list or tuple whose first item is a tuple.
    """
    value = list(value) if isinstance(value, tuple) else value
    if value == expected:
        return True
    if not isinstance(expected, list) or not expected:
        return False
    if value == expected[0]:
        return True
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        try:
            return [list(item) for item in value] == expected[0]
        except TypeError:
            return False
    return False


def joined(text: Any) -> str:
    """Standard input or output, of which JSON has the text or the lines."""
    return "\n".join(map(str, text)) if isinstance(text, list) else str(text)


def with_integer_keys(values: Any) -> Any:
    """Values as JSON has them, where a dictionary, or one that is the first of a list, has strings as keys for numbers.

    Either becomes a list of the dictionary with numbers as keys, if all are numbers.
    """
    first = values[0] if isinstance(values, list) and values else values
    if isinstance(first, dict):
        try:
            return [{int(key): value for key, value in first.items()}]
        except ValueError:
            return values
    return values
