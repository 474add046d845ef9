"""Texts of natural languages, made of random words, and edited copies of them.

A text is made of words of a vocabulary with Zipf's distribution. The words have the letters and about the lengths of
the language, and are written with or without spaces between them. So the words of a text are known for every language,
and the similarity of two texts, the Jaccard similarity of their sets of 5-grams of words, does not depend on how a
program finds words.
"""

import dataclasses
import random

import numpy as np

_KANJI = [*range(0x4E00, 0x5A00)]
_HIRAGANA, _KATAKANA = [*range(0x3042, 0x3094)], [*range(0x30A2, 0x30F4)]


@dataclasses.dataclass(frozen=True)
class Language:
    """How a language is written.

    Attributes:
        letters: alphabets, one of which a word is made of.
        lengths: of a word, and their weights.
        space: between words.
        stop: at the end of a sentence.
    """

    letters: tuple[str, ...]
    lengths: dict[int, float]
    space: str
    stop: str


def _alphabet(points: list[int]) -> str:
    return "".join(map(chr, points))


_LONG = {2: 0.15, 3: 0.2, 4: 0.2, 5: 0.15, 6: 0.1, 7: 0.1, 8: 0.05, 9: 0.05}
LANGUAGES = {
    "English": Language(("abcdefghijklmnopqrstuvwxyz",), _LONG, " ", ". "),
    "Russian": Language(("абвгдежзийклмнопрстуфхцчшщыьэюя",), _LONG, " ", ". "),
    "Korean": Language((_alphabet([*range(0xAC00, 0xB400, 4)]),), {1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}, " ", ". "),
    "Chinese": Language((_alphabet(_KANJI),), {1: 0.45, 2: 0.45, 3: 0.07, 4: 0.03}, "", "。"),
    "Japanese": Language(
        (_alphabet(_KANJI), _alphabet(_HIRAGANA), _alphabet(_HIRAGANA), _alphabet(_KATAKANA)),
        {1: 0.3, 2: 0.4, 3: 0.2, 4: 0.1},
        "",
        "。",
    ),
    "Thai": Language((_alphabet([*range(0xE01, 0xE2F)]) + "ะาำเแโใไัิีึืุู่้์" * 2,), _LONG, "", " "),
    "Khmer": Language((_alphabet([*range(0x1780, 0x17A3), *range(0x17B6, 0x17C9)]),), _LONG, "", "។"),
    "Myanmar": Language((_alphabet([*range(0x1000, 0x1022), *range(0x102B, 0x1039)]),), _LONG, "", "။"),
}

Text = list[list[int]]  # sentences of words, each word its rank in the vocabulary


class Writer:
    """Makes texts of a language."""

    def __init__(self, language: Language, rng: random.Random, size: int = 8_000):
        self.language, self._rng = language, rng
        lengths, weights = list(language.lengths), list(language.lengths.values())
        drawn = rng.choices(lengths, weights, k=size)
        self.vocabulary = ["".join(rng.choices(rng.choice(language.letters), k=length)) for length in drawn]
        self._weights = np.cumsum(1 / (np.arange(size) + 3)).tolist()

    def words(self, count: int) -> list[int]:
        """Random words."""
        return self._rng.choices(range(len(self.vocabulary)), cum_weights=self._weights, k=count)

    def text(self, sentences: int) -> Text:
        """A random text."""
        return [self.words(self._rng.randrange(6, 24)) for _ in range(sentences)]

    def edited(self, text: Text, rate: float) -> Text:
        """A copy in which a share of the words is replaced, left out or inserted, and now and then a sentence."""
        copy: Text = []
        for sentence in text:
            words: list[int] = []
            for word in sentence:
                kind = self._rng.random() / rate
                if kind < 0.7:
                    words += self.words(1)
                elif kind < 0.85:
                    words += [word, *self.words(1)]
                elif kind >= 1:
                    words.append(word)
            copy.append(words)
            kind = self._rng.random() / rate
            if kind < 0.5:
                copy.pop()
            elif kind < 1:
                copy.append(self.words(12))
        return copy

    def written(self, text: Text) -> str:
        """The text as it is written, in paragraphs of five sentences."""
        sentences = [self.language.space.join(self.vocabulary[word] for word in words) for words in text]
        paragraphs = [sentences[begin : begin + 5] for begin in range(0, len(sentences), 5)]
        return "\n\n".join("".join(sentence + self.language.stop for sentence in group) for group in paragraphs)


def similarity(a: Text, b: Text) -> float:
    """The Jaccard similarity of the sets of 5-grams of words; the end of a sentence counts as a word."""

    def grams(text: Text) -> set[tuple[int, ...]]:
        words = [word for sentence in text for word in [*sentence, -1]]
        return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}

    first, second = grams(a), grams(b)
    return len(first & second) / len(first | second)
