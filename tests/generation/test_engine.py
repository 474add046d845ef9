"""The engine: exactness, batches, the cache and its limits."""

import numpy as np
import pytest
from generation_engines import answer, engine, finished, random_requests

from codellama_jax.config.generation import Sampling
from codellama_jax.errors import UserError
from codellama_jax.generation import rows

pytestmark = pytest.mark.compares_bits

# The other engines of this file differ from these in slots, pages, chunks, steps, or the prefix cache.
ALONE = {"slots": 1, "prefix_cache": False, "page": 64}
GUESSING = {"slots": 8, "cache_tokens": 500, "steps": 1, "batches": (3,), "draft_tokens": 5}


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """The answers of 70 requests, each generated alone."""
    running = engine(**ALONE)
    return [finished(running, [running.submit(*request)])[0] for request in random_requests(70)]


@pytest.mark.parametrize(
    "sizes",
    [
        {"slots": 64, "cache_tokens": 4000},
        {"slots": 5, "cache_tokens": 200, "chunks": (16,), "page": 16, "steps": 7},  # requests lose their pages
        GUESSING,
    ],
)
def test_a_request_gives_the_same_tokens_beside_any_others(alone: list[list[int]], sizes: dict):
    running = engine(**sizes)
    order = np.random.default_rng(sizes["slots"]).permutation(70)
    requests = random_requests(70)
    submitted = {}
    for number in order:
        submitted[number] = running.submit(*requests[number])
        if number % 3 == 0:
            running.step()  # so that some arrive while others run
    assert finished(running, [submitted[number] for number in range(70)]) == alone
    assert running.pool.used == 0
    assert not any(request.cached for request in submitted.values()), "no two prompts begin alike"


def test_no_program_is_compiled_after_warm_up(monkeypatch: pytest.MonkeyPatch):
    running = engine(**GUESSING)
    monkeypatch.setattr(running.programs, "verify_cost", {})
    running.warm_up()
    assert running.programs.verify_cost.keys() == {3, 8}
    assert all(0.1 < cost < 100 for cost in running.programs.verify_cost.values())
    compiled, running.programs.verify_cost = running.compilations, {3: 1.2, 8: 1.2}
    requests = [running.submit(*request) for request in random_requests(1000, longest=30, most=12)]
    running.finish(requests[3])
    finished(running, requests)
    assert running.compilations == compiled == 7
    assert 0 < sum(request.accepted for request in requests) < sum(map(len, (request.tokens for request in requests)))


def test_a_stop_id_ends_the_answer():
    running = engine()
    tokens = answer(running, [5, 6, 7], max_tokens=30).tokens
    stop = tokens[len(tokens) // 2]
    request = answer(running, [5, 6, 7], (stop,), max_tokens=30)
    assert request.tokens == tokens[: tokens.index(stop)] and request.finish_reason == "stop"
    request = answer(running, [5, 6, 7], max_tokens=1)
    assert request.tokens == tokens[:1] and request.finish_reason == "length"


def test_the_answer_ends_at_the_context():
    running = engine()
    request = running.submit(range(3, 153), Sampling(max_tokens=1000))
    assert len(finished(running, [request])[0]) == 10 and request.finish_reason == "length"


def test_padding_rows_are_never_generated():
    tokens = answer(engine(), [3], max_tokens=150, temperature=50.0).tokens  # each id is about as likely as any other
    assert len(tokens) == 150 and 250 < max(tokens) < 300


def test_the_prefix_cache_leaves_less_than_a_chunk_to_process():
    running = engine()
    text = np.random.default_rng(5).integers(3, 300, 120).tolist()
    finished(running, [running.submit(text[:100], Sampling(max_tokens=4))])
    for end in range(101, 120):
        request = running.submit(text[:end], Sampling(max_tokens=4))
        finished(running, [request])
        assert request.prefilled < 8 and request.cached + request.prefilled == end - 1


@pytest.mark.parametrize("sizes", [{}, GUESSING])
def test_cancelled_requests_leave_the_cache_empty(sizes: dict):
    """1,000 requests that wait, are processed, generate, were interrupted, or are finished."""
    running, rng = engine(**sizes), np.random.default_rng(0)
    inputs = random_requests(1000)
    for start in range(0, 1000, 20):
        requests = [running.submit(*request) for request in inputs[start : start + 20]]
        for number in rng.permutation(20):
            if rng.random() < 0.2:
                running.step()
            running.finish(requests[number], "cancelled")
            running.finish(requests[number], "again")
            assert requests[number].finish_reason in ("cancelled", "length", "stop")
    assert running.pool.used == 0 and not running.busy
    assert running.step() == []


def test_requests_with_one_prompt_process_it_once():
    running, rng = engine(), np.random.default_rng(6)
    for _ in range(2):  # more requests than slots, and the prompt is new each time
        prompt = rng.integers(3, 300, 100).tolist()
        requests = [running.submit(prompt, Sampling(max_tokens=9, temperature=1.0, seed=seed)) for seed in range(6)]
        assert len({tuple(tokens) for tokens in finished(running, requests)}) == 6
        assert sorted(request.prefilled for request in requests) == [3] * 5 + [99]


def test_a_request_for_no_tokens_fills_the_cache():
    running, prompt = engine(), np.random.default_rng(7).integers(3, 300, 160).tolist()
    request = answer(running, prompt, max_tokens=0)
    assert (request.tokens, request.finish_reason, request.prefilled) == ([], "length", 159)
    assert answer(running, prompt[:100], max_tokens=1).cached == 96
    assert answer(running, [5], max_tokens=0).finish_reason == "length"
    assert running.pool.used == 0


def test_no_stop_id_is_generated_before_min_tokens():
    running = engine()
    tokens = answer(running, [5, 6, 7], max_tokens=20).tokens
    first = answer(running, [5, 6, 7], tuple(tokens[:1]), max_tokens=20)
    assert (first.tokens, first.finish_reason) == ([], "stop")
    every = tuple(sorted(set(tokens)))[: rows.STOP_IDS]
    for least in (1, 7, 20):
        request = answer(running, [5, 6, 7], every, max_tokens=20, min_tokens=least)
        assert not set(request.tokens) & set(every) and len(request.tokens) >= least


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no tokens"), ([1] * 160, "has 160 tokens; prompt and answer must fit 160"), ([1, 336], "outside 0 to 335")],
)
def test_prompts_that_cannot_be_used_are_refused(prompt: list[int], message: str):
    with pytest.raises(UserError, match=message):
        engine().submit(prompt, Sampling())
