"""The figures at /metrics, in Prometheus' text format."""

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from codellama_jax.serving.jobs import Choice
from codellama_jax.serving.service import Service

_PREFIX = "codellama_jax"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts what a service does. Its methods may be called from any thread."""

    def __init__(self, service: Service):
        # A registry of its own: the default one also has figures of the process, and is shared by all servers in it.
        self._registry = registry = prometheus_client.CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"{_PREFIX}_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}_seconds", text, buckets=buckets, registry=registry)

        self._requests = counter("requests", "requests that were answered", ("endpoint", "status"))
        self._choices = counter("answers", "answers that have ended", ("finish_reason",))
        self._prompt = counter("prompt_tokens", "tokens of the prompts of answers that have ended")
        self._cached = counter("cached_prompt_tokens", "those of them that the prefix cache held")
        self._generated = counter("generated_tokens", "tokens of answers that have ended")
        self._sentinels = counter("sentinel_prompts", "prompts in which the text of infilling markers became ids")
        self._ignored = counter("ignored_fields", "fields of requests that were accepted and ignored", ("field",))
        self._duration = histogram("request", "from a request to the end of its answer", _SECONDS)
        self._first = histogram("time_to_first_token", "from a job's arrival to its first token", _SECONDS)
        self._between = histogram("time_per_token", "mean time between the tokens of an answer", _TOKEN_SECONDS)
        for name, text, value in (
            ("queue", "answers that wait for a slot", lambda: service.waiting),
            ("active", "answers that are being generated", lambda: service.active),
            ("cache_pages", "pages of the key-value cache", lambda: service.engine.pool.count),
            ("cache_pages_used", "pages that running requests use", lambda: service.engine.pool.used),
        ):
            Gauge(f"{_PREFIX}_{name}", text, registry=registry).set_function(value)
        service.observe = self.ended

    def ended(self, choice: Choice, finish_reason: str) -> None:
        """An answer has ended."""
        self._choices.labels(finish_reason).inc()
        request = choice.request
        if request is None or choice.ended is None:
            return
        self._prompt.inc(len(choice.prompt.ids))
        self._cached.inc(request.cached)
        self._generated.inc(len(request.tokens))
        if choice.first is not None:
            self._first.observe(choice.first - choice.submitted)
            if len(request.tokens) > 1:
                self._between.observe((choice.ended - choice.first) / (len(request.tokens) - 1))

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered. `endpoint` is the path of a route: the number of labels must be bounded."""
        self._requests.labels(endpoint, status).inc()
        self._duration.observe(seconds)

    def sentinel_prompt(self) -> None:
        self._sentinels.inc()

    def ignored_field(self, field: str) -> None:
        """A field was ignored. It must be one of a fixed set of names."""
        self._ignored.labels(field).inc()

    def route(self) -> Route:
        async def metrics(request: Request) -> Response:
            content = prometheus_client.generate_latest(self._registry)
            return Response(content, media_type=prometheus_client.CONTENT_TYPE_PLAIN_0_0_4)

        return Route("/metrics", metrics)
