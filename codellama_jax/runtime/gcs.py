"""What a bucket needs that epath has not: a lock on a folder, and the checksums that the store keeps of its objects."""

import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import filesystem, run_dir

REFRESH_SECONDS = 15.0  # a holder shows so often that it lives
PATIENCE_SECONDS = 20.0  # with a bucket that does not answer at the start
DEAD_SECONDS = 4 * REFRESH_SECONDS  # one that does not show it for so long is taken for dead


def _bucket(path: Path) -> tuple[Any, str]:
    """The bucket's client object, no request made, and the name in it."""
    from google.cloud import storage as cloud

    bucket, name = filesystem.split_url(path)
    return cloud.Client().bucket(bucket), name


def object_checksums(folder: Path) -> dict[str, tuple[int, str]]:
    """Size in bytes and CRC-32C (base64) of every object below a folder, by its path there, as the store has them."""
    bucket, prefix = _bucket(folder)
    found = bucket.list_blobs(prefix=f"{prefix}/", fields="items(name,size,crc32c),nextPageToken")
    # an empty object with a slash at its end stands for a folder
    return {blob.name[len(prefix) + 1 :]: (blob.size, blob.crc32c) for blob in found if not blob.name.endswith("/")}


def check_bucket(folder: Path) -> None:
    """Returns if the bucket of a run folder can be read; asked first, since TensorStore would try for minutes.

    Raises:
        UserError: it cannot, or it is of a kind that nobody here can remove checkpoints from.
    """
    from google.cloud import storage as cloud

    name, prefix = filesystem.split_url(folder)
    retry = cloud.retry.DEFAULT_RETRY.with_timeout(PATIENCE_SECONDS)

    def hierarchical() -> bool:
        bucket = cloud.Client().get_bucket(name, retry=retry)
        next(iter(bucket.list_blobs(prefix=f"{prefix}/", max_results=1, retry=retry)), None)
        return bool(bucket.hierarchical_namespace_enabled)

    if _explained(folder, hierarchical) and not importlib.util.find_spec("google.cloud.storage_control_v2"):
        raise UserError(
            f"{folder}: the bucket {name} has a hierarchical namespace, for which Orbax wants another package:"
            " pip install google-cloud-storage-control, or use a bucket without"
        )


class Lock:
    """A folder of a bucket, taken for this process: an object .lock, which is made only where there is none, and made
    anew every REFRESH_SECONDS. A killed holder's is taken over when it was not for DEAD_SECONDS.

    Args:
        folder: to take.
        say: is told where there is something to wait for.

    Raises:
        UserError: another process has it, or the bucket cannot be written.
    """

    def __init__(self, folder: Path, say: Callable[[str], object] = print):
        self._folder = folder
        self._text = run_dir.this_process()
        bucket, name = _explained(folder, lambda: _bucket(folder))
        self._blob = bucket.blob(f"{name}/.lock")
        self._lost: str | None = None
        self._generation = _explained(folder, lambda: self._taken(say))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="lock", daemon=True)
        self._thread.start()

    def _taken(self, say: Callable[[str], object]) -> int:
        generation = self._put(0)
        if generation is None:
            generation = self._taken_over(say)
        return generation

    def _put(self, generation: int) -> int | None:
        """Writes the object in the place of this generation (0: of none); None if another one is there."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._blob.upload_from_string(self._text, if_generation_match=generation)
        except PreconditionFailed:
            return None
        return self._blob.generation

    def _holder(self) -> tuple[int, str] | None:
        """Generation and text of what is there, None if nothing is."""
        from google.api_core.exceptions import NotFound

        try:
            self._blob.reload()
            return self._blob.generation, self._blob.download_as_bytes().decode(errors="replace").strip()
        except NotFound:
            return None

    def _taken_over(self, say: Callable[[str], object]) -> int:
        begun, seen, told = time.monotonic(), self._holder(), False
        while True:
            now = self._holder()
            if now is None or seen is None:
                generation = self._put(0)
            elif now[0] != seen[0]:
                raise run_dir.in_use(self._folder, now[1])
            elif time.monotonic() - begun > DEAD_SECONDS or run_dir.has_ended(now[1]):
                generation = self._put(now[0])
            else:
                generation = None
                if not told:
                    told = True
                    say(f"looking for {DEAD_SECONDS:.0f} s whether process {now[1]} lives, which has {self._folder}")
                time.sleep(REFRESH_SECONDS / 5)
            if generation is not None:
                return generation
            seen = seen or now

    def _refresh(self) -> None:
        while not self._ended.wait(REFRESH_SECONDS):
            try:
                generation = self._put(self._generation)
                if generation is None and (now := self._holder()) and now[1] == self._text.strip():
                    generation = now[0]  # it was written, and the answer got lost
            except Exception:
                continue  # no way through: the next try may find one, and if another process took it says so then
            if generation is None:
                self._lost = f"{self._folder} was taken by another process while the bucket could not be reached"
                return
            self._generation = generation

    def check(self) -> None:
        """Raises UserError if another process took the folder: what this one would write is not wanted any more."""
        if self._lost:
            raise UserError(f"{self._lost}; that one goes on from the last checkpoint")

    def release(self) -> None:
        """Lets go of the folder; a failure only means that the next one has to wait."""
        self._ended.set()
        self._thread.join()
        if self._lost is None:
            try:
                self._blob.delete(if_generation_match=self._generation)
            except Exception:
                return


def _explained(folder: Path, action: Callable[[], Any]) -> Any:
    """What the action returns; what goes wrong with a bucket as one line."""
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError

    bucket, _ = filesystem.split_url(folder)
    try:
        return action()
    except GoogleAuthError as error:
        raise UserError(
            f"{folder}: no credentials for the bucket ({first_line(error)}); gcloud auth application-default login"
        ) from error
    except exceptions.NotFound as error:
        raise UserError(
            f"{folder}: there is no bucket {bucket}: gcloud storage buckets create gs://{bucket}"
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise UserError(
            f"{folder}: these credentials may not use the bucket {bucket}: give them roles/storage.objectAdmin and"
            " roles/storage.legacyBucketReader on it"
        ) from error
    except (exceptions.GoogleAPIError, requests.RequestException, OSError) as error:
        raise UserError(f"{folder}: the bucket {bucket} cannot be reached ({first_line(error)}): try again") from error
