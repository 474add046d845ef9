"""Files that are nearly equal to a held-out one: a model that is trained on a copy has seen the file it is measured on.

Two files are compared by their sets of distinct lines, without indentation and without lines that say little, such as a
closing bracket. A build compares n-grams of tokens of all pairs (tasks/curation/dedup); here only pairs with a held-out
file matter, and a repository is compared each time it is opened.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

SIMILARITY = 0.5  # of the lines of both files (Jaccard), from which on a file is left out (our choice)
LEAST_CHARACTERS = 4  # of a line that counts


def similar_files(held_out: Mapping[str, str], others: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Path of a file that is similar to a held-out one -> the path of that one, the most similar.

    Args:
        held_out: path -> text of the held-out files.
        others: path and text of the other files.
    """
    lines = {path: _lines(text) for path, text in held_out.items()}
    holders = defaultdict[str, list[str]](list)
    for path, of_path in lines.items():
        for line in of_path:
            holders[line].append(path)
    found: dict[str, str] = {}
    for path, text in others:
        own = _lines(text)
        shared = Counter(holder for line in own for holder in holders.get(line, ()))
        if shared:
            similarity = {holder: n / (len(own) + len(lines[holder]) - n) for holder, n in shared.items()}
            best = max(sorted(similarity), key=similarity.__getitem__)
            if similarity[best] >= SIMILARITY:
                found[path] = best
    return found


def _lines(text: str) -> set[str]:
    return {line for line in map(str.strip, text.splitlines()) if len(line) >= LEAST_CHARACTERS}
