"""Clients that keep a server busy, in one thread and with little work for each token."""

import asyncio
import contextlib
import dataclasses
import json
import random
import re
import time
from collections.abc import Callable

USAGE = re.compile(rb'"completion_tokens":(\d+)')


@dataclasses.dataclass
class Figures:
    """What the clients saw. Times are seconds.

    Attributes:
        first: from sending a request to its first token, of each request.
        pauses: between two parts of an answer. A part has the tokens of one dispatch.
        per_token: of each further token, on average over each answer.
        tokens: tokens received.
        errors: what was not as it should be.
    """

    first: list[float] = dataclasses.field(default_factory=list)
    pauses: list[float] = dataclasses.field(default_factory=list)
    per_token: list[float] = dataclasses.field(default_factory=list)
    tokens: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)


class Client(asyncio.Protocol):
    """Sends requests over one connection, the next when an answer is complete.

    Args:
        name: its User-Agent; the server takes turns between programs.
        body: returns the body of the next request, or None at the end.
        figures: where to record.
        done: called when the connection is closed.
    """

    def __init__(self, name: str, body: Callable[[], bytes | None], figures: Figures, done: Callable[[], None]):
        self._name, self._body, self._figures, self._done = name, body, figures, done
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        body = self._body()
        self._busy = body is not None
        if body is None:
            self._transport.close()
            return
        self._tail, self._parts = b"", 0
        self._start = self._last = time.perf_counter()
        self._transport.write(request(body, self._name))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now, figures = time.perf_counter(), self._figures
        if not self._parts and data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            status, body = data.split(b"\r\n", 1)[0], data.rpartition(b"\r\n\r\n")[2]
            figures.errors.append((status + b" " + body)[:200].decode(errors="replace"))
            self._busy = False
            self._transport.close()
            return
        if b'data: {"error"' in data:
            figures.errors.append(data[-200:].decode(errors="replace"))
        if b'"text":' in data:
            if not self._parts:
                figures.first.append(now - self._start)
                self._first = now
            else:
                figures.pauses.append(now - self._last)
            self._parts, self._last = self._parts + 1, now
        self._tail = self._tail[-400:] + data
        if self._tail.endswith(b"0\r\n\r\n") and b"data: [DONE]" in self._tail:
            found = USAGE.search(self._tail)
            tokens = int(found[1]) if found else 0
            figures.tokens += tokens
            if tokens > 1:
                figures.per_token.append((self._last - self._first) / (tokens - 1))
            self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self._busy:
            self._figures.errors.append(f"the connection was closed in an answer: {error}")
        self._done()


def request(body: bytes, name: str = "bad") -> bytes:
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: {name}\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def load(port: int, clients: int, body: Callable[[], bytes | None]) -> Figures:
    """Runs clients until `body` returns None to each of them."""
    figures, ends = Figures(), [asyncio.Event() for _ in range(clients)]
    loop = asyncio.get_running_loop()
    for number, end in enumerate(ends):
        client = Client(f"client {number}", body, figures, end.set)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(end.wait() for end in ends))
    return figures


async def misbehave(port: int, stop: asyncio.Event, body: Callable[[], bytes]) -> int:
    """Clients that die, read slowly and send garbage, until `stop` is set. Returns the number of their connections."""
    rng = random.Random(0)
    count = 0

    async def die() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request(body()))
        await reader.read(300)
        writer.transport.abort()

    async def read_slowly() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=64)
        writer.write(request(body()))
        for _ in range(40):
            await reader.read(1)
            await asyncio.sleep(0.05)
        writer.transport.abort()

    async def send_garbage() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        choices = [
            rng.randbytes(500) + b"\r\n\r\n",
            request(rng.randbytes(200)),
            request(json.dumps({"prompt": ["x"], "max_tokens": "many"}).encode()),
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        ]
        writer.write(rng.choice(choices))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1000), 0.5)
        writer.transport.abort()

    async def repeat(behaviour: Callable) -> None:
        nonlocal count
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the server may close the connection first
                await behaviour()
            count += 1
            await asyncio.sleep(0.1)

    await asyncio.gather(*(repeat(behaviour) for behaviour in (die, read_slowly, send_garbage) for _ in range(2)))
    return count


async def cancel(port: int, count: int, body: Callable[[], bytes]) -> None:
    """Opens `count` streams, 32 at a time, and closes each connection after the first bytes of its answer."""
    free = asyncio.Semaphore(32)

    async def one(number: int) -> None:
        async with free:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request(body()))
            if number % 2:  # the others are closed while they wait or while their prompt is processed
                await reader.read(100)
            writer.transport.abort()

    await asyncio.gather(*map(one, range(count)))
