"""Characters beyond ASCII are split into tokens by their script, in the same way on any version of Python."""

import itertools
import random
import unicodedata

import numpy as np
import pytest

from tasks.curation import scripts
from tasks.curation.decontaminate.tokens import tokenize
from tasks.curation.dedup.minhash import MinHash, jaccard, shingles, shingles_of, similarity, tokens

TOKENS = {
    "Chinese": ("我们在2024年学习Python语言。", [*"我们在", "2024", *"年学习", "Python", *"语言。"]),
    "Japanese": ("カタカナとひらがな、漢字。", [*"カタカナとひらがな、漢字。"]),
    "decomposed": ("か\u3099き ﾊﾞ", ["か\u3099", "き", "ﾊﾞ"]),
    "Thai": ("ภาษาไทยดีที่สุด", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย", "ด" + "ี", "ท" + "ี่", "ส" + "ุ", "ด"]),
    "Lao": ("ພາສາລາວ", [*"ພາສາລາວ"]),
    "Khmer": ("ខ្មែរ", ["ខ្មែ", "រ"]),
    "Myanmar": ("မြန်မာ", ["မြ", "န်", "မာ"]),
    "Korean": ("한국어는 띄어쓰기를 한다", ["한국어는", "띄어쓰기를", "한다"]),
    "Korean without spaces": ("가나다라마바사아자차카타파하거너더", [*"가나다라마바사아자차카타파하거너더"]),
    "French": ("L’été à Nîmes: «déjà vu»", ["L", "’", "été", "à", "Nîmes", ":", "«", "déjà", "vu", "»"]),
    "decomposed Latin": ("e\u0301te\u0301 x", ["e\u0301te\u0301", "x"]),
    "Vietnamese": ("Tiếng Việt", ["Tiếng", "Việt"]),
    "Russian": ("Привет, мир!", ["Привет", ",", "мир", "!"]),
    "Greek": ("Καλημέρα κόσμε", ["Καλημέρα", "κόσμε"]),
    "Arabic": ("مَرحبًا، عالم؟", ["مَرحبًا", "،", "عالم", "؟"]),
    "Persian": ("می\u200cخواهم", ["می\u200cخواهم"]),
    "Hebrew": ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
    "Hindi": ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
    "Tamil": ("வணக்கம் உலகம்", ["வணக்கம்", "உலகம்"]),
    "Tibetan": ("བོད་སྐད", ["བོད", "སྐད"]),
    "spaces": ("a\u00a0b\u3000c\u200bd\u2028e\ufefff", [*"abcdef"]),
    "emoji": ("ok👍🏽❤️→x", ["ok", "👍🏽", "❤️", "→", "x"]),
    "identifiers": ("größe_1 = naïve生活", ["größe_1", "=", "naïve", "生", "活"]),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_by_script(name: str):
    text, expected = TOKENS[name]
    assert tokens(text) == expected
    assert len(shingles(text, 1)) == len(set(expected))


def of_class(kind: int) -> str:
    return "".join(chr(first) + chr(last) for first, last in scripts.ranges(kind))


def test_the_vectorized_tokenizer_equals_the_pattern():
    rng = random.Random(0)
    kinds = (scripts.SEPARATOR, scripts.PUNCTUATION, scripts.CHARACTER, scripts.MARK, scripts.JOINER)
    classes = [*map(of_class, kinds), "aZ_9 \n\t\0.-[", "éжعहก한글각", "\ud800\udfff\U0010ffff", "가" * 20]
    texts = ["".join(rng.choice(rng.choice(classes)) for _ in range(rng.randrange(60))) for _ in range(600)]
    texts += ["각" * size + rng.choice(classes)[:1] for size in range(40)]
    for text, single, pairs in zip(texts, shingles_of(texts, 1), shingles_of(texts, 2), strict=True):
        words = tokens(text)
        assert len(single) == max(1, len(set(words)))
        assert len(pairs) == max(1, len(set(itertools.pairwise(words))))
        assert len(tokenize(text).begins) == len(tokens(text.lower()))


def test_the_classes_agree_with_unicode():
    """Characters that this version of Python knows."""
    allowed = {
        scripts.SEPARATOR: ("Z", "C", "Po"),
        scripts.PUNCTUATION: ("P", "S", "No", "Sk"),
        scripts.CHARACTER: ("Lo", "Lm", "So", "Nl", "No", "Mc"),
        scripts.MARK: ("M", "Cf", "Sk", "Lm"),
        scripts.JOINER: ("Mn",),
    }
    seen: set[int] = set()
    for kind, categories in allowed.items():
        for first, last in scripts.ranges(kind):
            points = range(first, last + 1)
            assert first >= 0x80 and not seen & set(points)
            seen |= set(points)
            for point in points:
                category = unicodedata.category(chr(point))
                assert category == "Cn" or category.startswith(categories), (hex(point), category, kind)
    for point in range(0x80, 0x3000):  # no space or punctuation of a common script is part of a word
        category = unicodedata.category(chr(point))
        if category.startswith("Z") or (category in ("Cc", "Po") and 0xA0 < point < 0x700):
            assert point in seen, hex(point)


# --- near-duplicates --------------------------------------------------------------------------------------------------

LETTERS = {
    "English": ("abcdefghijklmnopqrstuvwxyz", " ", 5),
    "Chinese": ("".join(map(chr, range(0x4E00, 0x5600))), "", 2),
    "Japanese": ("".join(map(chr, [*range(0x3042, 0x3094), *range(0x30A2, 0x30F4), *range(0x4E00, 0x5000)])), "", 3),
    "Thai": ("".join(map(chr, range(0xE01, 0xE2F))) + "ะาำเแโใไ" + "ิีึืุู่้" * 2, "", 5),
    "Lao": ("ກຂຄງຈສຊຍດຕຖທນບປຜຝພຟມຢຣລວຫອຮະາເແໂໃໄ", "", 5),
    "Khmer": ("".join(map(chr, [*range(0x1780, 0x17A3), *range(0x17B6, 0x17C6)])), "", 5),
    "Myanmar": ("".join(map(chr, [*range(0x1000, 0x1022), *range(0x102B, 0x1033)])), "", 5),
    "Korean": ("".join(map(chr, range(0xAC00, 0xB000))), " ", 3),
    "Korean without spaces": ("".join(map(chr, range(0xAC00, 0xB000))), "", 3),
    "Russian": ("абвгдежзийклмнопрстуфхцчшщъыьэюя", " ", 6),
    "Arabic": ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", " ", 5),
    "Hindi": ("कखगघचछजझटठडढणतथदधनपफबभमयरलवशषसहािीुूेैोौ", " ", 4),
}


@pytest.mark.parametrize("name", LETTERS)
def test_texts_that_differ_in_ten_words_of_ten_paragraphs_are_near_duplicates(name: str):
    letters, space, length = LETTERS[name]
    rng = random.Random(name)

    def word() -> str:
        return "".join(rng.choices(letters, k=length))

    def text(paragraphs: list[list[str]]) -> str:
        return "\n\n".join(space.join(words) for words in paragraphs)

    vocabulary = [word() for _ in range(2_000)]
    documents = [[rng.choices(vocabulary, k=100) for _ in range(10)] for _ in range(2)]
    edited = [[*words] for words in documents[0]]
    for words in edited:
        words[rng.randrange(100)] = word()
    first, second, other = (shingles(text(document)) for document in (documents[0], edited, documents[1]))
    assert 0.88 < jaccard(first, second) < 0.97 and jaccard(first, other) < 0.2
    a, b, c = map(MinHash().signature, (first, second, other))
    assert similarity(a, b) > 0.85 > 0.3 > similarity(a, c)


def test_ascii_does_not_depend_on_the_text_beside_it():
    """The two ways through the tokenizer give the same tokens for ASCII."""
    code = "def f(x):\n    return g(x, 'a-b')  # 1.5\n" * 50
    plain, mixed = shingles(code), shingles(code + "\n生\n")
    assert len(np.setdiff1d(plain, mixed)) == 0
