"""The files of a corpus, on top of runtime/filesystem.py: which files of a folder are read, and errors for the user."""

import dataclasses
import fnmatch
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.sources.duplicates import Identity, each_once, identity_of, identity_of_status

UNKNOWN_SIZE = -1
NO_EXTENSION, FOLDER = "no extension", "folder"  # in place of an extension
T = TypeVar("T")

COMPRESSIONS = ("gz", "zst", "zstd", "xz", "bz2")  # the extensions of compressed files that are read
_SHARD = re.compile(r"-\d+-of-\d+$")


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file below a folder.

    Attributes:
        path: relative to the folder, with forward slashes. Bytes that are not UTF-8 are replaced by U+FFFD, so that a
            path is valid text.
        location: where to open it.
        size: in bytes; UNKNOWN_SIZE for a remote file whose size was not requested.
        repository: relative path of the nearest folder above it with .git, or else of the first folder; "" for neither.
        identity: the same for two locations of one file (see identity_of); None if it was not requested.
        script: the language of a file without an extension, by its first line; "" if it was not requested.
    """

    path: str
    location: str
    size: int
    repository: str
    identity: Identity | None = None
    script: str = ""


@dataclasses.dataclass
class Listing:
    """The files below a folder.

    Attributes:
        found: the wanted files, sorted by path. A file that links reach under several paths is listed once.
        not_wanted: extension -> number of the files that are not wanted. Hidden files are not counted.
        ignored: number of wanted files that match a pattern to ignore.
        duplicates: (path, path under which it is listed) of each further path of a file.
        broken: paths of links to nothing.
    """

    found: list[Found] = dataclasses.field(default_factory=list)
    not_wanted: Counter[str] = dataclasses.field(default_factory=Counter)
    ignored: int = 0
    duplicates: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    broken: list[str] = dataclasses.field(default_factory=list)

    def of(self, found: list[Found], others: list[Found]) -> "Listing":
        """The listing with some of its files; the others are not wanted."""
        not_wanted = self.not_wanted + count_extensions(entry.path for entry in others)
        return dataclasses.replace(self, found=found, not_wanted=not_wanted)


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


def list_files(
    root: str,
    wanted: Callable[[str], bool],
    skip: frozenset[str] = frozenset(),
    ignore: tuple[str, ...] = (),
    sizes: bool = True,
    where: str = "",
) -> Listing:
    """Lists the files below a folder whose names `wanted` accepts, without reading them.

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
    return _or_user_error(lambda root: _listed(root, skip, wanted, ignore, sizes), root, where)


def _listed(
    root: str, skip: frozenset[str], wanted: Callable[[str], bool], ignore: tuple[str, ...], sizes: bool
) -> Listing:
    ignored = re.compile("|".join(fnmatch.translate(pattern) for pattern in ignore)) if ignore else None
    prefix = len(os.path.join(root.rstrip("/") if filesystem.is_remote(root) else root, ""))
    repositories: dict[str, str] = {}
    listing = Listing()
    for folder, subfolders, names in filesystem.walk(root):
        shown = _shown(folder[prefix:])
        repository = _repository(shown, repositories, ".git" in subfolders or ".git" in names)
        subfolders[:] = sorted(name for name in subfolders if name not in skip and not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if not wanted(name):
                listing.not_wanted[extension_of(name)] += 1
                continue
            path = f"{shown}/{_shown(name)}" if shown else _shown(name)
            if ignored is not None and ignored.match("/" + path):
                listing.ignored += 1
                continue
            location = os.path.join(folder, name)
            if (status := _status(location, sizes)) is not None:
                listing.found.append(Found(path, location, status[0], repository, status[1]))
            elif os.path.islink(location):
                listing.broken.append(path)
    listing.found.sort(key=lambda entry: entry.path)
    listing.found, listing.duplicates = each_once(listing.found)
    return listing


def _status(location: str, remote_sizes: bool) -> tuple[int, Identity] | None:
    """Size in bytes and identity of a file; None for a local path that is not a file.

    The size of a remote file is UNKNOWN_SIZE unless `remote_sizes`.
    """
    if filesystem.is_remote(location):
        return filesystem.size(location) if remote_sizes else UNKNOWN_SIZE, identity_of(location)
    try:
        status = os.stat(location)
    except OSError:
        return None  # a broken link
    return (status.st_size, identity_of_status(location, status)) if stat.S_ISREG(status.st_mode) else None


def file_at(location: str, path: str) -> Found:
    """A file of which only the location is known, with its path in a corpus. Its size is known if it is local."""
    size, identity = _status(location, remote_sizes=False) or (UNKNOWN_SIZE, identity_of(location))
    return Found(_shown(path), location, size, "", identity)


def extension_of(name: str) -> str:
    """The extension in lower case, with that of the content of a compressed file; "no extension" for none."""
    stem, dot, extension = name.lower().rpartition(".")
    if not stem:
        return NO_EXTENSION
    if "-of-" in extension:
        extension = _SHARD.sub("", extension)
    if extension in COMPRESSIONS and "." in stem:
        extension = f"{stem.rpartition('.')[2]}.{extension}"
    return dot + extension


def count_extensions(paths: Iterable[str]) -> Counter[str]:
    """Extension -> number of paths."""
    return Counter(extension_of(path.rpartition("/")[2]) for path in paths)


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")


def _repository(folder: str, known: dict[str, str], is_root: bool) -> str:
    """The repository of a folder. `known` maps the folders above it to their repositories; the folder is added."""
    repository = known.get(folder.rpartition("/")[0], "")
    if folder and (is_root or not repository):
        repository = folder
    known[folder] = repository
    return repository
