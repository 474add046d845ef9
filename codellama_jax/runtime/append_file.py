"""Appends text to a file, local or in an object store. Stores cannot append, so a remote file is rewritten."""

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from codellama_jax.runtime import filesystem

UPLOAD_SECONDS = 60.0  # interval at which a remote file is rewritten


class AppendFile:
    """A text file that is open for appending.

    A local file passes each text to the operating system at once. A remote file is rewritten completely, by a thread
    at most once in UPLOAD_SECONDS, and by `sync`.

    Args:
        path: path of the file.
        text: replaces the content of the file; None keeps it.
    """

    def __init__(self, path: Path, text: str | None = None):
        self.path = path
        self._remote = filesystem.is_remote(path)
        if text is not None:
            filesystem.write_atomically(path, text)
        if self._remote:
            self._parts = [text if text is not None else filesystem.read_text(path) if path.exists() else ""]
            self._lock = threading.Lock()
            self._uploader = ThreadPoolExecutor(1, thread_name_prefix="upload")
            self._upload: Future[None] | None = None
            self._uploaded = time.monotonic()
        else:
            self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> None:
        """Appends a text. A failed upload is repeated by the next one; only `sync` reports failures."""
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
            count = len(self._parts)  # texts that are appended meanwhile wait for the next upload
            self._parts[:count] = ["".join(self._parts[:count])]
            filesystem.write_atomically(self.path, self._parts[0])

    def sync(self) -> None:
        """Blocks until all of the text is stored durably.

        Raises:
            OSError: the text could not be written.
        """
        if self._remote:
            self._write_all()
        else:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, without `sync`."""
        if self._remote:
            self._uploader.shutdown(wait=True)
        else:
            self._file.close()
