"""The queue before the engine: turns, limits, cancellation, slow readers, and the end of the server."""

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from codellama_jax.config.generation import Sampling
from codellama_jax.config.serving import Server
from codellama_jax.generation.prompts import Prompt
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.serving.jobs import Delta, Job, Running

SETTINGS = {"prompt": "x", "temperature": 1, "seed": 1, "ignore_eos": True}
LONG = SETTINGS | {"max_tokens": 400, "stream": True}


def post(server, client: str = "test", **body) -> httpx.Response:
    headers = {"User-Agent": client}
    return httpx.post(server.url + "/v1/completions", json=SETTINGS | body, headers=headers, timeout=60)


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_free(server) -> bool:
    service = server.api.service
    return service.waiting == service.active == service.engine.pool.used == 0


def raw_request(server, **body) -> socket.socket:
    """A connection on which a request was sent, and nothing read."""
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that a server soon notices who does not read
    connection.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    connection.sendall(head.encode() + data)
    return connection


@contextlib.contextmanager
def held(server, seconds: float | None = None):
    """The engine does not go on, so that jobs stay where they are; or only once in a time."""
    engine, go_on = server.api.service.engine, threading.Event()
    step = type(engine).step

    def waiting_step():
        go_on.wait(seconds)
        return step(engine)

    engine.step = waiting_step
    try:
        yield
    finally:
        del engine.step
        go_on.set()


def jobs(server) -> int:
    return server.api.service.waiting + server.api.service.active


def test_a_client_with_one_request_does_not_wait_for_a_client_with_100(make_server):
    server, order = make_server(Server()), []
    end = server.api.service.observe
    server.api.service.observe = lambda choice, reason: (order.append(choice.running.client), end(choice, reason))
    with ThreadPoolExecutor(5) as pool:
        with held(server):
            many = [pool.submit(post, server, "many", n=25, max_tokens=4) for _ in range(4)]
            wait_until(lambda: jobs(server) == 100)
            one = pool.submit(post, server, "one", max_tokens=4)
            wait_until(lambda: jobs(server) == 101)
        assert one.result().status_code == 200
        assert {answer.result().status_code for answer in many} == {200}
    position = next(index for index, client in enumerate(order) if client.endswith("one"))
    assert position <= 4 and len(order) == 101


