"""OpenAI's completions: prompts, infilling, streams, log-probabilities, and fields that are refused."""

import itertools
import json
import math
import re

import httpx
import pytest

from codellama_jax.generation import prompts

TEXT = {"prompt": "def f(x):\n    retu", "max_tokens": 12, "temperature": 0}


def post(server, path: str = "/v1/completions", **body) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def answer(server, path: str = "/v1/completions", **body) -> dict:
    response = post(server, path, **body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(response: httpx.Response) -> list[dict]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


def test_a_stream_has_the_text_of_the_answer(server):
    request = {"prompt": "def f(", "suffix": "\n    return x\n", "max_tokens": 20, "temperature": 1, "seed": 5}
    request |= {"n": 2, "ignore_eos": True}
    whole = answer(server, **request)
    *parts, last = streamed(post(server, **request, stream=True, stream_options={"include_usage": True}))
    for index, choice in enumerate(whole["choices"]):
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == index]
        assert choice["text"] == "".join(part["text"] for part in own)
        assert own[-1]["finish_reason"] == choice["finish_reason"] == "length"
        assert {part["finish_reason"] for part in own[:-1]} <= {None}
    assert whole["usage"] == last["usage"] | {"prompt_tokens_details": whole["usage"]["prompt_tokens_details"]}
    assert whole["usage"]["completion_tokens"] == 40 and last["choices"] == []
    assert {part["usage"] for part in parts} == {None}


def test_all_forms_of_a_prompt(server):
    api = server.api
    one = answer(server, **TEXT)["choices"]
    assert answer(server, **TEXT | {"prompt": [TEXT["prompt"]]})["choices"] == one
    ids = prompts.complete(api.tokenizer, api.texts, TEXT["prompt"], healing=False).ids
    by_ids = answer(server, **TEXT | {"prompt": ids})
    assert by_ids["usage"]["prompt_tokens"] == len(ids)
    several = answer(server, **TEXT | {"prompt": [ids, ids[:3], ids], "n": 2})["choices"]
    assert [choice["index"] for choice in several] == list(range(6))
    assert several[0]["text"] == several[4]["text"] == by_ids["choices"][0]["text"]
    assert answer(server, **TEXT | {"prompt": ""})["usage"]["prompt_tokens"] == 1


def test_a_seed_gives_the_same_text_beside_others_and_without_one_texts_differ(server):
    request = TEXT | {"temperature": 1, "ignore_eos": True}
    alone = answer(server, **request, seed=3)["choices"][0]["text"]
    assert answer(server, **request, seed=3, n=5)["choices"][0]["text"] == alone
    assert len({answer(server, **request, seed=seed)["choices"][0]["text"] for seed in (3, -3, 2**70)}) == 3
    assert answer(server, **request)["choices"][0]["text"] != answer(server, **request)["choices"][0]["text"]


def test_stop_strings_end_the_text_before_them(server):
    text = answer(server, **TEXT, ignore_eos=True)["choices"][0]["text"]
    stop = text[len(text) // 2 :][:2]
    for body in ({"stop": stop}, {"stop": ["never", stop]}, {"stop": stop, "logprobs": 0}):
        choice = answer(server, **TEXT | body, ignore_eos=True)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")
    offsets = choice["logprobs"]["text_offset"]
    assert (offsets == sorted(offsets) and offsets[-1] < len(choice["text"])) or not offsets


def test_log_probabilities_belong_to_the_tokens_of_the_text(server):
    request = TEXT | {"logprobs": 3, "echo": True, "ignore_eos": True}
    choice = answer(server, **request)["choices"][0]
    found = choice["logprobs"]
    assert choice["text"].startswith(TEXT["prompt"])
    tokens = found["tokens"][1:]  # after BOS
    assert found["tokens"][0] == "<s>" and found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    assert all(value <= 0 and math.isfinite(value) for value in found["token_logprobs"][1:])
    for token, offset, value, top in zip(
        tokens, found["text_offset"][1:], found["token_logprobs"][1:], found["top_logprobs"][1:], strict=True
    ):
        assert len(top) <= 3 and max(top.values()) >= value - 1e-6
        if not re.fullmatch(r"bytes:.*|<\d+>", token):
            assert choice["text"][offset : offset + len(token)] == token
    parts = [event["choices"][0] for event in streamed(post(server, **request, stream=True))]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for name, values in found.items():
        streamed_values = list(itertools.chain.from_iterable(part["logprobs"][name] for part in parts))
        assert [type(value) for value in streamed_values] == [type(value) for value in values]
        if name in ("tokens", "text_offset"):
            assert streamed_values == values
    plain = answer(server, **TEXT, logprobs=0, ignore_eos=True)["choices"][0]
    assert plain["logprobs"]["top_logprobs"] is None and len(plain["logprobs"]["tokens"]) == TEXT["max_tokens"]


def test_a_prompt_is_scored_without_an_answer(server):
    ids = [server.api.tokenizer.bos_id, *range(20, 40)]
    scored = answer(server, prompt=ids, max_tokens=0, echo=True, logprobs=1)
    assert len(scored["choices"][0]["logprobs"]["token_logprobs"]) == len(ids)
    assert scored["usage"]["completion_tokens"] == 0 and scored["choices"][0]["finish_reason"] == "length"


def test_the_best_answers_are_returned(server):
    request = TEXT | {"temperature": 1, "seed": 1, "n": 5, "ignore_eos": True}
    answers = answer(server, **request, logprobs=0)["choices"]
    ordered = sorted(answers, key=lambda choice: sum(choice["logprobs"]["token_logprobs"]), reverse=True)
    best = answer(server, **request | {"n": 2, "best_of": 5})
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ordered[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1] and best["choices"][0]["logprobs"] is None
    assert post(server, **request | {"best_of": 6, "stream": True}).status_code == 400
    assert post(server, **request | {"best_of": 4}).status_code == 400


def test_settings_that_other_servers_have_too(server):
    greedy = answer(server, **TEXT)["choices"][0]["text"]
    sampled = TEXT | {"temperature": 1, "seed": 1}
    for setting in ({"top_k": 1}, {"top_p": 0}, {"min_p": 1}, {"temperature": 0, "top_k": -1}):
        assert answer(server, **sampled | setting)["choices"][0]["text"] == greedy
    for setting in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 50}):
        assert post(server, **TEXT | setting).status_code == 200
    assert answer(server, **TEXT, min_tokens=12)["usage"]["completion_tokens"] == 12
    assert (
        answer(server, **TEXT | {"max_tokens": 10**30, "min_tokens": 10**30})["choices"][0]["finish_reason"] == "length"
    )


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [10**9]}, "ids"),
        ({"prompt": [-1]}, "ids"),
        ({"prompt": "x " * 3000}, "shorten"),
        ({"prompt": "x" * 10**6}, "shorten"),
        ({"prompt": [5], "suffix": "x"}, "suffix"),
        ({"suffix": "x", "echo": True, "logprobs": 1}, "suffix"),
        ({"temperature_": 1}, "temperature"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"n": 0}, "n=0"),
        ({"n": 1000}, "n=1000"),
        ({"stop": ""}, "stop"),
        ({"suffixx": "b"}, "did you mean suffix?"),
        ({"prompt": "<PRE> a <SUF>b <MID>", "echo": True, "logprobs": 1}, "markers"),
        ({"stop": ["x"] * 33}, "stop"),
        ({"top_p": 1.5}, "top_p"),
        ({"stream_options": {"usage": True}}, "include_usage"),
    ],
)
def test_what_is_wrong_is_named(server, body, word):
    response = post(server, **TEXT | body)
    assert response.status_code == 400 and word in response.json()["error"]["message"]


