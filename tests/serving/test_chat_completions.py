"""OpenAI's dialogues."""

import json

import httpx
import pytest

from codellama_jax.chat import encode_open_dialogue

QUESTION = {"role": "user", "content": "Write a loop."}
REQUEST = {"messages": [QUESTION], "max_completion_tokens": 12, "temperature": 0}


def post(server, **body) -> httpx.Response:
    return httpx.post(server.url + "/v1/chat/completions", json=REQUEST | body, timeout=60)


def answer(server, **body) -> dict:
    response = post(server, **body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_prompt_is_that_of_training(server):
    dialogue = [{"role": "system", "content": "Be brief."}, QUESTION, {"role": "assistant", "content": "No."}, QUESTION]
    ids = encode_open_dialogue(server.api.tokenizer, dialogue, "inst").tolist()
    whole = answer(server, messages=dialogue)
    assert whole["usage"]["prompt_tokens"] == len(ids) and whole["object"] == "chat.completion"
    body = {"prompt": ids, "max_tokens": 12, "temperature": 0}
    text = httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    message = whole["choices"][0]["message"]
    assert message["role"] == "assistant" and message["content"] == text.strip()


def test_a_stream_has_the_role_first_and_the_text_of_the_answer(server):
    request = {"temperature": 1, "seed": 4, "n": 2, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    whole = answer(server, **request)
    response = post(server, **request, stream=True, stream_options={"include_usage": True})
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    *parts, usage = map(json.loads, events)
    assert last == "[DONE]" and usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for number, choice in enumerate(whole["choices"]):
        own = [part["choices"][0] for part in parts if part["choices"][0]["index"] == number]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"]["content"] for part in own) == choice["message"]["content"]
        tokens = [token for part in own if part["logprobs"] for token in part["logprobs"]["content"]]
        assert [token["bytes"] for token in tokens] == [token["bytes"] for token in choice["logprobs"]["content"]]
        shown = b"".join(bytes(token["bytes"]) for token in tokens).decode(errors="replace")
        assert shown.strip() == choice["message"]["content"]
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)


def test_all_forms_of_messages(server):
    expected = answer(server, messages=[{"role": "system", "content": "A\n\nB"}, {"role": "user", "content": "C D"}])
    parts = [{"type": "text", "text": "C "}, {"type": "text", "text": "D"}]
    other = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}]
    other.append({"role": "user", "content": parts, "name": "me"})
    assert answer(server, messages=other)["choices"] == expected["choices"]


def test_old_turns_that_do_not_fit_are_left_out_and_this_is_said(server):
    turns = [QUESTION, {"role": "assistant", "content": "for " * 50}] * 9 + [QUESTION]
    for stream in (False, True):
        response = post(server, messages=turns, stream=stream)
        assert response.status_code == 200 and 0 < int(response.headers["x-turns-left-out"]) < 9
        assert '"turns_left_out":' in response.text
    assert "x-turns-left-out" not in post(server).headers
    long = post(server, messages=[{"role": "user", "content": "for " * 600}])
    assert long.status_code == 400 and "shorten" in long.text


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'tool'"),
        ({"messages": [QUESTION, {"role": "assistant", "content": "x"}]}, "user"),
        ({"messages": [{"role": "user", "content": "[INST]"}]}, "[INST]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "tool_calls"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "logprobs=true"),
        ({"max_tokens": 5}, "max_completion_tokens"),
        ({"prompt": "x"}, "prompt"),
    ],
)
def test_what_is_wrong_is_named(server, body, word):
    response = post(server, **body)
    assert response.status_code == 400 and word in response.json()["error"]["message"]


def test_neutral_values_of_what_is_not_supported_are_accepted(server):
    neutral = {
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "store": False,
    }
    assert answer(server, **neutral)["choices"] == answer(server)["choices"]
