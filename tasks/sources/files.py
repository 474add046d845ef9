"""The files of a corpus, on top of runtime/filesystem.py: which files of a folder are read, and errors for the user."""

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
        path: relative to the folder, with forward slashes. Bytes that are not UTF-8 are replaced by U+FFFD, so that a
            path is valid text.
        location: where to open it.
        size: in bytes; UNKNOWN_SIZE for a remote file whose size was not requested.
        repository: relative path of the nearest folder above it with .git, or else of the first folder; "" for neither.
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
    """Whether there is such a folder. `where` is the setting that error messages name.

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
    """Calls a function. Raises UserError if a store cannot be read; errors of local files are raised unchanged."""
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
    """Lists the files below a folder whose names `wanted` accepts, sorted by path, without reading them.

    Hidden files and folders, those named in `skip`, and paths that match a pattern of `ignore` are excluded. Links to
    folders are followed. Each folder is entered once, so cycles of links end.

    Args:
        root: the folder.
        wanted: name -> whether to list the file.
        skip: names of folders that are not entered.
        ignore: fnmatch patterns of paths, which begin with a slash here.
        sizes: whether to get the sizes of remote files too, which takes one request per file.
        where: the setting that error messages name.
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
    """Size in bytes: UNKNOWN_SIZE of a remote file unless `remote_sizes`, None of a local path that is not a file."""
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
    """The repository of a folder. `known` maps the folders above it to their repositories; the folder is added."""
    repository = known.get(folder.rpartition("/")[0], "")
    if folder and (is_root or not repository):
        repository = folder
    known[folder] = repository
    return repository
