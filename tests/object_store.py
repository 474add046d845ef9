"""A stand-in for Google Cloud Storage on loopback: what it stores, it stores as the real one does.

Objects appear whole when their upload ends, with a generation and a CRC-32C; there are no folders and no renames. The
JSON API is served as plain HTTP to what can be told of it (TensorStore, google-cloud-storage), and through a proxy with
a certificate of its own to what cannot (TensorFlow's file access).

The server is a process of its own, `python object_store.py FOLDER`: some of TensorFlow's calls keep the interpreter's
lock while they wait for an answer. As a module: object_store, which starts it, and Store, which a test speaks to.
"""

import base64
import contextlib
import dataclasses
import datetime
import itertools
import json
import re
import ssl
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google_crc32c
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


@dataclasses.dataclass(frozen=True)
class Object:
    """What is stored under a name."""

    data: bytes
    generation: int

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()


class _Store:
    """What the server knows.

    Attributes:
        objects: by bucket and name.
        requests: (method, path) of each, as they came.
        refusals: what is answered with an error, see Store.refuse; and how many matched each.
    """

    def __init__(self, folder: Path, buckets: tuple[str, ...] = ("bucket",)):
        self.objects: dict[str, dict[str, Object]] = {bucket: {} for bucket in buckets}
        self.requests: list[tuple[str, str]] = []
        self.refusals: list[dict[str, Any]] = []
        self.matched: list[int] = []
        self.lock = threading.RLock()
        self.uploads: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}
        self.numbers = itertools.count(1)
        self.context = _certificate(folder)

    def check(self, method: str, name: str) -> None:
        """Raises Refused where a refusal is of such a request."""
        for number, refusal in enumerate(self.refusals):
            if re.fullmatch(refusal["methods"], method) and re.search(refusal["names"], name):
                self.matched[number] += 1
                if self.matched[number] > refusal["after"]:
                    raise Refused(refusal["status"])

    def put(self, bucket: str, name: str, data: bytes) -> Object:
        """Stores an object."""
        with self.lock:
            self.objects[bucket][name] = made = Object(data, next(self.numbers))
            return made

    def names(self, bucket: str, prefix: str) -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def control(self, asked: dict[str, Any]) -> Any:
        """What a test asks the server for, beside the store's own interface."""
        match asked["what"]:
            case "clear":
                for objects in self.objects.values():
                    objects.clear()
                self.requests, self.refusals, self.matched = [], [], []
            case "refuse":
                self.refusals, self.matched = asked["refusals"], [0] * len(asked["refusals"])
            case "matched":
                return self.matched
            case "requests":
                return self.requests
            case "names":
                return self.names("bucket", asked["prefix"])
            case "read":
                return base64.b64encode(self.objects["bucket"][asked["name"]].data).decode()
            case "put":
                self.put("bucket", asked["name"], base64.b64decode(asked["data"]))
        return None


