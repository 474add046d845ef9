"""Redaction: replaces secrets and personal e-mail addresses by placeholders.

    email        addresses of persons, in prose, comments and strings (tasks/curation/clean/addresses.py): <EMAIL>
    key          keys that services issue, by their format, and strings assigned to names such as api_key: <KEY>
    private_key  PEM and PGP blocks: <KEY>
    password     in URLs (scheme://user:password@host), and strings assigned to names such as password: <PASSWORD>

Not replaced: placeholders of secrets: words, "changeme", "${TOKEN}".

detect-secrets is not used because its plug-ins apply every rule to every line (0.1 MB per second) and report lines, not
the span to replace.
"""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from codellama_jax.config.curation import PLACEHOLDERS
from tasks.curation.clean import addresses
from tasks.curation.clean.addresses import Span

# Literal part -> format of the keys that services issue. A format is matched only in documents with the literal part.
_WORD_BEFORE, _WORD_AFTER = r"(?<![A-Za-z0-9_+/-])", r"(?![A-Za-z0-9_])"
_KEY_FORMATS = {
    literal.encode(): re.compile(_WORD_BEFORE + pattern + _WORD_AFTER)
    for literal, pattern in {
        "AKIA": r"AKIA[0-9A-Z]{16}",  # Amazon
        "ASIA": r"ASIA[0-9A-Z]{16}",
        "AIza": r"AIza[0-9A-Za-z_-]{35}",  # Google
        "GOCSPX-": r"GOCSPX-[0-9A-Za-z_-]{28}",
        "ya29.": r"ya29\.[0-9A-Za-z_-]{30,}",
        "AccountKey=": r"AccountKey=[0-9A-Za-z+/]{80,}={0,2}",  # Azure
        "github_pat_": r"github_pat_[0-9A-Za-z_]{36,}",
        "ghp_": r"ghp_[0-9A-Za-z]{36,}",
        "gho_": r"gho_[0-9A-Za-z]{36,}",
        "ghs_": r"ghs_[0-9A-Za-z]{36,}",
        "ghu_": r"ghu_[0-9A-Za-z]{36,}",
        "ghr_": r"ghr_[0-9A-Za-z]{36,}",
        "glpat-": r"glpat-[0-9A-Za-z_-]{20,}",
        "xox": r"xox[abeoprs]-[0-9]{6,}[0-9A-Za-z-]{10,}",  # Slack
        "hooks.slack.com/services/": r"(?:https://)?hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16,}",
        "_live_": r"[sr]k_live_[0-9A-Za-z]{16,}",  # Stripe
        "sk-": r"sk-(?=[0-9A-Za-z_-]*[A-Z])(?=[0-9A-Za-z_-]*[0-9])[0-9A-Za-z_-]{32,}",  # OpenAI, Anthropic
        "hf_": r"hf_[0-9A-Za-z]{30,}",  # Hugging Face
        "npm_": r"npm_[0-9A-Za-z]{36}",
        "pypi-A": r"pypi-A[0-9A-Za-z_-]{60,}",
        "SG.": r"SG\.[0-9A-Za-z_-]{20,24}\.[0-9A-Za-z_-]{39,50}",  # SendGrid
        "dop_v1_": r"dop_v1_[0-9a-f]{64}",  # DigitalOcean
        ":AA": r"[0-9]{8,10}:AA[0-9A-Za-z_-]{33}",  # Telegram
        "eyJ": r"eyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{16,}",  # JSON web tokens
    }.items()
}
_MIN_KEY = 16
_CONTEXT = 60  # characters before the last part of a key that contain its start
_IS_DELIMITER = bytes(not (chr(byte).isalnum() or byte in b"_-") if byte < 128 else 1 for byte in range(256))
_DIGIT = re.compile(rb"[0-9]")

_PRIVATE = "PRIVATE KEY"
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?P<type>[A-Z0-9 ]{0,30})PRIVATE KEY(?P<block> BLOCK)?-----(?P<body>(?:(?!-----).){60,20000}?)"
    r"-----END (?P=type)PRIVATE KEY(?(block) BLOCK)-----",
    re.DOTALL,
)
_KEY_MATERIAL = re.compile(r"[0-9A-Za-z+/=]{40}")

