"""Whom the server answers: the checks that every request must pass before anything else reads it."""

import hmac
import ipaddress
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_jax.config.serving import Server
from codellama_jax.serving import error_forms, http
from codellama_jax.serving.http import ApiError

OPEN_PATHS = ("/", "/health", "/livez", "/readyz")  # need no key: they say nothing but whether it works

_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:/@\[\]]+)(:[0-9]{0,5})?")  # name and port


class SiteGuard:
    """Checks the Host and Origin headers, so that a web page cannot use the server unless its site is allowed.

    A page can reach the loopback interface. A browser tells by Origin from where it sends a request; without that, the
    site's name in Host shows that it was made to point here (DNS rebinding). Addresses and localhost are always
    accepted as Host, because they cannot be made to point elsewhere.
    """

    def __init__(self, app: ASGIApp, settings: Server):
        self._app = app
        self._hosts = {name.lower() for name in (settings.host, *settings.allowed_hosts)}
        self._origins = {origin.lower() for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            hosts = headers.getlist("host")
            if (absolute := _ABSOLUTE.fullmatch(scope["path"])) is not None:  # RFC 9112, section 3.2.2
                hosts.append(absolute[1])
                scope = {**scope, "path": absolute[2] or "/"}
            problem = self._problem(hosts, headers.getlist("origin"))
            if problem is not None:
                await http.error_response(problem, error_forms.of_path(scope["path"]))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _problem(self, hosts: list[str], origins: list[str]) -> ApiError | None:
        for host in hosts:  # none: HTTP/1.0, which no browser sends
            if not self._is_host(host.lower()):
                return ApiError(
                    403, f"the Host header {host[:100]!r} is not allowed: --allowed_host=NAME allows a name"
                )
        own = {f"{scheme}://{host.lower()}" for scheme in ("http", "https") for host in hosts}
        for origin in origins:
            if "*" not in self._origins and origin.lower() not in self._origins | own:
                return ApiError(403, f"the Origin {origin[:100]!r} is not allowed: --allowed_origin=ORIGIN allows one")
        return None

    def _is_host(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].removesuffix(".")
        if {"*", name, host} & self._hosts or name == "localhost" or name.endswith(".localhost"):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


class ClientGuard:
    """Checks the API key, and limits the size of the body and the number of requests at a time."""

    def __init__(self, app: ASGIApp, settings: Server):
        self._app, self._settings = app, settings
        self._keys = [key.encode() for key in settings.api_keys]
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(scope["path"], Headers(scope=scope))
        if problem is not None:
            await http.error_response(problem, error_forms.of_path(scope["path"]))(scope, receive, send)
            return
        self._running += 1
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._running -= 1

    def _problem(self, path: str, headers: Headers) -> ApiError | None:
        if path not in OPEN_PATHS:
            if self._keys and not self._has_key(headers):
                return ApiError(401, "a valid API key is missing: send the header Authorization: Bearer KEY")
            if self._running >= self._settings.connections:
                return ApiError(503, "too many requests at a time; try again later", retry_after=1)
        length = headers.get("content-length", "0")
        return self._too_large() if length.isdecimal() and int(length) > self._settings.body else None

    def _has_key(self, headers: Headers) -> bool:
        # every key is compared in constant time, so that the time tells nothing about the keys
        return bool(sum([hmac.compare_digest(given, key) for given in given_keys(headers) for key in self._keys]))

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self._settings.body:,} bytes")

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.body:
                raise self._too_large()
            return message

        return limited


def given_keys(headers: Headers) -> list[bytes]:
    """The API keys of a request, in the headers that clients use: Authorization, X-API-Key and Api-Key."""
    keys = [value[7:] for value in headers.getlist("authorization") if value[:7].lower() == "bearer "]
    keys += headers.getlist("x-api-key") + headers.getlist("api-key")
    return [key.strip().encode("latin-1") for key in keys]
