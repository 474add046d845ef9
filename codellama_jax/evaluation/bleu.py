"""Smoothed BLEU-4 of sentences, as CodeXGLUE scores docstrings (arXiv 2102.04664; Lin and Och, COLING 2004).

The normalisation is that of the script from Moses that CodeXGLUE uses, and the sums are in its order: its published
example gives the same value to the last digit.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from xml.sax.saxutils import unescape

ORDERS = 4  # n-grams of one to four tokens

# Patterns and replacements that separate tokens, applied in this order.
_SEPARATIONS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),  # punctuation without apostrophe, comma, dash and period
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),  # period and comma, unless a digit is before them
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),  # and unless a digit follows
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # a dash after a digit
)


def natural_language_bleu(prediction: str, reference: str) -> float:
    """Smoothed BLEU-4 of a sentence, between 0 and 1. Case is ignored.

    The mean over tasks, times 100, is the score of CodeXGLUE's code-to-text benchmark.
    """
    return smoothed_bleu(_normalized(_split(prediction)), _normalized(_split(reference)))


def code_bleu4(prediction: str, reference: str) -> float:
    """Smoothed BLEU-4 of a line of code, between 0 and 1. Tokens are words and single signs; case counts (ours)."""
    tokens = _words(prediction)
    return smoothed_bleu(tokens, _words(reference)) if tokens else 0.0


def smoothed_bleu(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU of two lists of tokens, where one is added to the counts of n-grams of two and more tokens."""
    logarithm = 0.0
    for order in range(1, ORDERS + 1):
        found, wanted = _ngrams(prediction, order), _ngrams(reference, order)
        correct = sum(min(count, wanted[ngram]) for ngram, count in found.items())
        smoothing = int(order > 1)
        guessed = max(len(prediction) - order + 1, 0)
        logarithm += math.log(correct + smoothing + sys.float_info.min)
        logarithm -= math.log(guessed + smoothing + sys.float_info.min)
    # The script adds one to both lengths, so that an empty prediction has a penalty.
    penalty = min(0, 1 - (len(reference) + 1) / (len(prediction) + 1))
    return math.exp(logarithm / ORDERS + penalty)


def _split(text: str) -> str:
    return " ".join(_words(text.strip().lower()))


def _words(text: str) -> list[str]:
    """Words, and signs one at a time."""
    return re.findall(r"\w+|[^\s\w]", text)


def _normalized(text: str) -> list[str]:
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    text = f" {unescape(text, {'&quot;': chr(34)})} ".lower()
    for pattern, replacement in _SEPARATIONS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + order]) for start in range(len(tokens) - order + 1))