# Names of variables that hold secrets, in lower case, and the rest of the assignment of a string to such a name. The
# rest of a longer name may say that the string is not the secret: tokenizer, token_url, passwordField.
_NAMES = ("passw", "pwd", "secret", "token", "api_key", "apikey", "api-key", "access_key", "accesskey", "auth_key")
_NOT_SECRET = re.findall(
    r"\w+",
    "name type url uri path file dir folder field header regex regexp pattern class model endpoint prefix suffix format"
    " algorithm method backend page view label title message text hint help template",
)
_ASSIGNMENT = re.compile(
    r"(?!i[sz]|I[SZ]|(?:(?:[\w-]{0,40}[_-])?(?:"
    + "|".join(_NOT_SECRET + [word.upper() for word in _NOT_SECRET])
    + r")|[\w-]{0,40}(?:"
    + "|".join(map(str.capitalize, _NOT_SECRET))
    + r"))[sS]?(?![\w-]))"
    r"[\w-]{0,40}[\"'`]?\]?(?:\s{0,3}:\s{0,3}[\w.]{1,20})?\s{0,10}(?:=>|:=|[:=](?!=))\s{0,10}[bru]?"
    r"(?P<quote>[\"'`])(?P<value>[^\s\"'`\\]{6,256})(?P=quote)"
)
_RANDOM = re.compile(r"[0-9A-Za-z_+/=.~-]{20,}")  # shorter ones are mostly version numbers and digests
_PLACEHOLDER = re.compile(
    r"[<{$%*\[\]]|^(?:pwd|pass|pw)$|x{4}|X{4}|\.\.\.|0{6}|1{6}|EXAMPLE|"
    r"(?i:example|sample|dummy|fake|change_?me|placeholder|redacted|your|passw|secret|token|foobar|12345|abcd)"
)


def redact(text: str, kinds: Collection[str] = tuple(PLACEHOLDERS), language: str = "") -> tuple[str, Counter[str]]:
    """Replaces secrets and addresses; returns the text and how many of each kind were replaced.

    It is idempotent.

    Args:
        kinds: the keys of PLACEHOLDERS to replace.
        language: of code, which decides where addresses can stand; "" for prose, or if it is not known.
    """
    counts: Counter[str] = Counter()
    parts: list[str] = []
    done = 0
    for begin, end, kind in sorted(_spans(text, language), key=lambda span: (span[0], -span[1])):
        if kind not in kinds or begin < done:
            continue
        parts += (text[done:begin], PLACEHOLDERS[kind])
        counts[kind] += 1
        done = end
    return ("".join(parts) + text[done:] if parts else text), counts


def _spans(text: str, language: str) -> Iterator[Span]:
    if _PRIVATE in text:
        for match in _PRIVATE_KEY.finditer(text):
            if _KEY_MATERIAL.search(match["body"]):
                yield *match.span(), "private_key"
    words = _long_words(text)
    for literal, pattern in _KEY_FORMATS.items():
        if literal in words:
            for match in pattern.finditer(text):
                if "EXAMPLE" not in match[0]:
                    yield *match.span(), "key"
    if "@" in text:
        yield from addresses.find(text, language, _PLACEHOLDER)
    if '"' in text or "'" in text or "`" in text:
        yield from _assignments(text)


def _long_words(text: str) -> bytes:
    """The parts of a text that may contain keys: words of 16 characters or more with a digit, and the text before them.

    This is for speed: one pass over the text instead of one for each key format.
    """
    data = text.encode("utf-8", "surrogatepass")
    ends = np.append(np.flatnonzero(np.frombuffer(data.translate(_IS_DELIMITER), np.uint8)), len(data))
    lengths = np.diff(ends, prepend=-1) - 1
    long = np.flatnonzero(lengths >= _MIN_KEY)
    spans = zip((ends[long] - lengths[long]).tolist(), ends[long].tolist(), strict=True)
    return b"\n".join(data[max(0, begin - _CONTEXT) : end] for begin, end in spans if _DIGIT.search(data, begin, end))


def _assignments(text: str) -> Iterator[Span]:
    """Strings that are assigned to a name that marks them as secret."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters are longer in lower case
        lower = text
    for name in _NAMES:
        begin = lower.find(name)
        while begin >= 0:
            match = _ASSIGNMENT.match(text, begin + len(name))
            if match:
                value = match["value"]
                if name in ("passw", "pwd"):
                    kind = "password" if _is_password(value) else ""
                else:
                    kind = "key" if _is_random(value) else ""
                if kind:
                    yield *match.span("value"), kind
            begin = lower.find(name, begin + len(name))


def _is_password(value: str) -> bool:
    """Whether a string has letters, and digits or punctuation, and is not a placeholder."""
    letters = any(map(str.isalpha, value))
    others = any(character.isdigit() or character in "!#^&?;,~" for character in value)
    return letters and others and not _PLACEHOLDER.search(value)


def _is_random(value: str) -> bool:
    """Whether a string has digits, letters and at least 3 bits of entropy per character, and is not a placeholder."""
    if not _RANDOM.fullmatch(value) or not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)):
        return False
    counts = Counter(value).values()
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    return entropy >= 3 and not _PLACEHOLDER.search(value)
