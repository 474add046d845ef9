"""Quality filters of a training set, in addition to those of tasks/sources/filters.py, counted by name.

too_short, licence                                      any document
content_language, mean_line, alphanumeric, minified     code
"""

import re
from collections.abc import Sequence

import numpy as np

from codellama_jax.config.curation import Quality
from codellama_jax.config.data import Filters
from tasks.sources import filters, languages
from tasks.sources.filters import LeftOut

# The setting to change if a filter excludes too much.
BINDINGS = {
    "too_short": "Quality.shortest",
    "licence": "Quality.licences",
    "content_language": "Quality.content_language",
    "mean_line": "Quality.mean_line",
    "alphanumeric": "Quality.alphanumeric",
    "minified": "Quality.minified",
}

_ALPHANUMERIC = np.array([chr(byte).isalnum() if byte < 128 else byte >= 0xC0 for byte in range(256)])
_CONTINUATION = range(0x80, 0xC0)  # bytes of UTF-8 that do not start a character
# Byte -> 1 starts an alphanumeric character, 0 another character, 2 continues a character.
_BYTE_CLASSES = bytes(2 if byte in _CONTINUATION else int(_ALPHANUMERIC[byte]) for byte in range(256))
_MIN_MINIFIED = 500  # characters: shorter texts are a line or two

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
_HEAD = 1 << 14  # characters at the start from which the language is detected


def check_document(text: str, licence: str, quality: Quality) -> None:
    """Raises LeftOut if a document has none of the allowed licences, or is too short.

    Args:
        licence: "" if it is unknown. Of alternatives ("MIT, Apache-2.0" or "MIT OR GPL-3.0") one must be allowed; of
            "MIT AND GPL-3.0" all must be.
    """
    if quality.licences is not None and not _allowed(licence, quality.licences):
        raise LeftOut("licence")
    limit = quality.shortest
    # for most documents the start is long enough
    if limit is not None and all(len("".join(part.split())) < limit for part in (text[: 8 * limit], text)):
        raise LeftOut("too_short")


def check_code(text: str, language: str, quality: Quality, settings: Filters | None = None) -> None:
    """Raises LeftOut if a document of code fails a quality filter.

    Args:
        language: from the document's extension or record; "" if it is unknown.
        settings: apply tasks.sources.filters.check_code with these settings first; None skips it.
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
        kinds = data.translate(_BYTE_CLASSES)
        if kinds.count(1) < quality.alphanumeric * (len(kinds) - kinds.count(2)):
            raise LeftOut("alphanumeric")
    if quality.minified and is_minified(text):
        raise LeftOut("minified")


def language_of(text: str, language: str) -> str:
    """The language of a document from its content, where the extension is ambiguous; "" if the content contradicts it.

    A .h file with C++ syntax is C++; a .pl file with clauses and without Perl syntax is "Prolog"; a file without a
    language is that of its shebang line. Markup, and a script whose shebang names an unrelated language, give "".
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
    if language == "C" and _CPP.search(text, 0, _HEAD):
        return "C++"
    if language == "Perl" and _PROLOG.search(text, 0, _HEAD) and not _PERL.search(text, 0, _HEAD):
        return "Prolog"
    return language


def is_minified(text: str) -> bool:
    """Whether less than a twentieth of the characters are white space, which does not happen in hand-written code."""
    if len(text) < _MIN_MINIFIED:
        return False
    return 20 * sum(map(text.count, " \n\t")) < len(text)


def _mean_line(text: str) -> float:
    """The mean length of the lines that are not blank."""
    lengths = [len(line) for line in text.split("\n") if line and not line.isspace()]
    return sum(lengths) / max(1, len(lengths))


def _allowed(licence: str, licences: Sequence[str]) -> bool:
    allowed = {name.strip().lower() for name in licences}
    if not licence.strip():
        return "" in allowed
    alternatives = re.split(r",|;|\bOR\b", licence.replace("(", " ").replace(")", " "), flags=re.IGNORECASE)
    required = (re.split(r"\bAND\b", alternative, flags=re.IGNORECASE) for alternative in alternatives)
    return any(all(name.strip().lower() in allowed for name in names) for names in required)
