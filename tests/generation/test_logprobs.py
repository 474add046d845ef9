"""Log-probabilities of tokens and prompts."""

import numpy as np
import pytest
from generation_engines import answer, engine, finished, random_requests
from generation_models import reference
from scipy.special import log_softmax

from codellama_jax.config.generation import Sampling
from codellama_jax.generation.logprobs import TokenLogprobs

pytestmark = pytest.mark.compares_bits


def expected(ids: list[int]) -> np.ndarray:
    """Log-probabilities [S, V] of the training forward pass. Ids from 300 on are padding."""
    return log_softmax(reference("70b", np.array([ids], np.int32))[0, :, :300], axis=-1)


def assert_agrees(found: list[TokenLogprobs], tokens: list[int], logprobs_SV: np.ndarray, count: int):
    assert [one.token for one in found] == tokens
    for one, row in zip(found, logprobs_SV, strict=True):
        assert one.logprob == pytest.approx(row[one.token], abs=1e-4)
        assert [id for id, _ in one.top] == np.argsort(-row, kind="stable")[:count].tolist()
        np.testing.assert_allclose([value for _, value in one.top], np.sort(row)[::-1][:count], atol=1e-4)


@pytest.mark.parametrize("count", [0, 20])
def test_log_probabilities_are_those_of_the_model(count: int):
    """They are those of its own distribution, whatever the settings are, and of the prompt too."""
    prompt = np.random.default_rng(1).integers(3, 300, 60).tolist()
    settings = {"temperature": 1.3, "top_k": 40, "presence_penalty": 1.0, "repetition_penalty": 1.2, "seed": 3}
    request = answer(engine(), prompt, max_tokens=20, logprobs=count, prompt_logprobs=True, **settings)
    logprobs_SV = expected(request.ids)
    assert_agrees(request.logprobs, request.tokens, logprobs_SV[59:-1], count)
    assert request.prompt_logprobs[0] is None
    assert_agrees(request.prompt_logprobs[1:], prompt[1:], logprobs_SV[:59], count)


def test_a_text_is_scored_without_generating():
    text = np.random.default_rng(2).integers(3, 300, 160).tolist()  # the whole context
    engine().submit(text[:100], Sampling(max_tokens=1))
    request = answer(engine(), text, max_tokens=0, prompt_logprobs=True)
    assert request.cached == 0 and request.tokens == request.logprobs == []
    assert_agrees(request.prompt_logprobs[1:], text[1:], expected(text)[:-1], 0)
    assert answer(engine(), [5], max_tokens=0, prompt_logprobs=True).prompt_logprobs == [None]


def test_nothing_is_reported_unless_it_is_asked_for():
    request = answer(engine(), [5, 6, 7], max_tokens=5)
    assert request.logprobs == request.prompt_logprobs == []


def test_the_stop_id_has_no_log_probability():
    tokens = answer(engine(), [5, 6, 7], max_tokens=20).tokens
    request = answer(engine(), [5, 6, 7], (tokens[9],), max_tokens=20, logprobs=1)
    assert [one.token for one in request.logprobs] == request.tokens == tokens[: tokens.index(tokens[9])]


def test_log_probabilities_are_bit_equal_alone_and_beside_others(monkeypatch: pytest.MonkeyPatch):
    inputs = [request for request in random_requests(12) if request[1].logprobs is not None]
    running = engine()
    monkeypatch.setattr(running.pool, "share", False)
    requests = [running.submit(*request) for request in inputs]
    finished(running, requests)
    for request, each in zip(requests, inputs, strict=True):
        single = running.submit(*each)
        finished(running, [single])
        assert (single.logprobs, single.prompt_logprobs) == (request.logprobs, request.prompt_logprobs)
        assert len(request.logprobs) == len(request.tokens)