class Store:
    """A test's side of the store, which has one bucket, gs://bucket.

    Attributes:
        environment: what a process needs to take the store for the cloud.
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

    def _asked(self, what: str, **arguments: Any) -> Any:
        data = json.dumps({"what": what, **arguments}).encode()
        with urllib.request.urlopen(f"{self._url}/control", data) as answer:
            return json.loads(answer.read())

    def clear(self) -> None:
        """Removes all objects and refusals."""
        self._asked("clear")

    def refuse(self, *refusals: tuple[str, str, int], after: int = 0) -> None:
        """From now on, requests are answered with an error: for each (methods, part of the names, status), the first
        two regular expressions, but for the first `after` such requests. What was refused before is let pass."""
        named = [{"methods": m, "names": n, "status": status, "after": after} for m, n, status in refusals]
        self._asked("refuse", refusals=named)

    def matched(self) -> list[int]:
        """How many requests each of the refusals was of, those that passed included."""
        return self._asked("matched")

    def requests(self) -> list[tuple[str, str]]:
        """(method, path) of each request since `clear`."""
        return [(method, path) for method, path in self._asked("requests")]

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects whose names begin so."""
        return self._asked("names", prefix=prefix)

    def read(self, name: str) -> bytes:
        """An object's content."""
        return base64.b64decode(self._asked("read", name=name))

    def text(self, name: str) -> str:
        """The same as text."""
        return self.read(name).decode()

    def put(self, name: str, data: bytes) -> None:
        """Stores an object."""
        self._asked("put", name=name, data=base64.b64encode(data).decode())


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str = ""):
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers are two small writes
    of: _Store

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        """What follows on this connection is the other side's, under our certificate."""
        if self.path.partition(":")[0] not in HOSTS:
            return self._answer(502, b"")
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.wfile.flush()
        with contextlib.suppress(OSError, ssl.SSLError):
            self.connection = self.request = self.of.context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb", -1)
            self.wfile = self.connection.makefile("wb", 0)
            self.close_connection = False
            while not self.close_connection:
                self.handle_one_request()

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_PATCH = do_GET

    def _serve(self) -> None:
        data = self._body()
        if self.path == "/control":
            return self._answer(200, json.dumps(self.of.control(json.loads(data))).encode())
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.of.requests.append((self.command, urllib.parse.unquote(self.path)))
        try:
            status, headers, answer = self._routed(url.path, query, data)
        except Refused as refused:
            error = {"error": {"code": refused.status, "message": refused.reason or "refused", "errors": []}}
            status, headers, answer = refused.status, {"Content-Type": "application/json"}, json.dumps(error).encode()
        self._answer(status, answer, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _routed(self, path: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, path):
                names = [urllib.parse.unquote(part) for part in found.groups()]
                if names and names[0] not in self.of.objects:
                    raise Refused(404, f"no bucket {names[0]}")
                if len(names) == 2:
                    self.of.check(self.command, "/".join(names))
                with self.of.lock:
                    return method(self, *names, query=query, data=data)
        raise Refused(400, f"{self.command} {path}")

    # ------------------------------------------------------------------------------------------------ the calls

    def _bucket(self, bucket: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        return _json({"kind": "storage#bucket", "id": bucket, "name": bucket})

    def _objects(self, bucket: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in self.of.names(bucket, prefix):
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if cut and (name != prefix + head + cut or query.get("includeTrailingDelimiter") != "true"):
                prefixes.add(prefix + head + cut)
            else:
                items.append(_described(bucket, name, self.of.objects[bucket][name]))
        items, prefixes_ = items[: int(query.get("maxResults", 10**6))], sorted(prefixes)
        return _json({"kind": "storage#objects", "items": items, "prefixes": prefixes_})

    def _object(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        objects = self.of.objects[bucket]
        found = objects.get(name)
        self._check(found, query)
        if found is None:
            raise Refused(404, f"no object {bucket}/{name}")
        if self.command == "DELETE":
            del objects[name]
            return 204, {}, b""
        if query.get("alt") == "media":
            return self._media(bucket, name, query, data)
        return _json(_described(bucket, name, found))

    def _media(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        found = self.of.objects[bucket].get(name)
        if found is None:
            raise Refused(404, f"no object {bucket}/{name}")
        headers = {"x-goog-generation": str(found.generation), "x-goog-hash": f"crc32c={found.crc32c}"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, size = int(wanted[1]), len(found.data)
            end = min(int(wanted[2] or size - 1), size - 1)
            if begin >= size:
                raise Refused(416)
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
            return 206, headers, found.data[begin : end + 1]
        return 200, headers, found.data

    def _check(self, found: Object | None, query: dict[str, str]) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            raise Refused(412, "conditionNotMet")

    def _upload(self, bucket: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary
            parts = data.split(f"--{boundary[1]}".encode())
            described, content = (part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:3])
            name, data = json.loads(described)["name"], content
        elif kind == "resumable":
            name = name or json.loads(data)["name"]
        self.of.check(self.command, f"{bucket}/{name}")
        if kind == "resumable":
            number = str(next(self.of.numbers))
            self.of.uploads[number] = bucket, name, query, bytearray()
            return 200, {"Location": f"https://{HOSTS[0]}/session/{number}"}, b""
        return self._stored(bucket, name, query, data)

    def _stored(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        self._check(self.of.objects[bucket].get(name), query)
        return _json(_described(bucket, name, self.of.put(bucket, name, data)))

    def _session(self, query: dict[str, str], data: bytes) -> tuple[int, dict[str, str], bytes]:
        bucket, name, asked, received = self.of.uploads[self.path.rpartition("/")[2]]
        self.of.check(self.command, f"{bucket}/{name}")
        received += data
        total = self.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdigit() and len(received) < int(total):
            return 308, {"Range": f"bytes=0-{len(received) - 1}"} if received else {}, b""
        return self._stored(bucket, name, asked, bytes(received))

    def _rewrite(
        self, bucket: str, name: str, to_bucket: str, to_name: str, query: dict[str, str], data: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        found = self.of.objects[bucket].get(name)
        if found is None:
            raise Refused(404, f"no object {bucket}/{name}")
        made = self.of.put(to_bucket, to_name, found.data)
        return _json(
            {"kind": "storage#rewriteResponse", "done": True, "resource": _described(to_bucket, to_name, made)}
        )


_O = r"/storage/v1/b/([^/]+)/o"
_ROUTES: list[tuple[str, Callable[..., tuple[int, dict[str, str], bytes]]]] = [
    (r"/storage/v1/b/([^/]+)", _Handler._bucket),
    (_O, _Handler._objects),
    (rf"{_O}/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", _Handler._rewrite),
    (rf"{_O}/(.+)", _Handler._object),
    (rf"/(?:resumable/)?(?:upload)?{_O}", _Handler._upload),
    (rf"/resumable/upload{_O}", _Handler._upload),
    (r"/session/\d+", _Handler._session),
    (rf"/download{_O}/(.+)", _Handler._media),
    (r"/([^/]+)/(.+)", _Handler._media),
]


def _json(answer: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _described(bucket: str, name: str, found: Object) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(found.data)),
        "generation": str(found.generation),
        "metageneration": "1",
        "crc32c": found.crc32c,
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
    }


def _certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for HOSTS, made here, that only `authority.pem` vouches for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "authority.pem", folder / "key.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pkcs8 = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return context


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[Store]:
    """A store with one empty bucket, as long as the block lasts."""
    server = subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        yield Store(folder, int(server.stdout.readline()))
    finally:
        server.kill()
        server.wait()


def _serve(folder: Path) -> None:
    class Handler(_Handler):
        of = _Store(folder)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
