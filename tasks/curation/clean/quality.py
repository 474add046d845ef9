"""Which documents a training set does without, besides those of tasks/sources/filters.py. Each filter has a name, and
counts.

too_short, licence                                      any document
content_language, mean_line, alphanumeric, minified     code
and what tasks.sources.filters.check_code has                   code
"""

import re
from collections.abc import Sequence

import numpy as np

from codellama_jax.config.curation import Quality
from codellama_jax.config.data import Filters
from tasks.sources import filters, languages
from tasks.sources.filters import LeftOut

# What to change where a filter leaves out what it should not.
BINDINGS = {
    "too_short": "Quality.shortest",
    "licence": "Quality.licences",
    "content_language": "Quality.content_language",
    "mean_line": "Quality.mean_line",
    "alphanumeric": "Quality.alphanumeric",
    "minified": "Quality.minified",
}

_ALPHANUMERIC = np.array([chr(byte).isalnum() if byte < 128 else byte >= 0xC0 for byte in range(256)])
_TRAILING = range(0x80, 0xC0)  # bytes of UTF-8 that begin no character
_COUNTED = bytes(2 if byte in _TRAILING else int(_ALPHANUMERIC[byte]) for byte in range(256))
_SMALLEST_MINIFIED = 500  # characters: less is a line or two

_SHEBANG = re.compile(
    r"#![ \t]*(?:\S*/)?(?:env[ \t]+(?:-\S+[ \t]+|\w+=\S+[ \t]+)*)?(?P<program>[A-Za-z][A-Za-z+]*)[\d.]*(?=\s|$)"
)
_PROGRAMS = {"python": "Python", "pypy": "Python", "node": "JavaScript", "deno": "TypeScript", "ash": "Shell"}
_PROGRAMS |= {"ksh": "Shell", "julia": "Julia"}
_PROGRAMS |= {"dash": "Shell", "rscript": "R", "runhaskell": "Haskell", "escript": "Erlang", "luajit": "Lua"}
_MARKUP = re.compile(r"\s*<(?:\?xml|!doctype\b|html\b|svg\b|!--)", re.IGNORECASE)
_CPP = re.compile(
    r"^[ \t]*(?:class[ \t]+\w[^;{]*\{|namespace\b|template[ \t]*<|using[ \t]+\w|(?:public|private|protected):)"
    r"|\bstd::|^#[ \t]*include[ \t]*<(?:c?(?:string|vector|map|memory|iostream|algorithm|utility|functional))>",
    re.MULTILINE,
)
_PROLOG = re.compile(r"^:-[ \t]|^[a-z]\w*\([^()\n]*\)[ \t]*(?::-|\.[ \t]*$)", re.MULTILINE)
_PERL = re.compile(r"^[ \t]*(?:use[ \t]+[\w:]+|my[ \t]*[$@%(]|sub[ \t]+\w+|package[ \t]+[\w:]+)", re.MULTILINE)
_LOOKED_AT = 1 << 14  # characters of the beginning that say what the language is


def check_document(text: str, licence: str, quality: Quality) -> None:
    """Raises LeftOut if a document has none of the licences asked for, or is too short.

    Args:
        licence: "" where it is not known; "MIT, Apache-2.0", "MIT OR GPL-3.0" are several, of which one is enough;
            of "MIT AND GPL-3.0" all are needed.
    """
    if quality.licences is not None and not _allowed(licence, quality.licences):
        raise LeftOut("licence")
    limit = quality.shortest
    # of most documents the beginning is enough
    if limit is not None and all(len("".join(part.split())) < limit for part in (text[: 8 * limit], text)):
        raise LeftOut("too_short")


def check_code(text: str, language: str, quality: Quality, settings: Filters | None = None) -> None:
    """Raises LeftOut if a document of code is not fit to learn from.

    Args:
        language: by the document's extension or record; "" where it is not known.
        settings: those of tasks.sources.filters.check_code, which is asked first; None does not ask it.
    """
    if settings is not None:
        filters.check_code(text, language, settings)
    if quality.content_language and language and language_of(text, language) == "":
        raise LeftOut("content_language")
    if not text or text.isspace():
        return
    data = text.encode("utf-8", "surrogatepass")
    if quality.mean_line is not None and _mean_line(text) > quality.mean_line:
        raise LeftOut("mean_line")
    if quality.alphanumeric is not None:
        kinds = data.translate(_COUNTED)
        if kinds.count(1) < quality.alphanumeric * (len(kinds) - kinds.count(2)):
            raise LeftOut("alphanumeric")
    if quality.minified and is_minified(text):
        raise LeftOut("minified")


def language_of(text: str, language: str) -> str:
    """The language of a document's content, where its extension may say more than one; "" if it is not that at all.

    A .h is C++ if it has what C has not; a .pl that has clauses and no Perl is "Prolog"; a file without a language is
    what its first line (#!) says. What is markup is none of these, and a script of one language none of another.
    """
    program = _SHEBANG.match(text)
    if program:
        name = program["program"].lower()
        scripted = _PROGRAMS.get(name) or languages.canonical_name(name)
        if scripted in languages.LANGUAGES:
            related = {"JavaScript", "TypeScript"}
            same = not language or scripted == language or {scripted, language} <= related
            return (language or scripted) if same else ""
    if language not in ("", "PHP") and _MARKUP.match(text):
        return ""
    if language == "C" and _CPP.search(text, 0, _LOOKED_AT):
        return "C++"
    if language == "Perl" and _PROLOG.search(text, 0, _LOOKED_AT) and not _PERL.search(text, 0, _LOOKED_AT):
        return "Prolog"
    return language


def is_minified(text: str) -> bool:
    """Whether white space is less than a twentieth of the characters, which no code has that was written by hand."""
    if len(text) < _SMALLEST_MINIFIED:
        return False
    return 20 * sum(map(text.count, " \n\t")) < len(text)


def _mean_line(text: str) -> float:
    """The mean length of the lines that are not blank."""
    filled = [len(line) for line in text.split("\n") if line and not line.isspace()]
    return sum(filled) / max(1, len(filled))


def _allowed(licence: str, licences: Sequence[str]) -> bool:
    allowed = {name.strip().lower() for name in licences}
    if not licence.strip():
        return "" in allowed
    choices = re.split(r",|;|\bOR\b", licence.replace("(", " ").replace(")", " "), flags=re.IGNORECASE)
    every = ([name.strip().lower() for name in re.split(r"\bAND\b", choice, flags=re.IGNORECASE)] for choice in choices)
    return any(all(name in allowed for name in names) for names in every)
