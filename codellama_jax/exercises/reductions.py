"""What a function makes of the elements that it has found: a sum, a list, a text, in several styles of code."""

from collections.abc import Mapping
from typing import NamedTuple

from codellama_jax.exercises.exercise import block


class Reduction(NamedTuple):
    """Attributes:
    wordings: sentences of a docstring. {m} stands for the elements, and {f} for those before they were changed.
    word: for the names of functions.
    returns: annotation of the result.
    """

    wordings: tuple[str, ...]
    word: str
    returns: str


OF_NUMBERS: Mapping[str, Reduction] = {
    "sum": Reduction(("Return the sum of {m}.", "Add up {m}.", "Compute the total of {m}."), "sum", "int"),
    "list": Reduction(
        ("Return a list of {m}.", "Collect {m} in a list.", "Build the list of {m}."), "list", "list[int]"
    ),
    "count": Reduction(
        ("Return the number of {f}.", "Count the {f}.", "Return how many {f} there are."), "count", "int"
    ),
    "max": Reduction(
        ("Return the largest of {m}, or 0 if there are none.", "Find the maximum of {m}, or 0 if there are none."),
        "max",
        "int",
    ),
    "min": Reduction(
        ("Return the smallest of {m}, or 0 if there are none.", "Find the minimum of {m}, or 0 if there are none."),
        "min",
        "int",
    ),
    "product": Reduction(("Return the product of {m}.", "Multiply together {m}."), "product", "int"),
    "ascending": Reduction(
        ("Return {m}, in ascending order.", "Return a sorted list of {m}.", "Sort {m}."), "sorted", "list[int]"
    ),
    "descending": Reduction(
        ("Return {m}, in descending order.", "Return {m}, sorted from largest to smallest."), "descending", "list[int]"
    ),
    "distinct": Reduction(
        ("Return the number of distinct values among {m}.", "Count the different values among {m}."), "distinct", "int"
    ),
    "first": Reduction(
        ("Return the first of {m}, or None if there are none.", "Find the first of {m}, or None."),
        "first",
        "int | None",
    ),
    "commas": Reduction(("Return a string with {m}, separated by commas.", "Join {m} with commas."), "joined", "str"),
}

OF_WORDS: Mapping[str, Reduction] = {
    "list": Reduction(("Return a list of {m}.", "Collect {m} in a list."), "list", "list"),
    "spaces": Reduction(("Return {m}, joined by spaces.", "Join {m} with spaces."), "spaced", "str"),
    "dashes": Reduction(("Return {m}, joined by dashes.", "Join {m} with dashes."), "dashed", "str"),
    "joined": Reduction(("Return {m}, joined without spaces.", "Concatenate {m}."), "concatenated", "str"),
    "count": Reduction(
        ("Return the number of {f}.", "Count the {f}.", "Return how many {f} there are."), "count", "int"
    ),
    "sorted": Reduction(("Return {m}, in alphabetical order.", "Return a sorted list of {m}."), "sorted", "list"),
    "distinct": Reduction(
        ("Return the number of different strings among {m}.", "Count the distinct strings among {m}."),
        "distinct",
        "int",
    ),
    "longest": Reduction(
        ("Return the longest of {m}, or an empty string.", "Find the longest of {m}, or an empty string."),
        "longest",
        "str",
    ),
    "reversed": Reduction(
        ("Return a list of {m}, in reverse order.", "List {m} from last to first."), "backwards", "list"
    ),
    "total": Reduction(("Return the total length of {m}.", "Add up the lengths of {m}."), "total", "int"),
}

OF_CHARACTERS: Mapping[str, Reduction] = {
    "string": Reduction(("Return a string of {m}.", "Return {m} as a string."), "string", "str"),
    "dashes": Reduction(("Return {m}, joined by dashes.", "Join {m} with dashes."), "dashed", "str"),
    "count": Reduction(
        ("Return the number of {f}.", "Count the {f}.", "Return how many {f} there are."), "count", "int"
    ),
    "list": Reduction(("Return a list of {m}.", "Collect {m} in a list."), "list", "list[str]"),
    "backwards": Reduction(
        ("Return a string of {m}, in reverse order.", "Return {m} as a string, from last to first."), "backwards", "str"
    ),
    "distinct": Reduction(
        ("Return the number of distinct strings among {m}.", "Count the different strings among {m}."),
        "distinct",
        "int",
    ),
    "sorted": Reduction(("Return a sorted list of {m}.", "Return {m} in alphabetical order."), "sorted", "list[str]"),
}

_SEPARATORS = {"spaces": "' '", "dashes": "'-'", "joined": "''", "string": "''"}


def bodies(reduction: str, element: str, condition: str, target: str, iterable: str) -> tuple[str, ...]:
    """The bodies of a function that reduces a sequence, each in another style.

    Args:
        reduction: name in one of the tables above.
        element: expression of what is collected.
        condition: expression that selects; "": none.
        target: the names of a loop.
        iterable: what the loop is over.
    """
    head = f"for {target} in {iterable}"
    where = f" if {condition}" if condition else ""
    each = f"{element} {head}{where}"

    def loop(start: str, action: str, result: str, before: str = "") -> str:
        lines = [before, action] if before else [action]
        if condition:
            lines = [f"if {condition}:", *(f"    {line}" for line in lines)]
        return block(*([start] if start else []), f"{head}:", *(f"    {line}" for line in lines), f"return {result}")

    match reduction:
        case "sum":
            return block(f"return sum({each})"), loop("total = 0", f"total += {element}", "total")
        case "list":
            return block(f"return [{each}]"), loop("result = []", f"result.append({element})", "result")
        case "count":
            return (
                block(f"return sum(1 {head}{where})"),
                block(f"return len([{target} {head}{where}])"),
                loop("count = 0", "count += 1", "count"),
            )
        case "max" | "min":
            return (
                block(f"return {reduction}(({each}), default=0)"),
                block(f"found = [{each}]", f"return {reduction}(found) if found else 0"),
            )
        case "product":
            return (loop("result = 1", f"result *= {element}", "result"),)
        case "ascending" | "sorted":
            return block(f"return sorted({each})"), block(f"result = [{each}]", "result.sort()", "return result")
        case "descending":
            return (
                block(f"return sorted(({each}), reverse=True)"),
                block(f"result = [{each}]", "result.sort(reverse=True)", "return result"),
            )
        case "distinct":
            return block(f"return len(set({each}))"), loop("seen = set()", f"seen.add({element})", "len(seen)")
        case "first":
            return (loop("", f"return {element}", "None"),)
        case "commas":
            return (block(f"return ','.join(str({element}) {head}{where})"),)
        case "longest":
            return (
                block(f"return max(({each}), key=len, default='')"),
                loop("best = ''", f"    best = {element}", "best", before=f"if len({element}) > len(best):"),
            )
        case "reversed":
            return block(f"return [{each}][::-1]"), loop("result = []", f"result.append({element})", "result[::-1]")
        case "backwards":
            return (
                block(f"return ''.join({each})[::-1]"),
                block(f"result = ''.join({each})", "return result[::-1]"),
            )
        case "total":
            return block(f"return sum(len({element}) {head}{where})"), loop(
                "total = 0", f"total += len({element})", "total"
            )
        case _:
            separator = _SEPARATORS[reduction]
            joined = block(f"return {separator}.join({each})")
            if separator != "''":
                return joined, block(f"found = [{each}]", f"return {separator}.join(found)")
            return joined, loop("result = ''", f"result += {element}", "result")
