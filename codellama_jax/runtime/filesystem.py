"""Folders and files of a run, on this machine or in a bucket (gs://...).

A bucket has no appending and no renaming, but an object appears whole or not at all. It is spoken to through epath,
that is TensorFlow's file access; codellama_jax/runtime/gcs.py has what that lacks.
"""

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from codellama_jax.errors import EXIT_INTERRUPTED, UserError

GCS_SCHEME = "gs://"
UPLOAD_SECONDS = 60.0  # a growing file is written anew in a bucket as often


def to_path(place: str | os.PathLike[str]) -> Path:
    """The path of a folder or file: with ~ replaced on this machine, epath's for one in a bucket.

    What epath gives is no pathlib.Path, but has its methods; those of it are used that both have.
    """
    text = os.fspath(place)
    if not text.startswith(GCS_SCHEME):
        return Path(text).expanduser()
    # what TensorFlow remembers of an object for some seconds, another host may have changed
    os.environ.setdefault("GCS_STAT_CACHE_MAX_AGE", "0")
    from etils import epath

    found: Any = epath.Path(text.rstrip("/"))
    return found


def is_remote(path: PurePath | str) -> bool:
    """Whether a path is one of a bucket."""
    return os.fspath(path).startswith(GCS_SCHEME)


def absolute(path: Path) -> Path:
    """The path from the root; one in a bucket is that, though its own methods do not know it."""
    return path if is_remote(path) else path.absolute()


@contextlib.contextmanager
def store_failures_as_user_errors(place: PurePath) -> Iterator[None]:
    """What TensorFlow raises where a bucket does not do what it was asked for, as a UserError for `place` that asks to
    be started again: it has errors of its own, and has tried for half a minute."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("tensorflow."):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{place}: the bucket does not answer as it should ({reason}); what was saved is untouched, the same"
            " command goes on from there",
            EXIT_INTERRUPTED,
        ) from error


def split_url(path: PurePath) -> tuple[str, str]:
    """The bucket of a path that is in one, and the object's name."""
    parts = urlsplit(os.fspath(path))
    return parts.netloc, parts.path.strip("/")


def read_text(path: Path) -> str:
    """The text of a file; what is not UTF-8 in it is replaced."""
    return path.read_bytes().decode("utf-8", "replace")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a small file so that it is either the old one or the new one, whole. Lone surrogates become question
    marks."""
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder of this machine, and what is in it, to any place."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            into = target.joinpath(*path.relative_to(source).parts)
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(path.read_bytes())


def remove_tree(folder: Path) -> None:
    """Removes a folder and what is in it, if it is there."""
    if is_remote(folder):
        with contextlib.suppress(FileNotFoundError):
            folder.rmtree()  # type: ignore[attr-defined]  # epath's
    else:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staged_locally(place: Path) -> Iterator[Path]:
    """A folder of this machine for what can be written on no other: `place` itself, or one that is copied to `place`
    when the block ends."""
    if not is_remote(place):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="codellama_jax_") as here:
        yield Path(here)
        copy_tree(Path(here), place)


class AppendFile:
    """A text file that lines are added to.

    On this machine a line is handed to the operating system at once. In a bucket the whole file is written anew, by a
    thread: UPLOAD_SECONDS after it was last, and with `sync`.

    Args:
        path: of the file.
        text: what it begins with, instead of what it holds; None keeps that.
    """

    def __init__(self, path: Path, text: str | None = None):
        self.path = path
        self._remote = is_remote(path)
        if text is not None:
            write_atomically(path, text)
        if self._remote:
            self._parts = [text if text is not None else read_text(path) if path.exists() else ""]
            self._lock = threading.Lock()
            self._uploader = ThreadPoolExecutor(1, thread_name_prefix="upload")
            self._upload: Future[None] | None = None
            self._uploaded = time.monotonic()
        else:
            self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        """Adds a text. An upload that fails is tried again with the next; `sync` says so."""
        if not self._remote:
            self._file.write(text)
            self._file.flush()
            return
        self._parts.append(text)
        idle = self._upload is None or self._upload.done()
        if idle and time.monotonic() - self._uploaded > UPLOAD_SECONDS:
            self._uploaded = time.monotonic()
            self._upload = self._uploader.submit(self._write_all)

    def _write_all(self) -> None:
        with self._lock:
            count = len(self._parts)  # what is added meanwhile is of the next time
            self._parts[:count] = ["".join(self._parts[:count])]
            self.path.write_bytes(self._parts[0].encode("utf-8", "replace"))

    def sync(self) -> None:
        """Returns when all of it is where it is to stay.

        Raises:
            OSError: it could not be written (or what TensorFlow raises in its place).
        """
        if self._remote:
            self._write_all()
        else:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file, without `sync`."""
        if self._remote:
            self._uploader.shutdown(wait=True)
        else:
            self._file.close()
