"""Clients: what the model reads, and what it answered."""

import dataclasses
import threading

import numpy as np
import pytest

from codellama_jax.config.evaluation import Endpoints
from codellama_jax.config.generation import Sampling
from codellama_jax.config.serving import Server
from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.clients.endpoints import EndpointClient
from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Problem, Scoring
from codellama_jax.tokenizer import SentencePieceTokenizer
from tests.serving.conftest import running_server

GREEDY = Sampling(max_tokens=12)
SAMPLED = Sampling(max_tokens=12, temperature=0.8, top_p=0.95, seed=7, stop=("\n", "z"))
TEXT = "def add(a, b):\n    return a +"
INPUTS = [
    Completion(TEXT),
    Completion(TEXT + " b\n"),
    Infilling("def f():\n    re", "urn x\n", "psm"),
    Infilling("def f():\n    re", "urn x\n", "spm"),
    Chat(({"role": "user", "content": "Add two numbers."},)),
    Scoring("def f(", "a, b):\n"),
]


def requests_for(inputs, *samplings):
    return [Request(Problem(str(n), input), n, sampling) for sampling in samplings for n, input in enumerate(inputs)]


def answered(client, requests):
    found = list(client.answers(iter(requests), threading.Event()))
    assert len(found) == len(requests) == len({id(request) for request, _ in found})
    return {(request.problem.task_id, request.sampling.seed): answer for request, answer in found}


def test_an_endpoint_of_ours_answers_as_the_local_model_does(local_client, evaluated_model, evaluated_engine):
    requests = requests_for(INPUTS, GREEDY, SAMPLED)
    local = answered(local_client, requests)
    assert len({answer.text for answer in local.values()}) >= len(INPUTS)
    with running_server(evaluated_model, evaluated_engine, Server()) as server:
        client = EndpointClient([server.url, server.url + "/v1/"], None, "", Endpoints(concurrency=3))
        assert client.name == "small" and not client.chooses_order
        remote = answered(client, requests)
    assert remote == local


def test_the_model_reads_prompts_exactly(local_client):
    tokenizer = local_client.tokenizer
    for input, ids in [
        (INPUTS[0], [tokenizer.bos_id, *tokenizer.encode(TEXT)]),
        (Completion("x\r\ny\r\n"), [tokenizer.bos_id, *tokenizer.encode("x\r\ny\r\n")]),
        (dataclasses.replace(INPUTS[0], last_tokens=3), [tokenizer.bos_id, *tokenizer.encode(TEXT)[-3:]]),
        (INPUTS[2], tokenizer.infilling_prompt(INPUTS[2].prefix, INPUTS[2].suffix, "psm").tolist()),
        (INPUTS[3], tokenizer.infilling_prompt(INPUTS[3].prefix, INPUTS[3].suffix, "spm").tolist()),
    ]:
        [request] = requests_for([input], GREEDY)
        prompt, _ = local_client._prompt(request)
        assert prompt.ids == ids and prompt.allowed is None and not prompt.skip and not prompt.crlf


def test_scores_are_log_probabilities_of_the_text(local_client):
    answers = answered(local_client, requests_for([Scoring("", "abc abc"), Scoring("abc", " abc")], GREEDY))
    joined, rest = answers["0", 0].logprobs, answers["1", 0].logprobs
    np.testing.assert_array_equal(joined[-len(rest) :], rest)
    assert all(value < 0 for value in joined)


def test_a_prompt_that_does_not_fit_is_refused_and_the_others_are_answered(local_client):
    answers = answered(local_client, requests_for([Completion("x " * 2000), Completion("x")], GREEDY))
    assert answers["0", 0].finish_reason == "refused" and "must fit 1,024" in answers["0", 0].refusal
    assert answers["1", 0].text


def test_a_model_that_cannot_fill_holes_is_an_error_and_not_a_wrong_answer(local_client, shared_data, monkeypatch):
    path = shared_data / "stories260K" / "tok512.model"
    monkeypatch.setattr(local_client, "tokenizer", SentencePieceTokenizer.from_file(path, infilling=False))
    with pytest.raises(UserError, match="asks for infilling, and the tokenizer has no infilling ids"):
        answered(local_client, requests_for([Infilling("a", "b", "psm")], GREEDY))


def test_a_stopped_client_frees_its_slots(local_client, evaluated_engine):
    stop = threading.Event()
    for _ in local_client.answers(iter(requests_for([Completion("x")] * 9, GREEDY)), stop):
        stop.set()
    assert not evaluated_engine.busy


@pytest.mark.parametrize("slots", [1, 2])
def test_answers_do_not_depend_on_what_is_beside_them(local_client, monkeypatch, slots):
    requests = requests_for(INPUTS[:4], SAMPLED)
    together = answered(local_client, requests)
    monkeypatch.setattr(local_client._engine, "serving", dataclasses.replace(local_client._engine.serving, slots=slots))
    assert answered(local_client, requests[::-1]) == together
