"""Files and folders, local or in an object store (gs://...). All of the project reads and writes through this module.

A location with a scheme is accessed through TensorFlow's file system, `tf.io.gfile`, which is imported at the first
such location; local files need no TensorFlow. SeqIO and etils.epath use the same client. There are three
exceptions: runtime/gcs.py has what only the API of Cloud Storage offers, tasks/curation/storage.py accesses the
stores of a build through Beam, and launch/cloud.py runs gcloud, with the user's own credentials and without TensorFlow.

An object store can neither append nor rename, but an object appears complete or not at all.
"""

import contextlib
import glob as local_glob
import heapq
import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from codellama_jax.config import locations
from codellama_jax.errors import EXIT_INTERRUPTED, EXIT_USAGE, UserError

Location = str | os.PathLike[str]
GCS_SCHEME = locations.GCS_SCHEME
UNFINISHED = ".part"  # the end of the name under which a local file is written; the name begins with a dot
_SPARE_BYTES = 64 << 20  # free space that a new folder needs besides its tensors


# ---------------------------------------------------------------- locations


def check_scheme(location: Location, schemes: tuple[str, ...] = ()) -> None:
    """Checks that a location is local or has one of `schemes`; without any, of locations.SCHEMES.

    Raises:
        UserError: it has another scheme.
    """
    if problem := locations.problem(os.fspath(location), schemes):
        raise UserError(problem, EXIT_USAGE)


def is_remote(location: Location) -> bool:
    """Whether a location has a scheme, such as gs://."""
    return locations.is_remote(os.fspath(location))


def to_path(location: Location) -> Path:
    """The path of a file or folder: a pathlib.Path with ~ expanded, or for gs:// one of etils.epath.

    An epath object is not a pathlib.Path, but has most of its methods; use only methods that both have.

    Raises:
        UserError: the location has a scheme other than gs://.
    """
    text = os.fspath(location)
    check_scheme(text)
    if not is_remote(text):
        return Path(text).expanduser()
    # TensorFlow caches the state of an object for some seconds; another host may have changed it
    os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
    from etils import epath

    path: Any = epath.Path(text.rstrip("/"))
    return path


def absolute(path: Path) -> Path:
    """The absolute path. A remote path is returned unchanged: its own `absolute` would treat it as relative."""
    return path if is_remote(path) else path.absolute()


def expand_home(location: Location) -> str:
    """The location with ~ expanded if it is local. Raises UserError for a scheme other than gs://."""
    text = os.fspath(location)
    check_scheme(text)
    return text if is_remote(text) else os.path.expanduser(text)


def split_url(path: PurePath) -> tuple[str, str]:
    """The bucket and the object name of a remote path."""
    parts = urlsplit(os.fspath(path))
    return parts.netloc, parts.path.strip("/")


# ---------------------------------------------------------------- TensorFlow's client and its errors


def gfile() -> Any:
    """TensorFlow's file system."""
    import tensorflow as tf

    return tf.io.gfile


class StoreError(OSError):
    """An object store failed, after TensorFlow has retried for half a minute.

    It replaces the errors of TensorFlow, which are not OSErrors.
    """


