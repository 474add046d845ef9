"""Classes of characters beyond ASCII by Unicode script: where a text has tokens without spaces between words.

    word         letters, digits and marks of scripts that separate words by spaces (Latin, Cyrillic, Greek, Arabic,
                 Devanagari, Hangul, ...), and every character that has no other class: a run of them is one token
    character    Han, Hiragana, Katakana, Bopomofo, Yi, Tangut, Thai, Lao, Khmer, Myanmar, Tai: a token each
    mark         vowels, tones and other marks of these scripts, variation selectors: part of the token before
    joiner       marks after which the next character is part of the same token (the Khmer coeng)
    punctuation  punctuation, symbols, emoji: a token each
    separator    spaces and invisible controls

A run of Hangul that is longer than any word is text written without spaces: a token for each syllable.

The ranges are given here and not taken from unicodedata, because its classes depend on the version of Python, and the
same text must give the same tokens on all machines. Sources: Scripts.txt and DerivedGeneralCategory.txt of Unicode 15.
"""

import functools

import numpy as np

# Values of the classes. An odd value is part of a word; the ASCII classes of ngram_hash are 0, 1 and 2.
SEPARATOR, WORD, PUNCTUATION, CHARACTER, MARK, JOINER = 0, 1, 2, 4, 8, 24
LONGEST_HANGUL = 16  # syllables of a run that is taken for a word

_RANGES = {
    SEPARATOR: "80-A0 F0B-F0C 1361 1680 180E 2000-200B 200E-200F 2028-202F 205F-2064 2066-206F 3000 FEFF FFF9-FFFB",
    PUNCTUATION: """
        A1-A9 AB-AC AE-B1 B4 B6-B8 BB BF D7 F7 37E 387 55A-55F 589-58F 5BE 5C0 5C3 5C6 5F3-5F4 606-60F 61B 61D-61F
        66A-66D 6D4 700-70D 7F7-7F9 830-83E 964-965 970 DF4 E3F E4F E5A-E5B F01-F0A F0D-F14 F3A-F3D F85 104A-104F 10FB
        1360 1362-1368 1400 166E 169B-169C 16EB-16ED 1735-1736 17D4-17D6 17D8-17DB 1800-180A 1944-1945 1C3B-1C3F
        1C7E-1C7F 2010-2027 2030-205E 20A0-20CF 2190-245F 249C-24E9 2500-2775 2794-2BFF 2E00-2E2E 2E30-2E7F 3001-3004
        3008-3020 3030 303D-303F 30A0 30FB A4FE-A4FF A60D-A60F A673 A67E A6F2-A6F7 A874-A877 A8CE-A8CF AADE-AADF
        FE10-FE19 FE30-FE6F FF01-FF0F FF1A-FF20 FF3B-FF3E FF40 FF5B-FF65 FFE0-FFEE FFFC-FFFD 16FE2
        1F000-1F0FF 1F10D-1F3FA 1F400-1FAFF
        """,
    CHARACTER: """
        E01-E30 E32-E33 E40-E46 E81-EB0 EB2-EB3 EBD-EC6 EDC-EDF 1000-102A 103F 1050-1055 105A-105D 1061 1065-1066
        106E-1070 1075-1081 108E 109E-109F 1780-17B3 17D7 17DC 1950-1974 1980-19C9 1A20-1A54 2E80-2FDF 3005-3007
        3021-3029 3031-3035 3038-303C 3041-3096 309D-309F 30A1-30FA 30FC-312F 3190-33FF 3400-4DBF 4E00-A48C A490-A4C6
        A9E0-A9E4 A9E6-A9EF A9FA-A9FE AA60-AA7A AA7E-AAAF AAB1 AAB5-AAB6 AAB9-AABD AAC0 AAC2-AADD F900-FAFF FF66-FF9D
        16FE0-16FE1 16FE3 17000-18CFF 18D00-18D08 1AFF0-1B2FF 20000-3FFFD
        """,
    MARK: """
        AD E31 E34-E3A E47-E4E EB1 EB4-EBC EC8-ECE 102B-1038 103A-103E 1056-1059 105E-1060 1062-1064 1067-106D 1071-1074
        1082-108D 108F 109A-109D 17B4-17D1 17D3 17DD 1A55-1A5F 1A61-1A7F 20D0-20FF 302A-302F 3099-309C A9E5 AA7B-AA7D
        AAB0 AAB2-AAB4 AAB7-AAB8 AABE-AABF AAC1 FE00-FE0F FF9E-FF9F 16FE4-16FF1 1F3FB-1F3FF E0100-E01EF
        """,
    JOINER: "1039 17D2 1A60",
}
_FIRST_SYLLABLE, _LAST_SYLLABLE = 0xAC00, 0xD7A3


