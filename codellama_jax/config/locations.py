"""Where the paths of flags and settings may lie: on a disk, or in a bucket of Cloud Storage (gs://)."""

import re

GCS_SCHEME = "gs://"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"gs:/(?!/)", re.IGNORECASE)


def is_remote(text: str) -> bool:
    """Whether a path has a scheme, such as gs://."""
    return _SCHEME.match(text) is not None


def problem(text: str, schemes: tuple[str, ...] = (GCS_SCHEME,)) -> str | None:
    """What is wrong with the scheme of a path, and the remedy; None if it is local or has one of `schemes`.

    Every path of a flag or a setting passes through this check: libraries take an unknown scheme for a local folder.
    """
    if _ONE_SLASH.match(text):
        return f"{text}: a path in a bucket starts with {GCS_SCHEME}, with two slashes"
    if is_remote(text) and not text.startswith(schemes):
        return f"{text}: the path must be local or start with {' or '.join(schemes)}"
    return None
