"""Prompt lookup: guesses the next tokens of a request from its own prompt and answer, and when guessing pays.

Code repeats itself, and an edit repeats what it edits: where the last tokens occurred before, what followed them often
follows again. The guesses are verified in one pass (decode.verify), so they change how fast tokens come, never which
(arXiv 2304.04487).
"""

from collections.abc import Sequence

NGRAMS = (6, 3, 2)  # numbers of tokens that must have occurred before; the first that have
_MEMORY = 0.8  # of the evidence of earlier guesses, at each guess


class PromptLookup:
    """The guesses of one request.

    Args:
        ids: its prompt.
    """

    def __init__(self, ids: Sequence[int]):
        self._ids = list(ids)
        self._next: dict[tuple[int, ...], int] = {}  # where the text after the latest occurrence starts
        self._indexed = 0
        self._guess: list[int] = []
        self._right = self._compared = 0.0

    def guess(self, count: int) -> list[int]:
        """The `count` tokens after the latest earlier occurrence of the last tokens; none if there is none."""
        ids = self._ids
        for end in range(self._indexed + 1, len(ids)):
            self._next.update({tuple(ids[end - size : end]): end for size in NGRAMS if size <= end})
        self._indexed = max(self._indexed, len(ids) - 1)
        found = (self._next.get(tuple(ids[-size:])) for size in NGRAMS if size <= len(ids))
        start = next((start for start in found if start is not None), None)
        self._guess = [] if start is None else ids[start : start + count]
        while start is not None and len(self._guess) < count:  # the text that is copied runs into the copy
            self._guess.append(self._guess[len(self._guess) - len(ids) + start])
        return self._guess

    def add(self, tokens: Sequence[int]) -> None:
        """Adds generated tokens, and compares them with the last guess, whether that was used or not."""
        if self._guess and tokens:
            compared = min(len(self._guess), len(tokens))
            right = next((n for n in range(compared) if self._guess[n] != tokens[n]), compared)
            self._right = _MEMORY * self._right + right
            self._compared = _MEMORY * self._compared + right + (right < compared)
        self._guess = []
        self._ids += tokens

    @property
    def expected(self) -> float:
        """The expected number of tokens of the last guess that are right.

        Each token is taken to be right with the same probability if those before it are: the part of the compared
        tokens that were right, where recent ones count more, and half before any were compared.
        """
        probability = (self._right + 1) / (self._compared + 2)
        return sum(probability ** (n + 1) for n in range(len(self._guess)))


def pays(expected: Sequence[float], cost: float) -> bool:
    """Whether guesses are verified, or the next tokens decoded one by one.

    A verification gives every active request one token and those of its guess that are right, and takes `cost` times as
    long as one step of decoding. It pays if the tokens of all active requests are expected to come faster. So guesses
    are not used for text that does not repeat, nor where a pass over more tokens takes much longer: in large batches,
    or on slow processors. Guesses that are not used are compared with the text too, and used again once they are right.

    The rule depends on the requests and on the cost alone, which is measured once. It changes no token.

    Args:
        expected: PromptLookup.expected of every active request.
        cost: seconds of a verification over seconds of a step.
    """
    return any(expected) and sum(1 + right for right in expected) > cost * len(expected)