def ranges(kind: int) -> list[tuple[int, int]]:
    """The first and last code points of the ranges of a class other than WORD."""
    bounds = (entry.partition("-") for entry in _RANGES[kind].split())
    return [(int(first, 16), int(last or first, 16)) for first, _, last in bounds]


def classify(data: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Sets the classes of the characters beyond ASCII, and finds where tokens begin.

    Args:
        data: text in UTF-8, half surrogates included, uint8 [bytes].
        kinds: the class of each byte, uint8 [bytes]: those of ASCII are read, the others are written.

    Returns:
        Whether a token begins at each byte: bool [bytes].
    """
    leads, characters = _characters(data)
    classes = _table()[characters]
    _split_long_hangul(leads, characters, classes)
    lengths = 2 + (data[leads] >= 0xE0).astype(np.int8) + (data[leads] >= 0xF0)
    for offset in range(4):
        inside = lengths > offset
        kinds[leads[inside] + offset] = classes[inside]
    begins = kinds != SEPARATOR
    in_word = kinds == WORD
    begins[1:] &= ~(in_word[1:] & in_word[:-1])
    begins[(data & 0xC0) == 0x80] = False  # inside a character
    later = leads > 0
    leads, classes = leads[later], classes[later]
    before = kinds[leads - 1]
    joined = (classes & MARK != 0) & (before != SEPARATOR) | (classes == CHARACTER) & (before == JOINER)
    begins[leads[joined]] = False
    return begins


def _characters(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the characters beyond ASCII begin, int64 [characters], and their code points, int32 [characters]."""
    leads = np.flatnonzero(data >= 0xC0)
    first = data[leads].astype(np.int32)
    bits = [data[np.minimum(leads + offset, len(data) - 1)].astype(np.int32) & 0x3F for offset in (1, 2, 3)]
    two = (first & 0x1F) << 6 | bits[0]
    three = (first & 0x0F) << 12 | bits[0] << 6 | bits[1]
    four = (first & 0x07) << 18 | bits[0] << 12 | bits[1] << 6 | bits[2]
    return leads, np.where(first < 0xE0, two, np.where(first < 0xF0, three, four))


def _split_long_hangul(leads: np.ndarray, characters: np.ndarray, classes: np.ndarray) -> None:
    """Makes a CHARACTER of each syllable of a run of Hangul that is longer than LONGEST_HANGUL."""
    hangul = np.flatnonzero((characters >= _FIRST_SYLLABLE) & (characters <= _LAST_SYLLABLE))
    if len(hangul) <= LONGEST_HANGUL:
        return
    begins = np.flatnonzero(np.diff(leads[hangul], prepend=-9) != 3)
    lengths = np.diff(begins, append=len(hangul))
    classes[hangul[np.repeat(lengths > LONGEST_HANGUL, lengths)]] = CHARACTER


@functools.cache
def _table() -> np.ndarray:
    """The class of every code point, uint8 [0x110000]; those of ASCII are not used."""
    table = np.full(0x110000, WORD, np.uint8)
    for kind in _RANGES:
        for first, last in ranges(kind):
            table[first : last + 1] = kind
    return table
