"""HTTP/1.1 on uvicorn: time limits for slow clients, errors in JSON, and a shutdown that loses no answer."""

import asyncio
import json
import logging
import signal
import sys
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from codellama_jax.config.serving import Server
from codellama_jax.serving import http
from codellama_jax.serving.http import ApiError
from codellama_jax.serving.service import Service

logger = logging.getLogger(__name__)

_IDLE = 75  # seconds that a connection may be open between two requests
_SPARE = 64  # connections beyond Server.connections, so that their requests get an answer
_LONGEST_HEADER = 2**16  # bytes
_LAST_BYTES = 5.0  # seconds in which clients have to read the ends of their answers at a shutdown


class _Protocol(h11.Connection):
    """h11, with a shorter way for the parts of a stream, which are most of what is sent."""

    def __init__(self, longest: int):
        super().__init__(h11.SERVER, longest)
        self._chunked = False  # whether the answer is sent in chunks

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        if self._chunked and type(event) is h11.Data and event.data and self.our_state is h11.SEND_BODY:
            return [b"%x\r\n" % len(event.data), event.data, b"\r\n"]  # RFC 9112, section 7.1
        data = super().send_with_data_passthrough(event)
        if type(event) is h11.Response:
            self._chunked = b"\r\nTransfer-Encoding: chunked\r\n" in b"".join(data or [])
        return data


class Connection(H11Protocol):
    """A connection that is closed when its client stops sending a request, or stops reading an answer."""

    settings = Server()

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        self.conn = _Protocol(_LONGEST_HEADER)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        if len(self.connections) > self.settings.connections + _SPARE:
            transport.abort()
            return
        self._limit("request", True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # IDLE: the header is not complete; SEND_BODY: nor is the body
        self._limit("request", self.conn.their_state in (h11.IDLE, h11.SEND_BODY))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limit("answer", True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._limit("answer", False)

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._limit(name, False)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP. Called while the error is handled."""
        error = sys.exception()
        status = getattr(error, "error_status_hint", 400)
        logger.info("%s sent an invalid request: %s", (self.client or ("?",))[0], error)
        body = json.dumps(http.error_form(ApiError(status, f"this is not valid HTTP: {error}"))).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("Connection", "close")]
        try:
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an earlier part of the request was answered already
        self.transport.close()

    def _limit(self, name: str, waiting: bool) -> None:
        """Starts or stops the time limit for what the connection waits for."""
        if not waiting:
            timer = self._timers.pop(name, None)
            if timer is not None:
                timer.cancel()
        elif name not in self._timers:
            self._timers[name] = self.loop.call_later(self.settings.stalled, self.transport.abort)


class HttpServer(uvicorn.Server):
    """Serves the application until a signal, or until the engine fails.

    At the first SIGTERM or SIGINT the service takes no more jobs: requests get 503, and /readyz says so. Running
    requests have `Server.shutdown` seconds to finish, and then end with the text that they have. A second SIGINT ends
    the server at once; a second SIGTERM changes nothing, because some supervisors send two at a time.
    """

    def __init__(self, application: Any, service: Service, settings: Server):
        connection = type("Connection", (Connection,), {"settings": settings})
        config = uvicorn.Config(
            application,
            http=connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=round(_LAST_BYTES),
            server_header=False,
        )
        super().__init__(config)
        errors = logging.getLogger("uvicorn.error")
        errors.setLevel(logging.ERROR)  # Connection logs invalid requests
        errors.addFilter(_is_a_fault)
        self._service, self._grace = service, settings.shutdown
        self._closing: float | None = None  # since when
        self._started, self._said_ready, self._said_closing = time.monotonic(), False, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._closing is None:
            self._service.close()
            self._closing = time.monotonic()
        elif sig == signal.SIGINT:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        if self._closing is not None and not self.should_exit:
            late = time.monotonic() > self._closing + self._grace
            if late:
                self._service.end_all()
            left = self._service.waiting + self._service.active
            self.should_exit = late or left == 0
            if not self.should_exit and not self._said_closing:
                logger.info("shutting down when %d answers have ended, or in %.0f s; Ctrl-C: now", left, self._grace)
                self._said_closing = True
        self.should_exit |= self._service.failure is not None
        if self._service.ready and not self._said_ready:
            logger.info("ready after %.1f s", time.monotonic() - self._started)
            self._said_ready = True
        return await super().on_tick(counter)


def _is_a_fault(record: logging.LogRecord) -> bool:
    """Whether a message of uvicorn is more than that a shutdown has cancelled a request."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown exceeded" not in record.getMessage()
