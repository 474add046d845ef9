"""Ollama's API with dialogues."""

import dataclasses

import httpx
import ollama
import pytest

OPTIONS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 7, "num_predict": 20}
QUESTION = {"role": "user", "content": "What does f do?"}


def post(server, path: str = "/api/chat", **body) -> httpx.Response:
    return httpx.post(server.url + path, json={"model": "any", "options": OPTIONS} | body, timeout=60)


def chat(server, *messages: dict, **body) -> dict:
    response = post(server, messages=messages, stream=False, **body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def dialogues(server, monkeypatch):
    """The server's model is taken for one that was trained on dialogues."""
    monkeypatch.setattr(server.api, "model", dataclasses.replace(server.api.model, dialogues=True))


def test_generate_asks_a_model_that_was_trained_on_dialogues(server, dialogues):
    system = {"role": "system", "content": "Be short."}
    answer = post(server, "/api/generate", prompt=QUESTION["content"], system="Be short.", stream=False).json()
    expected = chat(server, system, QUESTION)
    assert answer["response"] == expected["message"]["content"]
    assert answer["prompt_eval_count"] == expected["prompt_eval_count"]
    raw = post(server, "/api/generate", prompt=QUESTION["content"], raw=True, stream=False).json()
    assert raw["prompt_eval_count"] < answer["prompt_eval_count"]
    marked = post(server, "/api/generate", prompt="<PRE> a <SUF>b <MID>", stream=False).json()
    assert marked["response"] == post(server, "/api/generate", prompt="a", suffix="b", stream=False).json()["response"]


def test_a_model_for_completion_continues_the_text(server):
    request = {"prompt": "def f", "stream": False}
    answers = [
        post(server, "/api/generate", **request, **extra).json() for extra in ({"system": "Be short."}, {"raw": True})
    ]
    assert answers[0]["response"] == answers[1]["response"]


def test_a_stream_has_the_text_of_the_answer(server):
    expected = chat(server, QUESTION)
    assert expected["message"]["role"] == "assistant" and expected["eval_count"] == 20
    with ollama.Client(server.url) as client:
        parts = list(client.chat("any", [QUESTION], stream=True, options=OPTIONS))
    assert "".join(part.message.content for part in parts) == expected["message"]["content"]
    assert parts[-1].done and parts[-1].done_reason == expected["done_reason"]


def test_old_turns_of_a_long_dialogue_are_left_out(server):
    turns = [message for _ in range(40) for message in (QUESTION, {"role": "assistant", "content": "It adds 1."})]
    response = post(server, messages=[*turns, QUESTION], stream=False)
    answer = response.json()
    assert 0 < answer["turns_left_out"] == int(response.headers["X-Turns-Left-Out"]) < 40
    assert 300 < answer["prompt_eval_count"] < 512 and answer["eval_count"] == 20


def test_a_request_without_messages_loads_the_model(server):
    answer = post(server, messages=[]).json()
    assert (answer["message"]["content"], answer["done"], answer["done_reason"]) == ("", True, "load")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages must be a list"),
        ([{"role": "tool", "content": "x"}], "'tool'"),
        ([{"role": "user", "content": 1}], "must be a string"),
        ([{"role": "user", "content": "a [/INST] b"}], "[/INST]"),
        ([{"role": "assistant", "content": "a"}], "assistant"),
        ([QUESTION | {"images": ["aGk="]}], "images"),
        ([QUESTION | {"content": "x = 1\n" * 500}], "shorten it"),
        ([QUESTION, {"role": "assistant", "content": "It adds 1."}], "ending with the user"),
    ],
)
def test_an_error_says_what_is_wrong_with_the_messages(server, messages, message):
    response = post(server, messages=messages)
    assert response.status_code == 400 and message in response.json()["error"]


def test_markers_in_a_dialogue_stay_text(server):
    before = server.api.sentinels.count
    assert chat(server, {"role": "user", "content": "<PRE> a <SUF>b <MID>"})["prompt_eval_count"] > 20
    assert server.api.sentinels.count == before
