"""Holes in files that a model has not seen: single lines, and spans of characters.

The holes depend on the files alone, so that a model is asked the same before and after a stage, and at each evaluation.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

from codellama_jax.evaluation import gold
from codellama_jax.evaluation.problem import Infilling
from codellama_jax.tokenizer import Tokenizer

HELD_OUT, GENERAL = "held_out", "general"  # where the files are from
LINE, SPAN = "line", "span"
KINDS = (LINE, SPAN)

LINE_CHARACTERS = (8, 120)  # of a line without its indentation (our choice)
SPAN_CHARACTERS = (8, 160)  # on a logarithmic scale, lengths are equally frequent (our choice)
CHARACTERS_PER_TOKEN = 8  # a prompt of n tokens has at most this many characters per token before and after the hole


@dataclasses.dataclass(frozen=True)
class Case:
    """A file with a hole.

    Attributes:
        corpus: HELD_OUT or GENERAL.
        kind: LINE, a line with its indentation and its end, or SPAN, characters from anywhere to anywhere.
        path: of the file.
        prefix, middle, suffix: the text before, in and after the hole.
    """

    corpus: str
    kind: str
    path: str
    prefix: str
    middle: str
    suffix: str


def make_cases(files: Sequence[tuple[str, str]], corpus: str, count: int) -> list[Case]:
    """At most `count` cases of each kind. Each file gives one before any gives a second.

    Args:
        files: path and text.
        corpus: HELD_OUT or GENERAL.
        count: number of cases of each kind.
    """
    cases = []
    for kind in KINDS:
        holes = [(path, text, _holes(kind, path, text)) for path, text in files]
        of_kind: list[Case] = []
        while holes and len(of_kind) < count:
            remaining = []
            for path, text, of_file in holes:
                if len(of_kind) < count and (hole := next(of_file, None)) is not None:
                    start, end = hole
                    of_kind.append(Case(corpus, kind, path, text[:start], text[start:end], text[end:]))
                    remaining.append((path, text, of_file))
            holes = remaining
        cases += of_kind
    return cases


def _holes(kind: str, path: str, text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of the holes of a file, in random order, none twice. Of spans, at most one for 400 characters."""
    digest = hashlib.blake2b(f"{kind} {path}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    if kind == LINE:
        lines = text.splitlines(keepends=True)
        ends = np.cumsum([len(line) for line in lines])
        for index in rng.permutation(len(lines)):
            line = lines[index].strip()
            if LINE_CHARACTERS[0] <= len(line) <= LINE_CHARACTERS[1] and any(map(str.isalpha, line)):
                yield int(ends[index]) - len(lines[index]), int(ends[index])
        return
    shortest, longest = map(math.log, SPAN_CHARACTERS)
    for _ in range(len(text) // 400 + 1):
        length = round(math.exp(rng.uniform(shortest, longest)))
        if length < len(text):
            start = int(rng.integers(0, len(text) - length + 1))
            if len(text[start : start + length].strip()) >= SPAN_CHARACTERS[0] / 2:
                yield start, start + length


def encoded(cases: Sequence[Case], tokenizer: Tokenizer, length: int) -> list[gold.GoldText]:
    """The cases as token ids, each as a benchmark that is named by its index. Long prompts are cut around the hole.

    Args:
        cases: the cases.
        tokenizer: a tokenizer with infilling ids.
        length: maximum number of tokens of a prompt and its middle.
    """
    characters = length * CHARACTERS_PER_TOKEN
    problems = [
        gold.GoldProblem(str(index), Infilling(case.prefix[-characters:], case.suffix[:characters], "psm"), case.middle)
        for index, case in enumerate(cases)
    ]
    return gold.encoded(problems, tokenizer, length)
