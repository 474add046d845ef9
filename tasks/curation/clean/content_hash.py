"""The hash of a document's content by which exact duplicates are found."""

import hashlib


def content_hash(text: str) -> str:
    """A 128-bit hash, hex.

    It ignores how lines end, white space at the end of a line or of the text, and a byte order mark.
    """
    return hashlib.blake2b(_normalized(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _normalized(text: str) -> str:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(map(str.rstrip, lines)).rstrip()
