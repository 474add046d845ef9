"""The solutions that come with a benchmark, as the answers of a model: a harness that is right passes all of them."""

import threading
from collections.abc import Iterator
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.sample import Answer


class Canonical(Client):
    """Answers with Benchmark.canonical.

    Raises:
        UserError: the benchmark has no solutions; raised while answering.
    """

    def __init__(self, benchmark: Benchmark[Any]):
        self._benchmark = benchmark
        self.name = "canonical"
        self.identity = {"model": "the canonical solutions"}

    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        for request in requests:
            if stop.is_set():
                return
            text = self._benchmark.canonical(request.problem)
            if text is None:
                raise UserError(f"{self._benchmark.name} has no canonical solutions: leave it out with --canonical")
            yield request, Answer(text)
