"""The server's application: the routes of all protocols, behind the checks that every request must pass."""

import contextlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from codellama_jax.config.serving import Server
from codellama_jax.serving import http, openai, page
from codellama_jax.serving.api import Api
from codellama_jax.serving.http import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
# These need no key: they say nothing but whether it works.
OPEN_PATHS = (page.PATH, "/health", "/v1/health", "/livez", "/readyz")


def application(api: Api) -> Starlette:
    """The application of a served model. Its service must have been started."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        api.service.stop()

    async def live(request: Request) -> Response:
        failed = api.service.failure is not None
        return http.json_response({"status": "failed" if failed else "ok"}, 500 if failed else 200)

    async def ready(request: Request) -> Response:
        is_ready = api.service.ready
        return http.json_response({"status": "ok" if is_ready else "loading"}, 200 if is_ready else 503)

    async def missing(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        reason = "no such path" if status == 404 else "this method is not allowed here"
        return http.json_response(
            openai.error(ApiError(status, f"{request.method} {request.url.path}: {reason}")), status
        )

    return Starlette(
        routes=[*openai.routes(api), *page.routes(api), Route("/livez", live), Route("/readyz", ready)],
        middleware=[Middleware(Guard, settings=api.settings)],
        exception_handlers={404: missing, 405: missing},
        lifespan=lifespan,
    )


class Guard:
    """Checks the Host and Origin headers, the API key and the size of the body before anything else reads a request."""

    def __init__(self, app: ASGIApp, settings: Server):
        self._app, self._settings = app, settings
        self._hosts = {*LOOPBACK, settings.host, *settings.allowed_hosts}
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        problem = self._problem(Request(scope))
        if problem is not None:
            await http.json_response(openai.error(problem), problem.status)(scope, receive, send)
            return
        await self._app(scope, self._limited(receive), send)

    def _problem(self, request: Request) -> ApiError | None:
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if "*" not in self._hosts and name.lower() not in self._hosts and host.lower() not in self._hosts:
            return ApiError(403, f"the Host header {host[:100]!r} is not allowed: --allowed_host=NAME allows a name")
        origin = request.headers.get("origin")
        own = (f"http://{host}", f"https://{host}")
        if origin is not None and origin not in own and origin not in self._settings.allowed_origins:
            return ApiError(403, f"the Origin {origin[:100]!r} is not allowed: --allowed_origin=ORIGIN allows one")
        if self._keys and request.url.path not in OPEN_PATHS and not self._has_key(request):
            return ApiError(401, "a valid API key is missing: send Authorization: Bearer KEY")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._settings.body:
            return ApiError(413, f"the body is larger than {self._settings.body:,} bytes")
        return None

    def _has_key(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        given = given or request.headers.get("x-api-key", "")
        # every key is compared, so that the time tells nothing about the keys
        return bool(sum([hmac.compare_digest(given.encode(), key) for key in self._keys]))

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def limited() -> Message:
            nonlocal read
            message: Any = await receive()
            read += len(message.get("body", b""))
            if read > self._settings.body:
                raise ApiError(413, f"the body is larger than {self._settings.body:,} bytes")
            return message

        return limited
