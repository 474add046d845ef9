"""Train and validation: which documents are on which side, by a hash of what they belong to."""

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from codellama_jax.config.data import SPLITS, Corpus
from codellama_jax.errors import UserError


class Unusable(UserError):
    """A place has nothing for a split; in a list of places others may."""


class Pathed(Protocol):
    """What has a path, and the name of a repository or ""."""

    @property
    def path(self) -> str: ...

    @property
    def repository(self) -> str: ...


Entry = TypeVar("Entry", bound=Pathed)


def share_of(path: str, purpose: str) -> float:
    """A number in [0, 1) that is a hash of the path; independent for each purpose."""
    digest = hashlib.blake2b(path.encode("utf-8"), digest_size=8, person=purpose.encode("utf-8")).digest()
    return int.from_bytes(digest, "big") / 2**64


def side_of(path: str, repository: str, corpus: Corpus) -> str:
    """What the split is decided by: the path, or of files that are grouped by repository, the repository."""
    return repository if corpus.group_by_repository and repository else path


def chosen(entries: Sequence[Entry], split: str, corpus: Corpus, where: str) -> list[Entry]:
    """The entries of one split, in their order: those whose side (side_of) is one of `validation_sides`, or not.

    Raises:
        UserError: nothing is left for validation, or the share is no share.
        ValueError: the split has another name.
    """
    sides = [side_of(entry.path, entry.repository, corpus) for entry in entries]
    validation = validation_sides(sides, split, corpus, where)
    return [
        entry for entry, side in zip(entries, sides, strict=True) if (side in validation) == (split == "validation")
    ]


def validation_sides(sides: Sequence[str], split: str, corpus: Corpus, where: str) -> set[str]:
    """Those of the sides that are validation: their hash is below the share.

    Where validation or train would be empty, what has the hash nearest to the share goes there.

    Raises:
        UserError: validation is asked for and the share is 0 or all are one; or the share is no share.
        ValueError: the split has another name.
    """
    check_split(split, corpus)
    share = corpus.validation_share
    hashes = {side: share_of(side, "split") for side in sides}
    validation = {side for side, hashed in hashes.items() if hashed < share}
    if not validation and share > 0 and len(hashes) > 1:
        validation = {min(hashes, key=hashes.__getitem__)}
    elif len(hashes) > 0 and len(validation) == len(hashes):
        validation.remove(max(hashes, key=hashes.__getitem__))  # also where there is only one: train goes first
    if split == "validation" and hashes and not validation:
        what = "file or record" if len(hashes) == len(sides) else "repository"
        reason = f"there is only one {what}" if share else "Corpus.validation_share is 0"
        raise Unusable(f"{where}: nothing is left for validation, since {reason}")
    return validation


def check_split(split: str, corpus: Corpus) -> None:
    """Raises UserError if the validation share is no share, ValueError if the split has another name."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: it is one of {', '.join(SPLITS)}")
    if not 0 <= corpus.validation_share < 1:
        raise UserError(f"Corpus.validation_share={corpus.validation_share} must be at least 0 and below 1")
