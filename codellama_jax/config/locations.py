"""Where the paths of flags and settings may lie: on a disk, or in a bucket of Cloud Storage (gs://)."""

import re

GCS_SCHEME = "gs://"
SCHEMES = (GCS_SCHEME,)  # of the stores that all commands read and write
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_ONE_SLASH = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)", re.IGNORECASE)
_NO_BUCKET = re.compile(r"gs://(/|$)")


def is_remote(text: str) -> bool:
    """Whether a path has a scheme, such as gs://."""
    return _SCHEME.match(text) is not None


def problem(text: str, schemes: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the scheme of a path, and the remedy; None if it is local or has one of `schemes`, or SCHEMES.

    Every path of a flag or a setting passes through this check: libraries take an unknown scheme for a local folder.
    """
    schemes = schemes or SCHEMES
    if match := _ONE_SLASH.match(text):
        if match[1].lower() == "gs":
            return f"{text}: a path in a bucket starts with {GCS_SCHEME}, with two slashes"
        return f"{text}: {match[1]}: is not the name of a folder; write ./{text} if it is"
    if _NO_BUCKET.match(text):
        return f"{text} has no bucket: write {GCS_SCHEME}BUCKET/FOLDER"
    if is_remote(text) and not text.startswith(schemes):
        return f"{text}: the path must be local or start with {' or '.join(schemes)}"
    return None
