"""The comments and strings of code in languages that have an infix operator @.

Only there can `name@object.attribute` be code: the product of matrices in Python, a label in Kotlin, a slot in R, a
pattern in Scala, Haskell and Rust, the concatenation of lists in OCaml, a node of Erlang, a database link in SQL, a
version of a symbol in assembly. In other languages an address outside comments and strings is text too: of a
here-document, JSX, a template.

A scanner for each family of languages skips from one comment or string to the next. It does not parse: a nested
comment ends at the first end, and a string inside the braces of another string ends that string.
"""

import bisect
import re

_HASH = r"\#[^\n]*"
_SLASHES = r"//[^\n]*|/\*.*?(?:\*/|\Z)"
_DASHES = r"--[^\n]*"
_TRIPLE = r'"""(?:\\.|.)*?(?:"""|\Z)'
_LINE = r'"(?:\\.|[^"\\\n])*"'  # a string that ends on its line
_LINES = r'"(?:\\.|[^"\\])*"'  # one that may not
_CHARACTER = r"'(?:\\[^'\n]{1,8}|[^'\\\n])'"  # not a lifetime or a type variable, which has one quote

_SYNTAX = {
    ("Python",): (rf"(?i:\b[rbuf]{{1,2}})?(?:{_TRIPLE}|'''(?:\\.|.)*?(?:'''|\Z)|{_LINE}|'(?:\\.|[^'\\\n])*')|{_HASH}"),
    ("Kotlin", "Scala"): "|".join((_SLASHES, _TRIPLE, _LINE, _CHARACTER)),
    ("Rust",): "|".join((_SLASHES, r'r(?P<hashes>\#+)".*?(?:"(?P=hashes)|\Z)', _LINES, _CHARACTER)),
    ("R",): "|".join((_HASH, _LINES, r"'(?:\\.|[^'\\])*'")),
    ("Haskell", "PureScript", "Elm", "Idris", "Agda", "Lean"): "|".join(
        (_DASHES, r"\{-.*?(?:-\}|\Z)|/-.*?(?:-/|\Z)", _LINES, _CHARACTER)
    ),
    ("OCaml", "F#", "Standard ML", "Coq", "Mathematica"): "|".join(
        (r"//[^\n]*|\(\*.*?(?:\*\)|\Z)", _TRIPLE, r"\{(?P<tag>[a-z_]*)\|.*?(?:\|(?P=tag)\}|\Z)", _LINES, _CHARACTER)
    ),
    ("Erlang",): "|".join((r"%[^\n]*", _LINES, r"'(?:\\.|[^'\\\n])*'")),
    ("Assembly",): "|".join((rf"[\#;!][^\n]*|@[ \t][^\n]*|{_SLASHES}", _LINE, r"'(?:\\.|[^'\\\n])*'")),
    ("SQL",): "|".join((_DASHES, r"/\*.*?(?:\*/|\Z)", r"'(?:\\.|''|[^'\\])*'", _LINES)),
}
_SCANNERS = {name: re.compile(syntax, re.DOTALL) for names, syntax in _SYNTAX.items() for name in names}


def has_infix_at(language: str) -> bool:
    """Whether code of the language can have an operator or label @ between two names."""
    return language in _SCANNERS


class CommentsAndStrings:
    """The spans of the comments and strings of a text in a language for which `has_infix_at` holds."""

    def __init__(self, text: str, language: str):
        self._spans = [match.span() for match in _SCANNERS[language].finditer(text)]
        self._begins = [begin for begin, _ in self._spans]

    def at(self, position: int) -> tuple[int, int] | None:
        """The span (begin, end) of the comment or string around a position; None if the position is code."""
        index = bisect.bisect_right(self._begins, position) - 1
        if index < 0 or position >= self._spans[index][1]:
            return None
        return self._spans[index]
