"""A thousand malformed requests: every one is refused, nothing is logged as an error, and the server goes on.

The protocols of llama.cpp, Ollama and Tabby ignore some fields, so what is sent there may also be answered.
"""

import asyncio
import contextlib
import gc
import itertools
import json
import logging
import random
import re
import resource
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx

ENDPOINTS = {
    "/v1/completions": {"prompt": "def f(", "max_tokens": 2},
    "/beta/completions": {"prompt": "def f(", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2},
    "/v1/fim/completions": {"prompt": "def f(", "suffix": "\n", "max_tokens": 2},
}
FIELDS = [
    "prompt",
    "suffix",
    "messages",
    "tools",
    "n",
    "best_of",
    "max_tokens",
    "min_tokens",
    "stop",
    "seed",
    "random_seed",
    "logprobs",
]
FIELDS += ["echo", "stream", "stream_options", "top_p", "top_k", "min_p", "temperature", "presence_penalty"]
FIELDS += [
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "token_healing",
    "infill_order",
    "logit_bias",
    "Temperature",
    "\x00",
]
# JSON that no field accepts
VALUES = [
    '{"a": [1]}',
    "[[[]]]",
    "[null]",
    "[{}]",
    "1e999",
    "-1e999",
    "NaN",
    "-Infinity",
    '"\\ud800"',
    '"' + "x" * 9999,
]
VALUES += ["9" * 5000, "t", "[" * 5000, '{"a":' * 5000, "", "01", "'x'", '{"a": 1} x', "-", '[1, "a"]', "[true, 1]"]
# JSON that some fields accept
EXTREMES = ["9" * 400, "-" + "9" * 400, "1e308", "-1e308", "5e-324", "-1", "0", "0.5", "true", "[]", "{}", '""']
EXTREMES += ['["", "a"]']
LENIENT: dict[str, tuple[str, str]] = {
    "/infill": (
        '{"input_prefix": "def f(", "input_suffix": "\\n", "n_predict": 2, %s}',
        "input_prefix input_suffix input_extra prompt n_predict max_tokens stop seed stream temperature top_k top_p"
        " min_p repeat_penalty presence_penalty frequency_penalty n_probs samplers n_indent t_max_predict_ms n_cmpl n"
        " response_fields return_tokens id_slot cache_prompt grammar logit_bias mirostat model",
    ),
    "/completion": ('{"prompt": "def f(", "n_predict": 2, %s}', "prompt n_predict samplers n_probs stop"),
    "/tokenize": ('{"content": "a", %s}', "content add_special with_pieces"),
    "/detokenize": ("{%s}", "tokens"),
    "/api/generate": (
        '{"prompt": "def f(", "stream": false, "options": {"num_predict": 2}, %s}',
        "prompt suffix raw stream system truncate format context images think logprobs top_logprobs keep_alive",
    ),
    "/api/generate?": (
        '{"prompt": "def f(", "options": {"num_predict": 2, %s}}',
        "num_predict temperature top_k top_p min_p stop seed repeat_penalty presence_penalty num_ctx mirostat",
    ),
    "/api/chat": (
        '{"messages": [{"role": "user", "content": "a"}], "stream": false, "options": {"num_predict": 2}, %s}',
        "messages tools stream think logprobs top_logprobs truncate",
    ),
    "/api/chat?": ('{"messages": [{%s}], "options": {"num_predict": 2}}', "role content images"),
    "/api/show": ("{%s}", "model name verbose"),
    "/v1/completions?": (
        '{"segments": {"prefix": "def f("}, "language": "python", %s}',
        "segments language temperature seed mode debug_options user",
    ),
    "/v1/completions?segments": (
        '{"segments": {"prefix": "def f(", %s}}',
        "prefix suffix declarations relevant_snippets_from_changed_files clipboard filepath",
    ),
}
BODIES = [b"", b"[]", b"null", b'"text"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00" * 100, b"{" * 100_000, b"prompt=x"]
BODIES += [b'{"prompt": "\xff"}', b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "a", "prompt": 5}', b'{"prompt":"x"}}']
HEADERS = ["Host: evil.com", "Host: [", "Host: a b", "Host: \xe9", "Origin: http://evil.com", "Origin: null"]
HEADERS += ["Content-Length: -1", "Content-Length: 99999999999", "Content-Length: 5, 6", "Transfer-Encoding: gzip"]
HEADERS += [
    "Transfer-Encoding: chunked, chunked",
    "No colon",
    ": no name",
    "X: " + "y" * 70_000,
    "X: a\x00b",
    "X\x01: y",
]
LINES = ["GET", "GET /", "GET /nowhere HTTP/9.9", "\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0", "G\xe9T / HTTP/1.1"]
LINES += [
    "GET /v1/models HTTP/1.1 x",
    "GET http://[ HTTP/1.1",
    "GET " + "/x" * 50_000 + " HTTP/1.1",
    " ",
    "x" * 200_000,
]
PATHS = [
    "//",
    "/v1",
    "/v1/completions/",
    "/v1/models/..%2f..%2fetc",
    "/%00",
    "/%ff%fe",
    "/v1/models/%0a",
    "/\\",
    "*",
]
PATHS += ["/v1//completions", "/livez/x", "http://localhost/nowhere", "localhost:80", "/v1/completions?" + "a=b&" * 500]
METHODS = ["DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "A" * 1000]
CHUNKS = [
    "zz\r\n",
    "-5\r\nhello\r\n",
    "ffffffffffffffffff\r\n",
    "5\r\nhel",
    "5;x=" + "y" * 9000 + "\r\nhello\r\n0\r\n\r\n",
]
CHUNKS += ["2\r\n{}\r\n0\r\nBad trailer\r\n\r\n", "0\r\n\r\n", "1\r\nabcdef\r\n0\r\n\r\n"]


def request(body: bytes, path: str = "/v1/completions", method: str = "POST", *headers: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", *headers]
    if not any(header.startswith("Host") for header in headers):
        head.append("Host: localhost")
    if not any(header.startswith(("Content-Length", "Transfer-Encoding")) for header in headers):
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def malformed() -> Iterator[bytes]:
    """All malformed requests; each has something that no request may have."""
    for path, valid in ENDPOINTS.items():
        for name, value in itertools.product(FIELDS, VALUES):
            others = "".join(f"{json.dumps(key)}: {json.dumps(other)}, " for key, other in valid.items() if key != name)
            yield request(f"{{{others}{json.dumps(name)}: {value}}}".encode(), path)
        yield from (request(body, path) for body in BODIES)
        yield from (request(b"", path, method) for method in [*METHODS, "GET"])
        yield from (request(chunk.encode(), path, "POST", "Transfer-Encoding: chunked") for chunk in CHUNKS)
        whole = request(json.dumps(valid).encode(), path)
        yield from (whole[: len(whole) * part // 10] for part in range(1, 10))
    for header in HEADERS:
        yield request(b"{}", "/v1/completions", "POST", header)
    yield from (request(b"", path, "GET") for path in PATHS)
    yield from (line.encode("latin-1") + b"\r\nHost: localhost\r\n\r\n" for line in LINES)
    noise = random.Random(7)
    yield from (noise.randbytes(noise.randrange(1, 300)) for _ in range(40))


def lenient() -> Iterator[bytes]:
    """Requests with odd values of fields, to endpoints that ignore some fields."""
    for path, (form, names) in LENIENT.items():
        for name in names.split():
            values = VALUES if name in ("n_predict", "num_predict", "max_tokens") else VALUES + EXTREMES
            for number, value in enumerate(values):  # every other client goes away before it has the answer
                stays = ["Connection: close"] if number % 2 else []
                yield request((form % f'"{name}": {value}').encode(), path, "POST", *stays)
        yield from (request(body, path) for body in (b"[]", b"null", b"\xff"))


async def send(port: int, data: bytes) -> bytes:
    """What the server answers when the client closes its side after the request, unless that has Connection: close."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        if b"Connection: close" not in data:
            with contextlib.suppress(OSError):  # the server may have answered and closed already
                writer.write_eof()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:  # refused before it was read
        return b""
    finally:
        writer.close()


async def send_all(port: int, requests: list[bytes]) -> list[bytes]:
    limit = asyncio.Semaphore(16)

    async def one(data: bytes) -> bytes:
        async with limit:
            return await send(port, data)

    return await asyncio.gather(*map(one, requests))


def test_a_thousand_malformed_requests(server, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    for name in ("codellama_jax", "uvicorn", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    port = int(server.url.rsplit(":", 1)[1])
    valid: dict[str, Any] = {"prompt": "def f(x):\n", "max_tokens": 20, "temperature": 1, "seed": 2}

    def text() -> str:
        return httpx.post(server.url + "/v1/completions", json=valid).json()["choices"][0]["text"]

    expected, requests = text(), list(malformed())
    assert len(requests) > 1000
    random.Random(1).shuffle(requests)
    odd = list(lenient())
    random.Random(2).shuffle(odd)
    may_be_answered = set(odd)
    requests = [*requests[:1000], *odd[:400]]
    random.Random(3).shuffle(requests)
    first, rest = requests[: len(requests) // 2], requests[len(requests) // 2 :]
    answers = asyncio.run(send_all(port, first))
    gc.collect()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers += asyncio.run(send_all(port, rest))
    gc.collect()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    statuses = Counter(answer[9:12].decode() for answer in answers)
    for data, answer in zip(first + rest, answers, strict=True):
        refused = re.match(rb"HTTP/1.1 (400|403|404|405|413|431|501) ", answer)
        answered = data in may_be_answered and answer.startswith(b"HTTP/1.1 200 ")
        assert refused or answered or not answer, (data[:300], answer[:300])
    assert statuses["400"] > 500
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]
    assert text() == expected
    assert server.api.service.engine.pool.used == server.api.service.waiting == 0
    assert grown < 20_000, f"{grown} KiB"
