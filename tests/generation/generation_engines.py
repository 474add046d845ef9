"""Engines of small random models, and requests of all kinds."""

import functools

import numpy as np
from generation_models import model

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.request import Request


@functools.cache
def engine(**sizes) -> Engine:
    """An engine, compiled once. Tests leave it without requests. Guesses are always verified."""
    llama, _, weights = model("70b")
    sizes = {"slots": 4, "context": 160, "page": 8, "chunks": (8, 32)} | sizes
    running = Engine(weights, llama, Serving(**sizes), 300)
    running.programs.verify_cost = dict.fromkeys(running.programs.verify_cost, 0.0)
    return running


def finished(running: Engine, requests: list[Request]) -> list[list[int]]:
    while not all(request.finished for request in requests):
        running.step()
    return [request.tokens for request in requests]


def answer(running: Engine, prompt: list[int], stop_ids: tuple[int, ...] = (), **settings) -> Request:
    """A finished request."""
    request = running.submit(prompt, Sampling(**settings), stop_ids)
    finished(running, [request])
    return request


def random_requests(
    count: int, longest: int = 120, most: int = 30
) -> list[tuple[list[int], Sampling, tuple[int, ...]]]:
    """Requests with all kinds of settings: prompt, settings and stop ids. Every third prompt repeats itself."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(count):
        length = int(rng.integers(1, longest))
        prompt = rng.integers(3, 300, length if number % 3 else rng.integers(1, 9)).tolist()
        max_tokens = int(rng.integers(0, most))
        settings = Sampling(
            max_tokens=max_tokens,
            min_tokens=int(rng.integers(0, max_tokens + 1)),
            temperature=float(rng.choice([0, 0.7, 1.2])),
            top_p=float(rng.choice([1, 0.9, 0.5])),
            top_k=int(rng.choice([0, 3, 20])),
            min_p=float(rng.choice([0, 0.05])),
            repetition_penalty=float(rng.choice([1, 1.1])),
            presence_penalty=float(rng.choice([0, 0.5, -2])),
            frequency_penalty=float(rng.choice([0, 0.3, -2])),
            seed=number,
            logprobs=[None, 0, 5][rng.integers(3)],
            prompt_logprobs=bool(rng.random() < 0.2),
        )
        requests.append(((prompt * length)[:length], settings, tuple(rng.integers(3, 300, 4).tolist())))
    return requests
