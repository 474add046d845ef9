"""Train and validation: a hash of a document's split key decides its split.

The split key is the path of a file or the location of a record, or the repository if its documents are kept together.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

from codellama_jax.config.data import SPLITS, Corpus
from codellama_jax.errors import UserError


class EmptySplit(UserError):
    """A path has no documents for a split. In a list of paths, another one may have some."""


class FileEntry(Protocol):
    """A file with its path and its repository, which may be ""."""

    @property
    def path(self) -> str: ...

    @property
    def repository(self) -> str: ...


Entry = TypeVar("Entry", bound=FileEntry)


def hash_fraction(path: str, purpose: str) -> float:
    """A hash of the path as a number in [0, 1); independent for each purpose."""
    digest = hashlib.blake2b(path.encode("utf-8"), digest_size=8, person=purpose.encode("utf-8")).digest()
    return int.from_bytes(digest, "big") / 2**64


def split_key(path: str, repository: str, corpus: Corpus) -> str:
    """The split key of a file: its path, or its repository with Corpus.group_by_repository."""
    return repository if corpus.group_by_repository and repository else path


def select_split(entries: Sequence[Entry], split: str, corpus: Corpus, where: str) -> list[Entry]:
    """The entries of one split, in their order (see validation_keys).

    Raises:
        UserError: validation would be empty, or Corpus.validation_share is out of range.
        ValueError: no such split.
    """
    keys = [split_key(entry.path, entry.repository, corpus) for entry in entries]
    validation = validation_keys(keys, split, corpus, where)
    return [entry for entry, key in zip(entries, keys, strict=True) if (key in validation) == (split == "validation")]


def validation_keys(keys: Sequence[str], split: str, corpus: Corpus, where: str) -> set[str]:
    """The split keys that are in validation: those whose hash is below Corpus.validation_share.

    If validation or train would be empty, the key whose hash is nearest to the share is moved there.

    Raises:
        UserError: `split` is validation, and the share is 0 or there is only one key; or the share is out of range.
        ValueError: no such split.
    """
    check_split(split, corpus)
    share = corpus.validation_share
    hashes = {key: hash_fraction(key, "split") for key in keys}
    validation = {key for key, fraction in hashes.items() if fraction < share}
    if not validation and share > 0 and len(hashes) > 1:
        validation = {min(hashes, key=hashes.__getitem__)}
    elif len(hashes) > 0 and len(validation) == len(hashes):
        validation.remove(max(hashes, key=hashes.__getitem__))  # a single key goes to train
    if split == "validation" and hashes and not validation:
        unit = "file or record" if len(hashes) == len(keys) else "repository"
        reason = f"there is only one {unit}" if share else "Corpus.validation_share is 0"
        raise EmptySplit(f"{where}: validation is empty, since {reason}")
    return validation


def check_split(split: str, corpus: Corpus) -> None:
    """Raises UserError if Corpus.validation_share is out of range, ValueError if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: it is one of {', '.join(SPLITS)}")
    if not 0 <= corpus.validation_share < 1:
        raise UserError(f"Corpus.validation_share={corpus.validation_share} must be at least 0 and below 1")
