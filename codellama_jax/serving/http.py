"""What the HTTP APIs share: reading requests, answers and streams, and errors in each protocol's own form."""

import asyncio
import contextlib
import dataclasses
import difflib
import functools
import json
import logging
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from codellama_jax.errors import UserError, first_line
from codellama_jax.serving.jobs import EngineFailed, Refused

logger = logging.getLogger(__name__)

T = TypeVar("T")
CLIENT_GONE = 499  # the status of a request whose client went away before the answer began

Handler = Callable[[Request], Awaitable[Response]]
ErrorForm = Callable[["ApiError"], Any]


@dataclasses.dataclass
class ApiError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status.
        message: what is wrong, and the remedy.
        parameter: the field of the request that is wrong, if it is one.
        retry_after: seconds after which another try makes sense.
    """

    status: int
    message: str
    parameter: str | None = None
    retry_after: int | None = None


def error_form(problem: ApiError) -> dict[str, Any]:
    """An error in the form of OpenAI's API, which is also used where no protocol is known."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(problem.status, "invalid_request_error" if problem.status < 500 else "server_error")
    return {"error": {"message": problem.message, "type": kind, "param": problem.parameter, "code": problem.status}}


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def compact(value: Any) -> bytes:
    """JSON without blanks: llama.vim drops replies that have one after a colon."""
    return _ENCODER.encode(value).encode()


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(compact(value), status, headers, "application/json")


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + compact(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def line(value: Any) -> bytes:
    """One line of newline-delimited JSON."""
    return compact(value) + b"\n"


class Stream(Response):
    """A response whose parts are sent as they come. The iterator is closed when the client goes away.

    Starlette's own starts a group of tasks for this, which takes a third of the processor time of a short answer.

    Args:
        parts: the body.
        media_type: its content type.
    """

    def __init__(self, parts: AsyncGenerator[bytes, None], media_type: str = "text/event-stream"):
        self._parts = parts
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, left = asyncio.current_task(), False
        assert task is not None

        async def watch() -> None:
            nonlocal left
            await _disconnected(receive)
            left = True
            task.cancel()

        watching = asyncio.ensure_future(watch())
        try:
            async with contextlib.aclosing(self._parts):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for part in self._parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not left:
                raise
            task.uncancel()
        finally:
            watching.cancel()


async def _disconnected(receive: Receive) -> None:
    """Waits until the client goes away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def endpoint(form: ErrorForm) -> Callable[[Handler], Handler]:
    """Makes a handler answer errors in the form of its protocol: `form` returns the JSON of an error."""

    def wrap(handler: Handler) -> Handler:
        @functools.wraps(handler)
        async def wrapped(request: Request) -> Response:
            try:
                return await handler(request)
            except ClientDisconnect:
                return Response(status_code=CLIENT_GONE)
            except Exception as error:
                return error_response(error, form)

        return wrapped

    return wrap


def error_response(error: Exception, form: ErrorForm) -> Response:
    problem = api_error(error)
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return json_response(form(problem), problem.status, headers)


def api_error(error: Exception) -> ApiError:
    """An error as clients may see it. Errors that are not expected are logged, and not shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError | ValueError):
        return ApiError(400, first_line(error, 1000))
    if isinstance(error, Refused):
        return ApiError(429 if error.overloaded else 503, str(error), retry_after=error.retry_after)
    if isinstance(error, EngineFailed):
        return ApiError(503, str(error), retry_after=30)
    logger.exception("a request failed")
    return ApiError(500, "the server could not answer this request; its log has the reason")


