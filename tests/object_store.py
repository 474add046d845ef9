"""A local object store that client libraries use as if it were Google Cloud Storage.

The server (object_store_server.py) is a separate process, because some of TensorFlow's calls hold the GIL while
they wait for a response.
"""

import base64
import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("object_store_server.py")


class Store:
    """A running store with one bucket, gs://bucket.

    Attributes:
        environment: variables that make client libraries use this store instead of the cloud.
    """

    def __init__(self, folder: Path, port: int):
        self._url = f"http://127.0.0.1:{port}"
        self.environment = {
            "STORAGE_EMULATOR_HOST": self._url,
            "TENSORSTORE_GCS_HTTP_URL": self._url,
            "https_proxy": self._url,
            "CURL_CA_BUNDLE": str(folder / "authority.pem"),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "GOOGLE_CLOUD_PROJECT": "project",
            "no_proxy": "127.0.0.1,localhost",
        }

    def _control(self, command: str, **arguments: Any) -> Any:
        data = json.dumps({"command": command, **arguments}).encode()
        with urllib.request.urlopen(f"{self._url}/control", data) as answer:
            return json.loads(answer.read())

    def clear(self) -> None:
        """Removes all objects and refusals."""
        self._control("clear")

    def refuse(self, *refusals: tuple[str, str, int], after: int = 0) -> None:
        """Makes the store answer some requests with an error from now on. Replaces all earlier refusals.

        Args:
            refusals: (methods, names, status): a request is refused if its method matches the first regular expression
                and the object's name contains a match of the second.
            after: the number of matching requests that still succeed.
        """
        fields = [{"methods": m, "names": n, "status": status, "after": after} for m, n, status in refusals]
        self._control("refuse", refusals=fields)

    def matched(self) -> list[int]:
        """The number of requests that matched each refusal, including those that still succeeded."""
        return self._control("matched")

    def requests(self) -> list[tuple[str, str]]:
        """Returns (method, path) of each request since `clear`."""
        return [(method, path) for method, path in self._control("requests")]

    def names(self, prefix: str = "") -> list[str]:
        """Returns the names of all objects with a prefix."""
        return self._control("names", prefix=prefix)

    def read(self, name: str) -> bytes:
        """Returns the content of an object."""
        return base64.b64decode(self._control("read", name=name))

    def text(self, name: str) -> str:
        """Returns the content of an object as text."""
        return self.read(name).decode()

    def put(self, name: str, data: bytes) -> None:
        """Stores an object."""
        self._control("put", name=name, data=base64.b64encode(data).decode())


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[Store]:
    """Runs a store with one empty bucket, until the context is left.

    Args:
        folder: folder for the server's certificate.
    """
    server = subprocess.Popen([sys.executable, SERVER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        yield Store(folder, int(server.stdout.readline()))
    finally:
        server.kill()
        server.wait()
