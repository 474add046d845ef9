"""Several endpoints that share the requests of an evaluation."""

import logging
import queue
import threading
from collections.abc import Iterator, Sequence

from codellama_jax.config.evaluation import Endpoints as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.clients.http_endpoint import EndpointFailed, HttpEndpoint
from codellama_jax.evaluation.clients.request_reader import RequestReader
from codellama_jax.evaluation.sample import Answer

logger = logging.getLogger(__name__)


class EndpointClient(Client):
    """Answers with endpoints, each of which takes the next request when it has room. One that fails gives its requests
    back to the others.

    Args:
        urls: of the endpoints.
        model: name of the model; None: the endpoints' own, which must be the same.
        key: API key; "": none.
        settings: time-outs and retries.

    Raises:
        UserError: an endpoint cannot be used, or two have different models.
    """

    def __init__(self, urls: Sequence[str], model: str | None, key: str, settings: Settings):
        self._settings = settings
        self._endpoints = [HttpEndpoint(url, model, key, settings) for url in urls]
        names = {endpoint.model: endpoint.url for endpoint in reversed(self._endpoints)}
        if len(names) > 1:
            both = " and ".join(f"{name} at {url}" for name, url in list(names.items())[:2])
            raise UserError(f"the endpoints have different models, {both}: --model=NAME names one that all have")
        self.name = self._endpoints[0].model
        self.identity = {"model": self.name}
        self.chooses_order = not all(endpoint.ours for endpoint in self._endpoints)

    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        work = _Work(requests)
        results: queue.SimpleQueue[tuple[Request, Answer] | EndpointFailed | BaseException | None] = queue.SimpleQueue()
        threads = 0
        for endpoint in self._endpoints:
            failed = threading.Event()
            for _ in range(self._settings.concurrency):
                arguments = (endpoint, work, results, failed, stop)
                threading.Thread(target=_answer_all, args=arguments, daemon=True).start()
                threads += 1
        failures = dict[str, str]()
        try:
            while threads and not stop.is_set():
                try:
                    result = results.get(timeout=0.2)
                except queue.Empty:
                    continue
                if result is None:
                    threads -= 1
                elif isinstance(result, EndpointFailed):
                    if str(result) not in failures:
                        logger.warning("warning: an endpoint is not asked any more: %s", result)
                    failures[str(result)] = str(result)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
        finally:
            work.close()
        if not stop.is_set() and not work.finished:
            reasons = "; ".join(failures)
            raise UserError(f"no endpoint answers any more: {reasons}; the same command resumes when one does")


class _Work:
    """The requests that endpoints take, and give back if they fail."""

    def __init__(self, requests: Iterator[Request]):
        self._changed = threading.Condition()
        self._reader = RequestReader(requests, self._changed)
        self._returned, self._out = list[Request](), 0

    def take(self, stop: threading.Event) -> Request | None:
        """The next request. None: all are answered. Waits while others may give some back."""
        with self._changed:
            while not stop.is_set():
                request = self._returned.pop() if self._returned else self._reader.take()
                if request is not None:
                    self._out += 1
                    return request
                if self._reader.exhausted and not self._out:
                    return None
                self._changed.wait(0.2)
            return None

    def put_back(self, request: Request) -> None:
        with self._changed:
            self._returned.append(request)
            self._out -= 1
            self._changed.notify_all()

    def done(self) -> None:
        with self._changed:
            self._out -= 1
            self._changed.notify_all()

    @property
    def finished(self) -> bool:
        """Whether all requests are answered."""
        with self._changed:
            return self._reader.exhausted and not self._returned and not self._out

    def close(self) -> None:
        self._reader.close()


def _answer_all(
    endpoint: HttpEndpoint,
    work: _Work,
    results: "queue.SimpleQueue[tuple[Request, Answer] | EndpointFailed | BaseException | None]",
    failed: threading.Event,
    stop: threading.Event,
) -> None:
    """Answers requests with one endpoint, until there are none or the endpoint fails; one of several such threads."""
    try:
        while not failed.is_set() and (request := work.take(stop)) is not None:
            try:
                answer = endpoint.answer(request, stop)
            except BaseException as error:
                failed.set()
                work.put_back(request)
                if isinstance(error, EndpointFailed) and stop.is_set():
                    return
                results.put(error)
                return
            results.put((request, answer))
            work.done()
    finally:
        results.put(None)
