"""Endpoints that fail: what is retried, what is not, and who does the work instead."""

import contextlib
import http.server
import json
import threading
import time

import pytest

from codellama_jax.config.evaluation import Endpoints
from codellama_jax.config.generation import Sampling
from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.clients import http_endpoint
from codellama_jax.evaluation.clients.endpoints import EndpointClient
from codellama_jax.evaluation.problem import Completion, Problem

FAST = Endpoints(concurrency=2, timeout=0.4, attempts=3, backoff=0.01)
MODELS = {"data": [{"id": "m", "owned_by": "someone"}]}


@contextlib.contextmanager
def server(answer, models=MODELS):
    """A server whose POST requests get answer(number of the request, body) -> (status, headers, content)."""
    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._send(200, {}, json.dumps(models).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            self._send(*answer(len(bodies), body))

        def _send(self, status, headers, content):
            with contextlib.suppress(OSError):
                self.send_response(status)
                parts = [content] if isinstance(content, bytes) else content  # content may be an iterator of parts
                length = {"Content-Length": str(len(content))} if isinstance(content, bytes) else {}
                for name, value in {**length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in parts:
                    self.wfile.write(part)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", bodies
        running.shutdown()


def good(_, body):
    return 200, {}, json.dumps({"choices": [{"text": body["prompt"].upper(), "finish_reason": "stop"}]}).encode()


def ask(*urls, count=6, settings=FAST, sampling=Sampling()):  # noqa: B008
    client = EndpointClient(urls, None, "", settings)
    requests = [Request(Problem(f"t{n}", Completion(f"t{n}")), 0, sampling) for n in range(count)]
    return {request.problem.task_id: answer for request, answer in client.answers(iter(requests), threading.Event())}


def slow(*_):
    time.sleep(0.6)
    return good(0, {"prompt": ""})


TRANSIENT = {
    "429": lambda *_: (429, {"Retry-After": "0.01"}, b'{"error": {"message": "slow down"}}'),
    "503": lambda *_: (503, {}, b"busy"),
    "stalls": slow,
    "not JSON": lambda *_: (200, {}, b"<html>hello</html>"),
    "no choices": lambda *_: (200, {}, b'{"choices": []}'),
    "no text": lambda *_: (200, {}, b'{"choices": [{"text": null}]}'),
    "nested too deeply": lambda *_: (200, {}, b"[" * 100_000),
    "cut off": lambda *_: (200, {"Content-Length": "1000"}, b'{"choices": [{'),
}


@pytest.mark.parametrize("failure", TRANSIENT)
def test_failures_that_pass_are_retried(failure):
    with server(lambda number, body: TRANSIENT[failure](number, body) if number in (1, 2) else good(0, body)) as (
        url,
        _,
    ):
        found = ask(url, count=3)
    assert {name: answer.text for name, answer in found.items()} == {f"t{n}": f"T{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("429", "answered 429: slow down"),
        ("not JSON", "answered something else than a JSON object: <html>hello</html>"),
        ("no choices", "answered something else than a completion: {'choices': []}"),
        ("stalls", "did not answer within 0.4 s"),
    ],
)
def test_failures_that_stay_end_with_one_line(failure, message):
    with server(TRANSIENT[failure]) as (url, _), pytest.raises(UserError) as caught:
        ask(url, count=2)
    assert message in str(caught.value) and "after 3 attempts" in str(caught.value)
    assert "the same command resumes" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 404, 400])
def test_wrong_keys_paths_and_fields_are_not_retried(status):
    with server(lambda *_: (status, {}, b'{"error": {"message": "no"}}')) as (url, bodies):
        with pytest.raises(UserError, match=f"answered {status}: no"):
            ask(url, settings=Endpoints(concurrency=1))
        assert len(bodies) == 1 + (status == 400)  # a short prompt shows whether it is this prompt


def test_a_refused_prompt_is_one_refused_sample():
    def answer(number, body):
        return (400, {}, b'{"error": {"message": "too long"}}') if body["prompt"] == "t1" else good(number, body)

    with server(answer) as (url, _):
        found = ask(url, settings=Endpoints(concurrency=1))
    assert found["t1"].finish_reason == "refused" and "too long" in found["t1"].refusal
    assert sorted(found) == [f"t{n}" for n in range(6)]


def test_a_prompt_that_is_refused_before_any_answer_is_one_refused_sample():
    def answer(number, body):
        return (400, {}, b'{"error": {"message": "too long"}}') if body["prompt"][0] == "t" else good(number, body)

    with server(answer) as (url, bodies):
        found = ask(url, count=2, settings=Endpoints(concurrency=1))
    assert [answer.finish_reason for answer in found.values()] == ["refused"] * 2
    assert [body["prompt"] for body in bodies] == ["t0", "a =", "t1"]


def test_an_answer_that_trickles_or_never_ends_is_given_up(monkeypatch):
    def trickle():
        for _ in range(20):
            time.sleep(0.05)
            yield b" "

    settings = Endpoints(concurrency=1, timeout=0.2, attempts=1)
    slowly = server(lambda *_: (200, {"Content-Length": "20"}, trickle()))
    with slowly as (url, _), pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
        ask(url, count=1, settings=settings)
    monkeypatch.setattr(http_endpoint, "MOST_BYTES", 500)
    with server(lambda *_: (200, {}, b" " * 1000)) as (url, _), pytest.raises(UserError, match="more than 500 bytes"):
        ask(url, count=1)


def test_an_endpoint_that_dies_gives_its_work_back():
    def dies(number, body):
        return good(number, body) if number <= 2 else (500, {}, b"dead")

    def patient(number, body):
        time.sleep(0.02)
        return good(number, body)

    with server(dies) as (first, _), server(patient) as (second, bodies):
        found = ask(first, second, count=20)
    assert {name: answer.text for name, answer in found.items()} == {f"t{n}": f"T{n}" for n in range(20)}
    assert len(bodies) == 18


def test_fewer_stop_strings_are_sent_to_an_endpoint_that_takes_four():
    def answer(number, body):
        if len(body["stop"]) > 4:
            return 400, {}, b'{"error": {"message": "stop: at most 4"}}'
        return good(number, body)

    with server(answer) as (url, bodies):
        ask(url, sampling=Sampling(stop=tuple("abcdef")), settings=Endpoints(concurrency=1))
    assert [len(body["stop"]) for body in bodies] == [6, 4, 4, 4, 4, 4, 4]


def test_an_endpoint_that_does_not_exist_is_reported():
    with pytest.raises(UserError, match=r"--endpoint: http://127.0.0.1:9/v1/models cannot be reached: .*refused"):
        ask("http://127.0.0.1:9")


def test_endpoints_of_different_models_are_refused():
    with server(good) as (first, _), server(good, {"data": [{"id": "n"}, {"id": "m"}]}) as (second, _):
        EndpointClient([first, second], "m", "", FAST)
        with pytest.raises(UserError, match=r"different models, n at .* and m at .*: --model=NAME"):
            EndpointClient([first, second], None, "", FAST)