def _is_tensorflow_error(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "tensorflow" and not isinstance(error, OSError)


@contextlib.contextmanager
def tensorflow_errors_as_os_errors() -> Iterator[None]:
    """Converts errors of TensorFlow to StoreError, with a one-line message."""
    try:
        yield
    except Exception as error:
        if not _is_tensorflow_error(error):
            raise
        raise StoreError(str(error).partition("\n")[0] or type(error).__name__) from None


@contextlib.contextmanager
def store_failures_as_user_errors(location: PurePath) -> Iterator[None]:
    """Converts failures of an object store to a UserError that names `location` and asks for a restart.

    Raises:
        UserError: with EXIT_INTERRUPTED.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, StoreError) or _is_tensorflow_error(error)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{location}: the bucket failed ({reason}); saved checkpoints are not affected, the same command resumes"
            " from the last one",
            EXIT_INTERRUPTED,
        ) from error


# ---------------------------------------------------------------- reading


def open_input(location: Location) -> BinaryIO:
    """Opens a file for reading. The file object is seekable.

    Raises:
        OSError: the file cannot be opened. Reading a remote file may raise TensorFlow's errors:
            see `tensorflow_errors_as_os_errors`.
    """
    if not is_remote(location):
        return open(location, "rb")
    with tensorflow_errors_as_os_errors():
        return gfile().GFile(os.fspath(location), "rb")


def read_bytes(location: Location) -> bytes:
    """The content of a file. Raises OSError."""
    with tensorflow_errors_as_os_errors(), open_input(location) as file:
        return file.read()


def read_text(location: Location) -> str:
    """The text of a file, with bytes that are not UTF-8 replaced. Raises OSError."""
    return read_bytes(location).decode("utf-8", "replace")


def size(location: Location) -> int:
    """The size of a file in bytes. Raises OSError."""
    if not is_remote(location):
        return os.stat(location).st_size
    with tensorflow_errors_as_os_errors():
        return gfile().stat(os.fspath(location)).length


def exists(location: Location) -> bool:
    """Whether there is such a file or folder. Raises OSError."""
    if not is_remote(location):
        return os.path.exists(location)
    with tensorflow_errors_as_os_errors():
        return gfile().exists(os.fspath(location).rstrip("/"))


def is_folder(location: Location) -> bool:
    """Whether there is such a folder. Raises OSError."""
    if not is_remote(location):
        return os.path.isdir(location)
    with tensorflow_errors_as_os_errors():
        return gfile().isdir(os.fspath(location).rstrip("/"))


def list_folder(location: Location) -> list[str]:
    """The names of the files and folders in a folder, sorted; empty if there is no such folder. Raises OSError."""
    if not is_folder(location):
        return []
    if not is_remote(location):
        return sorted(os.listdir(location))
    with tensorflow_errors_as_os_errors():
        return sorted(name.rstrip("/") for name in gfile().listdir(os.fspath(location)))


def glob(pattern: str) -> list[str]:
    """The locations that match a pattern (* ? [], and ** if local), sorted. Raises OSError."""
    if not is_remote(pattern):
        return sorted(local_glob.glob(pattern, recursive=True))
    with tensorflow_errors_as_os_errors():
        return sorted(gfile().glob(pattern))


def walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (folder, names of its subfolders, names of its files) top-down, as os.walk does.

    Subfolders that the caller removes from the list are not entered. Symbolic links to folders are followed after all
    folders that are not behind a link, in the order of their paths. Each folder is entered once, so a link to a parent
    does not loop, and a folder is visited under its own path if that is below the root.

    Raises:
        OSError: the store cannot be read.
    """
    if not is_remote(root):
        yield from _walk_local(root)
        return
    with tensorflow_errors_as_os_errors():
        for folder, subfolders, files in gfile().walk(root.rstrip("/")):
            subfolders[:] = [name.rstrip("/") for name in subfolders]  # object stores mark folders by a slash
            yield folder.rstrip("/"), subfolders, files


def _walk_local(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    entered = set()
    waiting = [root]  # a heap of links to folders, after the root
    while waiting:
        for folder, subfolders, files in os.walk(heapq.heappop(waiting)):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            yield folder, subfolders, files
            for path in (os.path.join(folder, name) for name in subfolders):
                if os.path.islink(path):
                    heapq.heappush(waiting, path)


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def open_output(location: Location, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Opens a new file for writing. The file appears, complete, when the block ends without an error.

    A local file is written under a hidden name in the same folder and renamed, so readers see the old file or the new
    one, and several processes may write it at once. A remote file is held in memory and written as one object.

    Args:
        location: path of the file, in an existing folder.
        durable: sync it to disk, so that it survives a power failure.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    if is_remote(location):
        buffer = io.BytesIO()
        yield buffer
        with tensorflow_errors_as_os_errors(), gfile().GFile(os.fspath(location), "wb") as file:
            file.write(buffer.getvalue())
        return
    path = Path(location)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with temporary.open("wb") as output:
            yield output
            if durable:
                output.flush()
                os.fsync(output.fileno())
        os.replace(temporary, path)
        if durable:
            _sync(path.parent)
    except OSError as error:
        if isinstance(error, StoreError) or error.filename not in (None, os.fspath(temporary)):
            raise  # not about this file
        # C++ writers raise errors without a file name
        raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(location: Location, content: str | bytes, *, durable: bool = False) -> None:
    """Writes a file through `open_output`. Lone surrogates of a text become question marks."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    with open_output(location, durable=durable) as file:
        file.write(data)


@contextlib.contextmanager
def new_folder(path: Path, nbytes: int) -> Iterator[Path]:
    """Creates a new local folder. The folder appears, complete, when the block ends without an error.

    The block writes to a hidden folder next to it, which is then synced to disk and renamed, or removed after an error.

    Args:
        path: path of the folder; its parent is created.
        nbytes: size of the tensors that will be written.

    Raises:
        UserError: the path exists, or the disk has too little space.
    """
    path = path.absolute()
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists: move it away, or choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(path.parent).free, nbytes + _SPARE_BYTES
    if free < needed:
        raise UserError(
            f"{path.parent} has {free / 1e9:,.2f} GB free, {needed / 1e9:,.2f} GB are needed: free some space"
        )
    parent = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        folder = parent / path.name
        folder.mkdir()
        yield folder
        for entry in [*folder.rglob("*"), folder]:
            _sync(entry)
        os.rename(folder, path)
        _sync(path.parent)
        parent.rmdir()
    except BaseException:
        for pause in (0.0, 0.1, 0.4):  # a thread that is still writing recreates its folder
            time.sleep(pause)
            shutil.rmtree(parent, ignore_errors=True)
        raise


def _sync(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a local folder with its content to a local or remote folder."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            destination = target.joinpath(*path.relative_to(source).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(path.read_bytes())


def remove_tree(location: Location) -> None:
    """Removes a folder with its content, if it exists."""
    if not is_remote(location):
        shutil.rmtree(location, ignore_errors=True)
        return
    import tensorflow as tf

    with tensorflow_errors_as_os_errors(), contextlib.suppress(tf.errors.NotFoundError):
        tf.io.gfile.rmtree(os.fspath(location))


@contextlib.contextmanager
def staged_locally(folder: Path) -> Iterator[Path]:
    """Yields a local folder, for writers that cannot write to an object store.

    This is `folder` itself if it is local; otherwise a temporary folder, which is copied to `folder` when the block
    ends.
    """
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="codellama_jax_") as temporary:
        yield Path(temporary)
        copy_tree(Path(temporary), folder)
