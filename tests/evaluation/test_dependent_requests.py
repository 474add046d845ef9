"""Clients whose next request depends on an answer: taking a request may block, and nothing else waits for it."""

import queue
import threading

import pytest

from codellama_jax.config.evaluation import Endpoints
from codellama_jax.config.generation import Sampling
from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.clients.endpoints import EndpointClient
from codellama_jax.evaluation.problem import Completion, Problem
from tests.tasks.synthesis import scripted_endpoint as scripted


def request(number: int) -> Request:
    return Request(Problem(f"t{number}", Completion("x = ")), number, Sampling(max_tokens=3, seed=number))


class Chain:
    """An iterator of requests, each of which is there when the answer to the one before it is."""

    def __init__(self, count: int):
        self._ready: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._ready.put(0)
        self._count = count

    def __iter__(self):
        return self

    def __next__(self) -> Request:
        number = self._ready.get(timeout=20)
        if number == self._count:
            raise StopIteration
        return request(number)

    def answered(self, number: int) -> None:
        self._ready.put(number + 1)


def answered(client, count: int = 4) -> list[int]:
    chain, found = Chain(count), []
    for asked, _ in client.answers(chain, threading.Event()):
        found.append(asked.sample)
        chain.answered(asked.sample)
    return found


def test_a_local_model_goes_on_while_a_request_is_awaited(local_client):
    assert answered(local_client) == [0, 1, 2, 3]


def test_endpoints_go_on_while_a_request_is_awaited():
    with scripted.serving(scripted.Script({})) as url:
        assert answered(EndpointClient([url], None, "", Endpoints(concurrency=4))) == [0, 1, 2, 3]


def test_an_endpoint_that_fails_while_a_request_is_awaited_ends_with_its_error():
    with scripted.serving(scripted.Script({})) as url:
        client = EndpointClient([url], None, "", Endpoints(concurrency=2, attempts=1))
    with pytest.raises(UserError, match="no endpoint answers any more"):
        answered(client)


def test_an_error_of_the_iterator_is_raised(local_client):
    def requests():
        yield request(0)
        raise UserError("there are no more")

    with pytest.raises(UserError, match="there are no more"):
        list(local_client.answers(requests(), threading.Event()))
