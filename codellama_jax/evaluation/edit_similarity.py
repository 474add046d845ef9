"""Edit similarity of two texts: 1 minus their Levenshtein distance over the length of the longer one."""


def edit_similarity(a: str, b: str) -> float:
    """Between 0, nothing in common, and 1, the same text. Two empty texts are the same."""
    longest = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longest if longest else 1.0


def edit_distance(a: str, b: str) -> int:
    """The smallest number of characters to insert, remove or replace.

    One column of the table of distances is a pair of integers, whose bits say where it rises and falls (Myers 1999, "A
    fast bit-vector algorithm for approximate string matching", in the form of Hyyro 2003).
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for index, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << index
    mask, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    rises, falls, distance = mask, 0, len(a)
    for character in b:
        equal = places.get(character, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        right_rises = falls | ~(diagonal | rises)
        right_falls = rises & diagonal
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = right_rises << 1 | 1
        right_falls <<= 1
        rises = (right_falls | ~(diagonal | right_rises)) & mask
        falls = right_rises & diagonal & mask
    return distance