async def until_disconnect(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Awaits an answer; cancels it if the client goes away first.

    Raises:
        ClientDisconnect: the client has gone.
    """
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        for task in (answering, leaving):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await answering


class Fields:
    """The fields of a JSON object, read by name and type.

        fields = Fields(await body(request), "/v1/completions")
        prompt = fields.text("prompt")
        fields.finish(ignored=("user",))

    null means that a field is not given. Every error names the field.
    """

    def __init__(self, values: dict[str, Any], where: str):
        self._values, self._where = values, where
        self._known: set[str] = set()
        self._refused: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def raw(self, name: str, default: Any = None) -> Any:
        self._known.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.raw(name, default)
        if value is None:
            raise ApiError(400, f"{name} is missing: it must be a string", name)
        if not isinstance(value, str):
            raise ApiError(400, f"{name} must be a string, not {_kind(value)}", name)
        return value

    def integer(self, name: str, default: int | None, low: int | None = None, high: int | None = None) -> Any:
        value = self.raw(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ApiError(400, f"{name} must be an integer, not {_kind(value)}", name)
        return self._within(name, value, low, high)

    def number(self, name: str, default: float | None, low: float | None = None, high: float | None = None) -> Any:
        value = self.raw(name, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ApiError(400, f"{name} must be a number, not {_kind(value)}", name)
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ApiError(400, f"{name} is larger than any floating-point number", name)
        return self._within(name, value, low, high)

    def boolean(self, name: str, default: bool) -> bool:
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise ApiError(400, f"{name} must be true or false, not {_kind(value)}", name)
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A string, or a list of strings."""
        value = self.raw(name, [])
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise ApiError(400, f"{name} must be a string or a list of strings", name)
        return tuple(value)

    def object(self, name: str) -> Self:
        value = self.raw(name, {})
        if not isinstance(value, dict):
            raise ApiError(400, f"{name} must be an object, not {_kind(value)}", name)
        return type(self)(value, f"{self._where}, {name}")

    def refuse(self, name: str, reason: str, accepted: Sequence[Any] = ()) -> None:
        """Refuses a field that is not supported, unless it has one of the values that change nothing."""
        if name in self and self.raw(name) not in accepted:
            raise ApiError(400, f"{name} is not supported: {reason}", name)
        self._known.add(name)
        self._refused.add(name)

    def unknown(self, ignored: Sequence[str] = ()) -> list[str]:
        """The names that were not read and are not ignored."""
        return [name for name in self._values if name in self and name not in self._known and name not in ignored]

    def finish(self, ignored: Sequence[str] = ()) -> None:
        """Refuses fields that were not read.

        Args:
            ignored: fields that change nothing that is generated.
        """
        for name in self.unknown(ignored):
            close = difflib.get_close_matches(name, [*self._known, *ignored], 1)
            names = ", ".join(sorted(self._known - self._refused))
            hint = f": did you mean {close[0]}?" if close else f"; {self._where} has {names}"
            raise ApiError(400, f"unknown field {name[:100]!r}{hint}", name[:100])

    def _within(self, name: str, value: Any, low: float | None, high: float | None) -> Any:
        if value is not None and not ((low is None or value >= low) and (high is None or value <= high)):
            limits = [f"at least {low}" if low is not None else "", f"at most {high}" if high is not None else ""]
            raise ApiError(400, f"{name}={str(value)[:40]} must be {' and '.join(filter(None, limits))}", name)
        return value


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}.get(type(value), f"{value!r:.40}")


async def fields(request: Request) -> Fields:
    """The fields of a request's body. Its `model` is also kept in the request's state, for Api.adapter.

    Raises:
        ApiError: the body is not a JSON object of valid Unicode.
    """
    data = await request.body()  # its size is limited by the middleware
    try:
        values = json.loads(data or b"{}", parse_constant=_no_constant)
        if b"\\u" in data:  # of these, JSON can contain halves of surrogate pairs
            json.dumps(values, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else first_line(error)
        raise ApiError(400, f"the body is not valid JSON: {reason}") from None
    if not isinstance(values, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind(values)}")
    request.scope.setdefault("state", {})["model"] = values.get("model")
    return Fields(values, request.scope["path"])  # not request.url, which depends on the Host header


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
