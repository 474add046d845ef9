"""Operations that only the API of Cloud Storage offers: access checks, checksums of objects, conditional writes.

Everything else in a bucket is read and written through runtime/filesystem.py. The client library is imported when a
function is called, so importing this module costs nothing.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError, first_line
from codellama_jax.runtime import filesystem

ACCESS_CHECK_SECONDS = 20.0  # limit for the retries of the first requests to a bucket
UPLOAD_PART_BYTES = 16 << 20


def object_checksums(folder: Path) -> dict[str, tuple[int, str]]:
    """The size in bytes and the CRC-32C (base64) of every object below a folder, by its path relative to the folder.

    The store keeps both, so no object is read.
    """
    bucket, prefix = _bucket(folder)
    blobs = bucket.list_blobs(prefix=f"{prefix}/", fields="items(name,size,crc32c),nextPageToken")
    # an empty object whose name ends in a slash represents a folder
    return {blob.name[len(prefix) + 1 :]: (blob.size, blob.crc32c) for blob in blobs if not blob.name.endswith("/")}


def check_bucket(folder: Path) -> None:
    """Checks that the bucket of a run folder is reachable and readable.

    Without this check, TensorStore would retry for minutes.

    Raises:
        UserError: the bucket is not, or a package is missing that Orbax needs for this kind of bucket.
    """
    from google.cloud import storage as cloud

    name, prefix = filesystem.split_url(folder)
    retry = cloud.retry.DEFAULT_RETRY.with_timeout(ACCESS_CHECK_SECONDS)
    with errors_as_user_errors(folder):
        bucket = cloud.Client().get_bucket(name, retry=retry)
        next(iter(bucket.list_blobs(prefix=f"{prefix}/", max_results=1, retry=retry)), None)
        hierarchical = bool(bucket.hierarchical_namespace_enabled)
    if hierarchical and not importlib.util.find_spec("google.cloud.storage_control_v2"):
        raise UserError(
            f"{folder}: the bucket {name} has a hierarchical namespace, for which Orbax needs another package:"
            " pip install google-cloud-storage-control, or use a bucket without one"
        )


class ObjectReader:
    """Reads byte ranges of one version of an object. Nothing else of it is in memory.

    Attributes:
        size: its size in bytes.

    Raises:
        UserError: there is no such object, or the bucket cannot be read.
    """

    def __init__(self, path: Path):
        self._path = path
        bucket, name = _bucket(path)
        self._blob = bucket.blob(name)
        with errors_as_user_errors(path):
            self._blob.reload()
        self.size: int = self._blob.size

    def read(self, offset: int, count: int) -> bytes:
        """At most `count` bytes; fewer at the end of the object.

        Raises:
            UserError: the object has been replaced since this one was created, or the bucket cannot be read.
        """
        end = min(offset + count, self.size)
        if end <= offset:
            return b""
        with errors_as_user_errors(self._path):
            return self._blob.download_as_bytes(
                start=offset, end=end - 1, raw_download=True, checksum=None, if_generation_match=self._blob.generation
            )


def open_upload(path: Path) -> Any:
    """Opens a new object for writing, which is uploaded in parts while it is written; one part is in memory.

    The object appears when the file is closed, and never if its method `terminate` is called or the with block raises.
    Methods raise the errors of the client library: see `errors_as_user_errors`.
    """
    bucket, name = _bucket(path)
    return bucket.blob(name).open("wb", chunk_size=UPLOAD_PART_BYTES, ignore_flush=True, if_generation_match=0)


class VersionedObject:
    """A small object that is written only if no other process has changed it.

    Cloud Storage gives each version of an object a number, its generation; generation 0 means that there is no object.

    Methods raise the errors of the client library: see `errors_as_user_errors`.

    Args:
        path: path of the object. The constructor makes no request.
    """

    def __init__(self, path: Path):
        bucket, name = _bucket(path)
        self._blob = bucket.blob(name)

    def write(self, text: str, generation: int) -> int | None:
        """Replaces this generation; returns the new one, or None if the object has another generation."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            self._blob.upload_from_string(text, if_generation_match=generation)
        except PreconditionFailed:
            return None
        return self._blob.generation

    def read(self) -> tuple[int, str] | None:
        """The generation and the text; None if there is no object."""
        from google.api_core.exceptions import NotFound

        try:
            self._blob.reload()
            return self._blob.generation, self._blob.download_as_bytes().decode(errors="replace")
        except NotFound:
            return None

    def delete(self, generation: int) -> None:
        """Deletes this generation; raises an error if the object has another one."""
        self._blob.delete(if_generation_match=generation)


def _bucket(path: Path) -> tuple[Any, str]:
    """The client object of the bucket, and the object name; makes no request."""
    from google.cloud import storage as cloud

    bucket, name = filesystem.split_url(path)
    return cloud.Client().bucket(bucket), name


@contextlib.contextmanager
def errors_as_user_errors(path: Path) -> Iterator[None]:
    """Converts errors of the client library to a UserError with a one-line message that includes the fix."""
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import InvalidResponse

    bucket, _ = filesystem.split_url(path)
    try:
        try:
            yield
        except InvalidResponse as error:  # of an upload or a download
            raise exceptions.from_http_response(error.response) from error
    except GoogleAuthError as error:
        raise UserError(
            f"{path}: no credentials for the bucket ({first_line(error)}): run gcloud auth application-default login"
        ) from error
    except exceptions.NotFound as error:
        raise UserError(
            f"{path}: there is no bucket {bucket}: run gcloud storage buckets create gs://{bucket}"
        ) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise UserError(
            f"{path}: these credentials may not use the bucket {bucket}: give them roles/storage.objectAdmin and"
            " roles/storage.legacyBucketReader on it"
        ) from error
    except (exceptions.GoogleAPIError, requests.RequestException, OSError) as error:
        raise UserError(f"{path}: the bucket {bucket} cannot be reached ({first_line(error)}): try again") from error
