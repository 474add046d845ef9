"""The server of tests/object_store.py: `python object_store_server.py FOLDER` prints its port and serves until killed.

An object becomes visible when its upload ends, with a generation and a CRC-32C. There are no folders and no renames.
The JSON API is served over plain HTTP to clients whose endpoint can be set (TensorStore, google-cloud-storage), and
over a proxy with its own certificate to TensorFlow, whose endpoint cannot be set.
"""

import base64
import contextlib
import dataclasses
import datetime
import itertools
import json
import re
import ssl
import sys
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google_crc32c
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


@dataclasses.dataclass(frozen=True)
class Object:
    """One version of an object."""

    data: bytes
    generation: int

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()


class State:
    """The state of the server.

    Attributes:
        objects: by bucket and name.
        requests: (method, path) of each request, in order of arrival.
        refusals: requests to answer with an error, see object_store.Store.refuse.
        matched: the number of requests that matched each refusal.
        uploads: bucket, name, query and received bytes of each resumable upload, by its number.
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
        """Raises Refused if a refusal matches the request."""
        for number, refusal in enumerate(self.refusals):
            if re.fullmatch(refusal["methods"], method) and re.search(refusal["names"], name):
                self.matched[number] += 1
                if self.matched[number] > refusal["after"]:
                    raise Refused(refusal["status"])

    def put(self, bucket: str, name: str, data: bytes) -> Object:
        """Stores an object."""
        with self.lock:
            self.objects[bucket][name] = Object(data, next(self.numbers))
            return self.objects[bucket][name]

    def names(self, bucket: str, prefix: str) -> list[str]:
        with self.lock:
            return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

    def control(self, command: dict[str, Any]) -> Any:
        """Runs a command from a test. Commands are not part of the storage API."""
        match command["command"]:
            case "clear":
                for objects in self.objects.values():
                    objects.clear()
                self.requests, self.refusals, self.matched = [], [], []
            case "refuse":
                self.refusals, self.matched = command["refusals"], [0] * len(command["refusals"])
            case "matched":
                return self.matched
            case "requests":
                return self.requests
            case "names":
                return self.names("bucket", command["prefix"])
            case "read":
                return base64.b64encode(self.objects["bucket"][command["name"]].data).decode()
            case "put":
                self.put("bucket", command["name"], base64.b64decode(command["data"]))
        return None


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, reason: str = ""):
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # answers are two small writes
    state: State

    def log_message(self, *_: object) -> None:
        pass

    def do_CONNECT(self) -> None:
        """Serves the next requests on this connection as the requested host, with our certificate."""
        if self.path.partition(":")[0] not in HOSTS:
            return self._answer(502, b"")
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.wfile.flush()
        with contextlib.suppress(OSError, ssl.SSLError):
            self.connection = self.request = self.state.context.wrap_socket(self.connection, server_side=True)
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
            return self._answer(200, json.dumps(self.state.control(json.loads(data))).encode())
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.state.requests.append((self.command, urllib.parse.unquote(self.path)))
        try:
            status, headers, answer = self._route(url.path, query, data)
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

    def _route(self, path: str, query: dict[str, str], data: bytes) -> Answer:
        for pattern, method in _ROUTES:
            if match := re.fullmatch(pattern, path):
                names = [urllib.parse.unquote(part) for part in match.groups()]
                if names and names[0] not in self.state.objects:
                    raise Refused(404, f"no bucket {names[0]}")
                if len(names) == 2:
                    self.state.check(self.command, "/".join(names))
                with self.state.lock:
                    return method(self, *names, query=query, data=data)
        raise Refused(400, f"{self.command} {path}")

    # ---------------------------------------------------------------- the API

    def _bucket(self, bucket: str, query: dict[str, str], data: bytes) -> Answer:
        return _json({"kind": "storage#bucket", "id": bucket, "name": bucket})

    def _objects(self, bucket: str, query: dict[str, str], data: bytes) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in self.state.names(bucket, prefix):
            head, cut, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
            if cut and (name != prefix + head + cut or query.get("includeTrailingDelimiter") != "true"):
                prefixes.add(prefix + head + cut)
            else:
                items.append(_metadata(bucket, name, self.state.objects[bucket][name]))
        items, prefixes_ = items[: int(query.get("maxResults", 10**6))], sorted(prefixes)
        return _json({"kind": "storage#objects", "items": items, "prefixes": prefixes_})

    def _object(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> Answer:
        objects = self.state.objects[bucket]
        stored = objects.get(name)
        self._check_generation(stored, query)
        if stored is None:
            raise Refused(404, f"no object {bucket}/{name}")
        if self.command == "DELETE":
            del objects[name]
            return 204, {}, b""
        if query.get("alt") == "media":
            return self._media(bucket, name, query, data)
        return _json(_metadata(bucket, name, stored))

    def _media(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> Answer:
        stored = self.state.objects[bucket].get(name)
        if stored is None:
            raise Refused(404, f"no object {bucket}/{name}")
        headers = {"x-goog-generation": str(stored.generation), "x-goog-hash": f"crc32c={stored.crc32c}"}
        if range_ := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, size = int(range_[1]), len(stored.data)
            end = min(int(range_[2] or size - 1), size - 1)
            if begin >= size:
                raise Refused(416)
            headers["Content-Range"] = f"bytes {begin}-{end}/{size}"
            return 206, headers, stored.data[begin : end + 1]
        return 200, headers, stored.data

    def _check_generation(self, stored: Object | None, query: dict[str, str]) -> None:
        generation = query.get("ifGenerationMatch")
        if generation is not None and int(generation) != (stored.generation if stored else 0):
            raise Refused(412, "conditionNotMet")

    def _upload(self, bucket: str, query: dict[str, str], data: bytes) -> Answer:
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])
            assert boundary
            parts = data.split(f"--{boundary[1]}".encode())
            metadata, content = (part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts[1:3])
            name, data = json.loads(metadata)["name"], content
        elif kind == "resumable":
            name = name or json.loads(data)["name"]
        self.state.check(self.command, f"{bucket}/{name}")
        if kind == "resumable":
            number = str(next(self.state.numbers))
            self.state.uploads[number] = bucket, name, query, bytearray()
            host = self.headers["Host"]
            return 200, {"Location": f"{'https' if host in HOSTS else 'http'}://{host}/session/{number}"}, b""
        return self._store(bucket, name, query, data)

    def _store(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> Answer:
        self._check_generation(self.state.objects[bucket].get(name), query)
        return _json(_metadata(bucket, name, self.state.put(bucket, name, data)))

    def _session(self, query: dict[str, str], data: bytes) -> Answer:
        bucket, name, upload_query, received = self.state.uploads[self.path.rpartition("/")[2]]
        self.state.check(self.command, f"{bucket}/{name}")
        if self.command == "DELETE":  # cancelled
            return 204, {}, b""
        received += data
        total = self.headers.get("Content-Range", "").rpartition("/")[2]
        if total == "*" or (total.isdigit() and len(received) < int(total)):
            return 308, {"Range": f"bytes=0-{len(received) - 1}"} if received else {}, b""
        return self._store(bucket, name, upload_query, bytes(received))

    def _rewrite(
        self, bucket: str, name: str, to_bucket: str, to_name: str, query: dict[str, str], data: bytes
    ) -> Answer:
        stored = self.state.objects[bucket].get(name)
        if stored is None:
            raise Refused(404, f"no object {bucket}/{name}")
        copy = self.state.put(to_bucket, to_name, stored.data)
        return _json({"kind": "storage#rewriteResponse", "done": True, "resource": _metadata(to_bucket, to_name, copy)})


_OBJECTS = r"/storage/v1/b/([^/]+)/o"
_ROUTES: list[tuple[str, Callable[..., Answer]]] = [
    (r"/storage/v1/b/([^/]+)", _Handler._bucket),
    (_OBJECTS, _Handler._objects),
    (rf"{_OBJECTS}/([^/]+)/(?:rewriteTo|copyTo)/b/([^/]+)/o/([^/]+)", _Handler._rewrite),
    (rf"{_OBJECTS}/(.+)", _Handler._object),
    (rf"/(?:resumable/)?(?:upload)?{_OBJECTS}", _Handler._upload),
    (rf"/resumable/upload{_OBJECTS}", _Handler._upload),
    (r"/session/\d+", _Handler._session),
    (rf"/download{_OBJECTS}/(.+)", _Handler._media),
    (r"/([^/]+)/(.+)", _Handler._media),
]


def _json(answer: dict[str, Any]) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _metadata(bucket: str, name: str, stored: Object) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(stored.data)),
        "generation": str(stored.generation),
        "metageneration": "1",
        "crc32c": stored.crc32c,
        "updated": "2026-01-01T00:00:00.000Z",
        "timeCreated": "2026-01-01T00:00:00.000Z",
    }


def _certificate(folder: Path) -> ssl.SSLContext:
    """A new self-signed certificate for HOSTS; clients that trust FOLDER/authority.pem accept it."""
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


def serve(folder: Path) -> None:
    class Handler(_Handler):
        state = State(folder)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
