"""The files of a corpus, on top of runtime/filesystem.py: which files of a folder count, and errors for the user."""

import dataclasses
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import TypeVar

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

UNKNOWN_SIZE = -1
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file below a folder.

    Attributes:
        path: below the folder, with forward slashes. What is not UTF-8 in it is shown as U+FFFD, so that a path can be
            written anywhere a text can.
        location: where to open it.
        size: in bytes; UNKNOWN_SIZE where asking would be a request for each file.
        repository: path below the folder of the nearest folder with .git, or else the first folder; "" for neither.
    """

    path: str
    location: str
    size: int
    repository: str


def read_bytes(location: str) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read. (Skipping the file would silently change the stream.)
    """
    try:
        return filesystem.read_bytes(location)
    except OSError as error:
        raise UserError(f"{location} cannot be read ({error.strerror or error}): fix or remove it") from None


def is_folder(location: str, where: str = "") -> bool:
    """Whether there is such a folder. `where` is what the user wrote, for error messages.

    Raises:
        UserError: the store cannot be read. The functions below raise it too.
    """
    return _or_user_error(filesystem.is_folder, location, where)


def exists(location: str, where: str = "") -> bool:
    """Whether there is such a file or folder."""
    return _or_user_error(filesystem.exists, location, where)


def matching(pattern: str, where: str = "") -> list[str]:
    """The locations of the files that match a pattern (* ? []), sorted."""
    return _or_user_error(filesystem.glob, pattern, where)


def _or_user_error(function: Callable[[str], T], location: str, where: str) -> T:
    """Calls the function; if a store cannot be read, raises UserError. Errors of local files are not changed."""
    try:
        return function(location)
    except OSError as error:
        if not filesystem.is_remote(location):
            raise
        raise UserError(
            f"{where or location}: the store cannot be read ({error}): check its name and your credentials"
        ) from None


def walk(
    root: str,
    wanted: Callable[[str], bool],
    skip: frozenset[str] = frozenset(),
    ignore: tuple[str, ...] = (),
    sizes: bool = True,
    where: str = "",
) -> list[Found]:
    """The files below a folder whose names `wanted` takes, sorted by path; reads none.

    Hidden files and folders and those named in `skip` are left out, as are paths that a pattern of `ignore` matches.
    Links to folders are followed, and each folder is entered once: a link that leads back cannot loop.

    Args:
        root: the folder.
        wanted: name -> whether to take the file.
        skip: names of folders that are not entered.
        ignore: fnmatch patterns of paths, which begin with a slash here.
        sizes: whether sizes are wanted of remote files as well, a request for each.
        where: names what the user wrote, for errors.
    """
    ignored = re.compile("|".join(fnmatch.translate(pattern) for pattern in ignore)) if ignore else None
    entries = _or_user_error(lambda root: list(_entries(root, skip, wanted, sizes)), root, where)
    found = [entry for entry in entries if ignored is None or not ignored.match("/" + entry.path)]
    return sorted(found, key=lambda entry: entry.path)


def _entries(root: str, skip: frozenset[str], wanted: Callable[[str], bool], sizes: bool) -> Iterator[Found]:
    prefix = len(os.path.join(root.rstrip("/") if filesystem.is_remote(root) else root, ""))
    repositories: dict[str, str] = {}
    for folder, subfolders, names in filesystem.walk(root):
        shown = _shown(folder[prefix:])
        repository = _repository(shown, repositories, ".git" in subfolders or ".git" in names)
        subfolders[:] = sorted(name for name in subfolders if name not in skip and not name.startswith("."))
        for name in names:
            if name.startswith(".") or not wanted(name):
                continue
            location = os.path.join(folder, name)
            if (size := _size(location, sizes)) is not None:
                yield Found(f"{shown}/{_shown(name)}" if shown else _shown(name), location, size, repository)


def _size(location: str, remote_sizes: bool) -> int | None:
    """In bytes, UNKNOWN_SIZE for a remote file unless `remote_sizes`; None for what is no regular local file."""
    if filesystem.is_remote(location):
        return filesystem.size(location) if remote_sizes else UNKNOWN_SIZE
    try:
        status = os.stat(location)
    except OSError:
        return None  # a broken link
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")


def _repository(folder: str, known: dict[str, str], is_root: bool) -> str:
    """The repository that a folder belongs to; `known` has those of the folders above it, and gets this one's."""
    repository = known.get(folder.rpartition("/")[0], "")
    if folder and (is_root or not repository):
        repository = folder
    known[folder] = repository
    return repository
