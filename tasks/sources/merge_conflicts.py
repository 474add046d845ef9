"""Merge conflicts: files that were stored with the markers that version control writes into them.

    <<<<<<< ours
    =======
    >>>>>>> theirs

All three must begin a line, in this order, so that an underlined heading (=======) or a marker that is quoted in a
test is no conflict. In prose, markers in a block of code are an example: documentation of git has them.
"""

import itertools
import re

_BEGIN = re.compile(r"(?:\A|(?<=[\r\n]))<{7}(?=[ \t\r\n])")
_MIDDLE = re.compile(r"(?<=[\r\n])={7}(?=[\r\n])")
_END = re.compile(r"(?<=[\r\n])>{7}(?=[ \t\r\n]|\Z)")
_FENCE = re.compile(r"(?:\A|(?<=[\r\n]))[ \t]{0,3}(`{3,}|~{3,}|-{4,}|\.{4,})")


def has_conflict(text: str, prose: bool = False) -> bool:
    """Whether a text has an unresolved merge conflict.

    Args:
        text: the text.
        prose: whether it is a document, in which a conflict inside a fenced or delimited block is an example.
    """
    if "<<<<<<<" not in text or ">>>>>>>" not in text:  # faster than the pattern
        return False
    begins = [match.start() for match in _BEGIN.finditer(text)]
    for begin, end in itertools.pairwise([*begins, len(text)]):
        middle = _MIDDLE.search(text, begin, end)
        if middle and _END.search(text, middle.end(), end) and not (prose and _in_block(text, begin)):
            return True
    return False


def _in_block(text: str, position: int) -> bool:
    """Whether a position is inside a block of Markdown (``` or ~~~) or AsciiDoc (---- or ....)."""
    fence = ""
    for match in _FENCE.finditer(text, 0, position):
        if not fence:
            fence = match[1]
        elif match[1][0] == fence[0] and len(match[1]) >= len(fence):
            fence = ""
    return bool(fence)
