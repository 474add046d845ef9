"""E-mail addresses of persons, and passwords in URLs: where a text has them.

An address needs a top-level domain in which people have addresses (top_level_domains.py), and a place where an address
can stand. In languages with an infix operator @ (comments_and_strings.py) that is a comment or a string; elsewhere it
is any place but the right-hand side of an assignment or an operand whose domain looks like an attribute
(`y = x@w.to`). Not addresses of persons:

    this@Outer.name, return@label               labels of Kotlin
    git@github.com:o/r.git, joe@host.org:file   remotes and remote files, and what follows ssh or sftp
    ssh://joe@host.org/                         logins in URLs
    package@1.2.dev, icon@2x.tv                 versions and scales
    $user@corp.com, %s@corp.com, "#{x@y.com}"   templates
    @Model.First@Model.info, @joe@corp.com      code in a template, and handles
    me@example.com, x@host.local                reserved domains (RFC 2606)
"""

import re
from collections.abc import Iterator

from tasks.curation.clean import top_level_domains
from tasks.curation.clean.comments_and_strings import CommentsAndStrings, has_infix_at

Span = tuple[int, int, str]  # begin, end, kind

_BEFORE = 220  # characters before the @ that decide

# Matched backwards. Text in a script without spaces before an address is not part of it, unless it is all there is.
_LOCAL_PART = re.compile(
    r"(?:[\w.%+-](?<![\u0e00-\u10ff\u1100-\u1dbf\u2e80-\ud7ff\uf900-\uffdc])){1,64}|[\w.%+-]{1,64}"
)
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[a-z]{2,13}|[A-Z]{2,13})"
    # E<gt> ends an address in Perl's documentation, _ one in Markdown
    r"(?:(?=E<|__?(?!\w))|(?![\w@(\[=]|\.(?:[a-z0-9_]|[A-Z]\b)))"
)
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net|edu))?|test|invalid|localhost|local)$", re.IGNORECASE)
_VERSION = re.compile(r"v?\d+(?:\.\d[\w-]*)+\.|v?\d+\.(?!com$|net$|org$|cn$)|[1-4]x\.", re.IGNORECASE)
_SERVICE_USERS = frozenset(("git", "hg", "svn"))
_LABELLED = frozenset(("this", "super", "return", "break", "continue"))  # Kotlin
_LOGIN_COMMAND = re.compile(r"\b(?:ssh|sftp|mosh|sshfs|ssh-copy-id)(?:[ \t]+-\w(?:[ \t]*[\w./~=:]+)?)*[ \t]+$")
_COPY_COMMAND = re.compile(r"\b(?:scp|rsync)\b[^\n]*$")
_REMOTE_PATH = re.compile(r":(?:[~/]|\d{2,5}[:/]|\.{1,2}/|[\w.-]+/|[\w-]+\.git\b)|/[\w.-]+/|//")
_ESCAPE = re.compile(r"u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[0-7]{1,3}|[abefnrtv]")  # after a backslash
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}|%[-+ #0]{0,2}\d{0,3}[a-z]")  # of a URL, of printf
_HOLE = re.compile(r"[$#]\{[^{}\"']*$")  # an unclosed ${ or #{: code inside a string
_F_STRING_HOLE = re.compile(r"(?<!\{)(?:\{\{)*\{[^{}\"']*$")
_F_STRING = re.compile(r"[rb]?f[rb]?[\"']", re.IGNORECASE)
_SHORT_STRING = re.compile(r"[A-Za-z]{0,2}(?:\"(?!\"\")|'(?!''))")  # not a docstring
_OPERATOR_BEFORE = re.compile(r"(?:[=+]|\breturn|\w[ \t]*\*|\w\()[ \t]*$")
_OPERATOR_AFTER = re.compile(r"[ \t]*(?:[+*/][ \t]*[\w(]|@[ \t]*\w)")
_FIELD_OF_ADDRESS = re.compile(
    r"(?:mail|author|contact|maintain|owner|user|login|admin|from|to|cc|sender|recipient|address|account|support)"
    r"\w*[\"'\]]*[ \t]*(?:=>|:=|[:=])[ \t]*$",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>{}$]{0,64}:(?P<password>[^\s/:@\"'<>{}$]{3,128})$")
_LOGIN = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@\"'<>]{1,64}$")


def find(text: str, language: str, placeholder: re.Pattern[str]) -> Iterator[Span]:
    """The e-mail addresses of a text (kind "email"), and the passwords of its URLs (kind "password").

    Args:
        language: of the code; "" for prose, or if it is not known.
        placeholder: what a password that is none contains.
    """
    places: CommentsAndStrings | None = None
    at = text.find("@")
    while at >= 0:
        if at and not text[at - 1].isspace():
            before = text[max(0, at - _BEFORE) : at]
            credentials = _CREDENTIALS.search(before) if "://" in before else None
            if credentials:
                if not placeholder.search(credentials["password"]):
                    begin, end = credentials.span("password")
                    yield at - len(before) + begin, at - len(before) + end, "password"
            elif span := _address(text, at, before):
                if has_infix_at(language):
                    places = places or CommentsAndStrings(text, language)
                    if _in_text(text, span, places):
                        yield span
                else:
                    yield span
        at = text.find("@", at + 1)


def _address(text: str, at: int, before: str) -> Span | None:
    """The address around an @, wherever it stands."""
    domain = _DOMAIN.match(text, at + 1)
    if not domain:
        return None
    top = domain[0].rpartition(".")[2].lower()
    if top not in top_level_domains.ALL or _RESERVED.search(domain[0]) or _is_version(domain[0]):
        return None
    local = before.removesuffix("\\")  # joe\\@corp.com in a string of Perl
    begin = _begin(local)
    if begin is None:
        return None
    after = text[domain.end() : domain.end() + 80]
    name, start, before = local[begin:], at - len(before) + begin, before[:begin]
    if after.startswith("_"):
        opening = len(name) - len(name.lstrip("_"))
        if not opening:
            return None
        name, start = name[opening:], start + opening
    if before.endswith("@"):
        return None
    if name in _SERVICE_USERS or name in _LABELLED or _is_login(before, after):
        return None
    if top not in top_level_domains.UNAMBIGUOUS and _is_operand(name, domain[0], before, after):
        return None
    return start, domain.end(), "email"


def _begin(before: str) -> int | None:
    """Where the local part begins in the text before an @; None if there is none, or if it is a template's."""
    local = _LOCAL_PART.match(before[: -65 - 1 : -1])
    if not local or before.endswith((".", "%")):
        return None
    begin = len(before) - len(local[0])
    if begin and before[begin - 1] == "\\" and (escape := _ESCAPE.match(before, begin)):
        begin = escape.end()
    elif begin and before[begin - 1] == "\\":
        return None  # a regular expression
    while code := _PERCENT.match(before, begin):
        if code[0][-1].islower() and len(code[0]) == 2:
            return None  # %s@corp.com
        begin = code.end()
    while begin < len(before) and before[begin] in ".%+-":
        begin += 1
    if begin == len(before) or before[:begin].endswith(("$", "}", "${", "#{")):
        return None
    return begin


def _is_version(domain: str) -> bool:
    return _VERSION.match(domain) is not None


def _is_login(before: str, after: str) -> bool:
    """Whether a user of a host follows a login command or a URL's scheme, or precedes the path of a remote file."""
    login = "://" in before and _LOGIN.search(before + "x") is not None
    remote = _REMOTE_PATH.match(after) is not None or (
        after.startswith(":") and _COPY_COMMAND.search(before) is not None
    )
    return login or remote or _LOGIN_COMMAND.search(before) is not None


def _is_operand(name: str, domain: str, before: str, after: str) -> bool:
    """Whether an address with an ambiguous domain stands where an operand does."""
    if "-" in domain or not name.replace(".", "_").isidentifier() or _FIELD_OF_ADDRESS.search(before):
        return False
    return _OPERATOR_BEFORE.search(before) is not None or _OPERATOR_AFTER.match(after) is not None


def _in_text(text: str, span: Span, places: CommentsAndStrings) -> bool:
    """Whether a span is in a comment or a string, and not in code that is embedded in the string."""
    begin, end, _ = span
    place = places.at(begin)
    if place is None:
        return False
    opening = text[place[0] : begin]
    if _HOLE.search(opening) or (_F_STRING.match(opening) and _F_STRING_HOLE.search(opening)):
        return False
    if _SHORT_STRING.match(opening):
        return True
    name, domain = text[begin:end].split("@")  # x@w.id in a comment on a product of matrices
    one_letter = len(name) == 1 and domain[1] == "."  # x@w.de
    if len(name) > 2 or (domain.rpartition(".")[2].lower() in top_level_domains.UNAMBIGUOUS and not one_letter):
        return True
    before = text[max(0, begin - _BEFORE) : begin]
    return before.endswith(("<", "{")) or _FIELD_OF_ADDRESS.search(before) is not None