def test_a_full_queue_refuses_with_the_time_to_try_again(make_server):
    server = make_server(Server(queue=4))
    with ThreadPoolExecutor(4) as pool:
        with held(server):
            answers = [pool.submit(post, server, "first", max_tokens=4, n=2)]
            wait_until(lambda: server.api.service.active == 2)
            answers.append(pool.submit(post, server, max_tokens=4, n=2))
            wait_until(lambda: server.api.service.waiting == 2)
            refused = post(server, max_tokens=4)  # a client has at most half of the queue
            answers.append(pool.submit(post, server, "other", max_tokens=4, n=2))
            wait_until(lambda: server.api.service.waiting == 4)
            full = post(server, "third", max_tokens=4)
        assert {answer.result().status_code for answer in answers} == {200}
    assert (refused.status_code, full.status_code) == (429, 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert "this client" in refused.text and "this client" not in full.text
    too_many = post(server, n=3)
    assert too_many.status_code == 400 and "at most 2" in too_many.text


def test_a_request_that_takes_too_long_ends_with_its_text(make_server):
    server = make_server(Server(timeout=0.2))
    with ThreadPoolExecutor(2) as pool, held(server, seconds=0.5):
        running = pool.submit(post, server, n=2, max_tokens=400)
        wait_until(lambda: server.api.service.active == 2)
        waited = pool.submit(post, server, max_tokens=400)
        answer, waited = running.result().json(), waited.result()
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert 0 < answer["usage"]["completion_tokens"] < 400
    assert waited.status_code == 503 and "retry-after" in waited.headers
    wait_until(lambda: is_free(server))


@pytest.mark.parametrize("stream", [True, False])
def test_the_pages_of_a_client_that_goes_away_become_free(make_server, stream):
    server = make_server(Server())
    with held(server):
        connections = [raw_request(server, **LONG | {"stream": stream, "n": 3}) for _ in range(3)]
        wait_until(lambda: jobs(server) == 9)
        for connection in connections:
            connection.close()
    wait_until(lambda: is_free(server))
    assert post(server, max_tokens=1).status_code == 200


def test_what_was_not_read_yet_is_joined(small_model):
    asyncio.run(_reads_what_was_joined(TokenTexts(small_model.tokenizer)))


async def _reads_what_was_joined(texts):
    running = Running(Job((Prompt([1], ()),), Sampling(), n=2), texts, lambda _: None)
    for number in range(1000):
        running.put(Delta(number % 2, "ab", [number], []))
    running.put(Delta(1, "", [], [], "length"))
    await asyncio.sleep(0)
    deltas = aiter(running)
    first, second = await anext(deltas), await anext(deltas)
    assert (first.text, first.tokens, first.finish_reason) == ("ab" * 500, list(range(0, 1000, 2)), None)
    assert (second.text, second.tokens, second.finish_reason) == ("ab" * 500, list(range(1, 1000, 2)), "length")


def test_clients_that_stop_sending_or_reading_are_disconnected(make_server):
    server = make_server(Server(stalled=0.3))
    connections = server.http.server_state.connections
    port = int(server.url.rsplit(":", 1)[1])
    with contextlib.ExitStack() as stack:
        for part in (
            "",
            "POST /v1/compl",
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            sender.sendall(part.encode())
        stack.enter_context(raw_request(server, **LONG | {"n": 64}))  # never read
        wait_until(lambda: len(connections) == 4)
        wait_until(lambda: not connections and is_free(server))
    assert post(server, max_tokens=1).status_code == 200


def test_a_long_prompt_does_not_block_a_short_one(make_server):
    server = make_server(Server())
    engine = server.api.service.engine
    long, short = [5 + index % 200 for index in range(480)], list(range(5, 25))
    before = []
    server.api.service.observe = lambda choice, reason: before.append((len(choice.prompt.ids), reason))
    with ThreadPoolExecutor(2) as pool:
        with held(server):
            answers = [pool.submit(post, server, prompt=long, max_tokens=2)]
            wait_until(lambda: server.api.service.active == 1)
            answers.append(pool.submit(post, server, "short", prompt=short, max_tokens=2))
            wait_until(lambda: server.api.service.waiting == 1)
        assert {answer.result().status_code for answer in answers} == {200}
    assert [length for length, _ in before] == [len(short), len(long)]
    assert engine.pool.used == 0


def test_a_signal_lets_running_requests_finish_and_refuses_new_ones(make_server):
    server = make_server(Server())
    with ThreadPoolExecutor(1) as pool:
        with held(server):
            running = pool.submit(post, server, max_tokens=30)
            wait_until(lambda: server.api.service.active == 1)
            server.http.handle_exit(signal.SIGTERM, None)
            server.http.handle_exit(signal.SIGTERM, None)  # `timeout` and some supervisors send two at a time
            refused, ready, live = post(server), httpx.get(server.url + "/readyz"), httpx.get(server.url + "/livez")
        assert running.result().json()["usage"]["completion_tokens"] == 30
    assert refused.status_code == 503 and "shutting down" in refused.text
    assert (ready.status_code, live.status_code) == (503, 200)
    wait_until(lambda: server.http.should_exit)


def test_a_second_interrupt_ends_the_server_at_once_and_quietly(make_server, caplog):
    server = make_server(Server())
    with ThreadPoolExecutor(1) as pool, held(server, seconds=0.02):
        running = pool.submit(post, server, max_tokens=400, stream=True)
        wait_until(lambda: server.api.service.generated_tokens > 0)
        server.http.handle_exit(signal.SIGINT, None)
        server.http.handle_exit(signal.SIGINT, None)
        with pytest.raises(httpx.RemoteProtocolError):
            running.result()
        wait_until(lambda: is_free(server))
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_requests_end_with_their_text_when_the_time_of_a_shutdown_is_over(make_server):
    server = make_server(Server(shutdown=0.2))
    with ThreadPoolExecutor(1) as pool, held(server, seconds=0.02):
        running = pool.submit(post, server, max_tokens=400)
        wait_until(lambda: server.api.service.active == 1)
        server.http.handle_exit(signal.SIGTERM, None)
        answer = running.result()
    assert answer.status_code == 200 and answer.json()["choices"][0]["finish_reason"] == "length"


def test_a_failure_of_the_engine_ends_the_server(make_server, monkeypatch):
    server = make_server(Server())

    def failing_step():
        raise RuntimeError("out of memory")

    monkeypatch.setattr(server.api.service.engine, "step", failing_step)
    answer = post(server, max_tokens=5)
    assert answer.status_code == 503 and "memory" not in answer.text
    wait_until(lambda: server.http.should_exit)
    assert str(server.api.service.failure) == "out of memory" and not server.api.service.ready
