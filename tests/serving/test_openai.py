"""OpenAI's completions: text, infilling and streams."""

import json

import httpx


def post(server, path: str = "/v1/completions", **body) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def streamed(response: httpx.Response) -> list[dict]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


def test_a_stream_has_the_text_of_the_answer(server):
    request = {"prompt": "def f(", "suffix": "\n    return x\n", "max_tokens": 20, "temperature": 1, "seed": 5}
    answer = post(server, **request).json()
    events = streamed(post(server, **request, stream=True, stream_options={"include_usage": True}))
    assert answer["choices"][0]["text"] == "".join(event["choices"][0]["text"] for event in events[:-1])
    assert answer["usage"] == events[-1]["usage"] and answer["usage"]["completion_tokens"] == 20
    assert events[-2]["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"] == "length"
