"""Names of cloud resources for runs: short enough, of the characters that clouds accept, and different for each run.

A name that is valid and short stays as it is. Any other name is shortened or changed, and then carries a digest of the
full name. The full name is recorded next to the resource (`recorded`), and is compared before a resource is modified.
"""

import hashlib
import re
import urllib.parse

PREFIX = "codellama-jax"  # of every name; also the label of everything that belongs to a run
RUN = f"{PREFIX}-run"  # metadata of a TPU VM, annotation of a JobSet: the full name of the run
DIGEST_CHARACTERS = 12

_VALID = re.compile(r"[a-z0-9-]*[a-z0-9]")
_ENDS_LIKE_A_DIGEST = re.compile(rf".*--[0-9a-f]{{{DIGEST_CHARACTERS}}}")


def resource_name(run: str, limit: int, stage: str = "") -> str:
    """The name of a run's resource: lower-case ASCII letters, digits and hyphens, with a letter first.

    Two different runs, or stages of runs, never have the same name: names with a digest end in "--" and the digest, and
    a run whose own name ends like that gets a digest too. A stage that contains a character other than a letter or a
    digit gets one because a hyphen could belong to the run or to the stage.

    Args:
        run: the name of the run; any text.
        limit: the largest number of characters.
        stage: the name of a stage; "": the resource belongs to all stages.
    """
    name = "-".join(part for part in (PREFIX, run, stage) if part)
    simple_stage = not stage or (stage.isascii() and stage.isalnum())
    valid = run and simple_stage and _VALID.fullmatch(name) and not _ENDS_LIKE_A_DIGEST.fullmatch(name)
    if valid and len(name) <= limit:
        return name
    full_name = f"{run}/{stage}".encode("utf-8", "surrogatepass")  # the name of a stage contains no slash
    digest = hashlib.sha256(full_name).hexdigest()[:DIGEST_CHARACTERS]
    start = re.sub("[^a-z0-9]+", "-", name.lower())[: limit - DIGEST_CHARACTERS - 2].strip("-")
    return f"{start}--{digest}"


def is_unchanged(run: str, name: str) -> bool:
    """Whether `name` contains the complete name of the run, so that no digest was needed."""
    return name == f"{PREFIX}-{run}"


def recorded(run: str) -> str:
    """The full name of a run as it is recorded with a resource: percent-encoded, in ASCII."""
    return urllib.parse.quote(run, safe=" /:@+", errors="surrogatepass")
