"""Local files and those of an object store (gs://) alike.

A location with a scheme goes through TensorFlow's gfile, which is imported when the first such one is seen.
"""

import dataclasses
import fnmatch
import functools
import glob
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from codellama_jax.errors import UserError

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
UNKNOWN_SIZE = -1


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


def is_remote(location: str) -> bool:
    """Whether a location has a scheme, such as gs://."""
    return _SCHEME.match(location) is not None


def gfile() -> Any:
    """TensorFlow's file access."""
    import tensorflow as tf

    return tf.io.gfile


def open_binary(location: str) -> BinaryIO:
    """Opens for reading; seekable. Raises OSError, also where TensorFlow raises errors of its own."""
    if not is_remote(location):
        return open(location, "rb")
    return _translated(lambda: gfile().GFile(location, "rb"))


def read_bytes(location: str) -> bytes:
    """The whole file.

    Raises:
        UserError: it cannot be read. (Skipping the file would silently change the stream.)
    """
    try:
        with open_binary(location) as file:
            return _translated(file.read)
    except OSError as error:
        raise UserError(f"{location} cannot be read ({error.strerror or error}): fix or remove it") from None


def size_of(location: str) -> int:
    """In bytes. Raises OSError."""
    if not is_remote(location):
        return os.stat(location).st_size
    return _translated(lambda: gfile().stat(location).length)


def is_folder(location: str, where: str = "") -> bool:
    """Whether it is a folder that is there. `where` names what the user wrote, for errors.

    Raises:
        UserError: the store cannot be asked; so do the functions below.
    """
    return _asked(lambda: gfile().isdir(location.rstrip("/")), os.path.isdir, location, where)


def exists(location: str, where: str = "") -> bool:
    """Whether there is such a file or folder."""
    return _asked(lambda: gfile().exists(location.rstrip("/")), os.path.exists, location, where)


def matching(pattern: str, where: str = "") -> list[str]:
    """Locations of the files that a pattern (* ? []) names, sorted."""
    local = functools.partial(glob.glob, recursive=True)
    return sorted(_asked(lambda: gfile().glob(pattern), local, pattern, where))


def _asked(remote: Callable[[], Any], local: Callable[[str], Any], location: str, where: str) -> Any:
    if not is_remote(location):
        return local(location)
    try:
        return _translated(remote)
    except OSError as error:
        raise UserError(
            f"{where or location}: the store cannot be read ({error}): check its name and your credentials"
        ) from None


def expanded(location: str | os.PathLike[str]) -> str:
    """The location with ~ replaced, where it is local."""
    text = os.fspath(location)
    return text if is_remote(text) else os.path.expanduser(text)


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
    entries: list[Found] = _asked(
        lambda: list(_remote_entries(root, skip, wanted, sizes)),
        lambda root: list(_local_entries(root, skip, wanted)),
        root,
        where,
    )
    found = [entry for entry in entries if ignored is None or not ignored.match("/" + entry.path)]
    return sorted(found, key=lambda entry: entry.path)


def _local_entries(root: str, skip: frozenset[str], wanted: Callable[[str], bool]) -> Iterator[Found]:
    entered = set()
    below = len(os.path.join(root, ""))
    repositories: dict[str, str] = {}
    for folder, folders, names in os.walk(root, followlinks=True):
        identity = os.stat(folder)
        if (identity.st_dev, identity.st_ino) in entered:
            folders.clear()
            continue
        entered.add((identity.st_dev, identity.st_ino))
        shown = _shown(folder[below:])
        repository = _repository(shown, repositories, ".git" in folders or ".git" in names)
        folders[:] = sorted(name for name in folders if name not in skip and not name.startswith("."))
        for name in names:
            if name.startswith(".") or not wanted(name):
                continue
            location = os.path.join(folder, name)
            try:
                status = os.stat(location)
            except OSError:
                continue  # a link that leads nowhere
            if stat.S_ISREG(status.st_mode):
                yield Found(f"{shown}/{_shown(name)}" if shown else _shown(name), location, status.st_size, repository)


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")


def _repository(folder: str, known: dict[str, str], is_root: bool) -> str:
    """The repository that a folder belongs to; `known` has those of the folders above it, and gets this one's."""
    repository = known.get(folder.rpartition("/")[0], "")
    if folder and (is_root or not repository):
        repository = folder
    known[folder] = repository
    return repository


def _remote_entries(root: str, skip: frozenset[str], wanted: Callable[[str], bool], sizes: bool) -> Iterator[Found]:
    root = root.rstrip("/")
    repositories: dict[str, str] = {}
    for folder, folders, names in gfile().walk(root):
        shown = folder[len(root) :].strip("/")
        inside = shown.split("/") if shown else []
        if any(part in skip or part.startswith(".") for part in inside):
            continue
        repository = _repository(shown, repositories, any(name.strip("/") == ".git" for name in (*folders, *names)))
        for name in names:
            if not name.startswith(".") and wanted(name):
                location = f"{folder.rstrip('/')}/{name}"
                size = size_of(location) if sizes else UNKNOWN_SIZE
                yield Found("/".join([*inside, name]), location, size, repository)


def _translated(call: Callable[[], Any]) -> Any:
    """What the call returns; TensorFlow's errors as OSError."""
    try:
        return call()
    except OSError:
        raise
    except Exception as error:
        if type(error).__module__.startswith("tensorflow"):
            raise OSError(str(error).partition("\n")[0] or type(error).__name__) from None
        raise