def test_any_model_is_answered_by_the_one_that_is_served(server):
    assert answer(server, **TEXT, model="gpt-3.5-turbo-instruct")["model"] == "small"
    assert httpx.get(server.url + "/v1/models").json()["data"][0]["id"] == "small"
    assert httpx.get(server.url + "/v1/models/small").json()["max_model_len"] == 512
    assert httpx.get(server.url + "/v1/models/other/one").status_code == 404


def test_mistral_and_deepseek_infill(server):
    request = {"prompt": "def f(", "suffix": "\n    return x\n", "max_tokens": 8}
    expected = answer(server, **request, temperature=0)
    text = expected["choices"][0]["text"]
    assert answer(server, "/beta/completions", **request, temperature=0)["choices"] == expected["choices"]
    request |= {"model": "codestral-latest", "random_seed": 4, "min_tokens": 0, "stop": []}
    whole = answer(server, "/v1/fim/completions", **request)
    assert whole["choices"][0]["message"]["content"] == text and whole["object"] == "chat.completion"
    *parts, last = streamed(post(server, "/v1/fim/completions", **request, stream=True))
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant" and last["usage"]["completion_tokens"] == 8
    assert "".join(part["choices"][0]["delta"]["content"] for part in [*parts, last]) == text
    refused = post(server, "/v1/fim/completions", **request, seed=1)
    assert refused.status_code == 400 and refused.json()["object"] == "error" and "random_seed" in refused.text


def test_the_order_and_the_healing_of_a_hole_can_be_chosen(server):
    """By default, the order is SPM and the last token before a hole is generated again."""
    tokenizer = server.api.tokenizer
    prefix, suffix = "def f(x):\n    ret", "\n"
    for order in ("psm", "spm"):
        ids = tokenizer.infilling_prompt(prefix, suffix, order).tolist()
        exact = answer(server, prompt=ids, max_tokens=8, temperature=0)["choices"][0]["text"].lstrip()
        hole = {"prompt": prefix, "suffix": suffix, "max_tokens": 8, "temperature": 0, "token_healing": False}
        found = answer(server, **hole, infill_order=order)
        assert found["usage"]["prompt_tokens"] == len(ids) and found["choices"][0]["text"].lstrip() == exact
    healed = answer(server, **hole | {"token_healing": True})
    assert healed["usage"]["prompt_tokens"] == len(ids) - 1
    assert post(server, **hole, infill_order="pms").json()["error"]["param"] == "infill_order"


def test_metrics_count_requests_tokens_and_times(server):
    def value(name: str) -> float:
        lines = httpx.get(server.url + "/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"codellama_jax_{name}"))

    names = ["generated_tokens_total", "prompt_tokens_total", "time_to_first_token_seconds_count"]
    names += ['requests_total{endpoint="/v1/completions",status="200"}', 'answers_total{finish_reason="length"}']
    names += ['ignored_fields_total{field="user"}', 'requests_total{endpoint="other",status="404"}']
    before = [value(name) for name in names]
    answer(server, **TEXT, n=2, user="someone", ignore_eos=True)
    httpx.get(server.url + "/nowhere")
    changes = [after - old for after, old in zip(map(value, names), before, strict=True)]
    assert changes == [24, changes[1], 2, 1, 2, 1, 1] and changes[1] > 0
    assert value("active") == value("queue") == value("cache_pages_used") == 0 < value("cache_pages")
