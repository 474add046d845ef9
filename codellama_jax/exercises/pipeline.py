"""Functions that filter a sequence, do something with each element, and reduce what they get."""

from collections.abc import Mapping, Sequence
from typing import Any

from codellama_jax.exercises import reductions
from codellama_jax.exercises.choices import Choices
from codellama_jax.exercises.primitive import Primitive
from codellama_jax.exercises.reductions import Reduction


class Pipeline:
    """A filter, an operation and a reduction. The filter "all" keeps everything; the operation "same" changes nothing.

    Args:
        filters: formats of {x}, the element, {c}, and those of `make`.
        operations: formats of {f}, the wording of the filter, of {x} and {c}.
        reductions: see there.
    """

    def __init__(
        self,
        filters: Mapping[str, Primitive],
        operations: Mapping[str, Primitive],
        reductions: Mapping[str, Reduction],
    ):
        self._filters, self._operations, self._reductions = filters, operations, reductions

    def make(
        self, key: Sequence[str], choices: Choices, variable: str, iterable: str, where: str, **words: str
    ) -> dict[str, Any]:
        """The arguments `returns`, `purpose`, `bodies` and `words` of exercise.finished.

        Args:
            key: names of filter, operation and reduction.
            variable: name of an element.
            where: of the docstring: where the elements are.
            words: for the formats of filters.
        """
        reduction = self._reductions[key[2]]
        kept = choices.apply(self._filters, key[0], x=variable, **words)
        made = choices.apply(self._operations, key[1], x=variable, f=kept.wording + where)
        return {
            "returns": reduction.returns,
            "purpose": choices.pick(reduction.wordings).format(m=made.wording, f=kept.wording + where),
            "bodies": reductions.bodies(key[2], made.code, kept.code, variable, iterable),
            "words": (reduction.word, kept.word, made.word),
        }


def is_trivial(filter_: str, operation: str, reduction: str) -> bool:
    """Whether a composition has a part without effect: what is counted does not depend on the operation."""
    if reduction == "count":
        return operation != "same" or filter_ == "all"
    return (filter_, operation) == ("all", "same") and reduction in ("list", "string", "first")
