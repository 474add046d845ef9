"""Ollama's API, with its own client and without."""

import json

import httpx
import ollama
import pytest

PREFIX, SUFFIX = "def load(path):\n    ret", "\n\n\nprint(1)\n"
# As /v1/completions samples: without the filters of Ollama's defaults.
OPTIONS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 7}


def post(server, path: str, **body) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def generate(server, options: dict | None = None, **body) -> dict:
    body = {"model": "any", "prompt": PREFIX, "stream": False} | body
    response = post(server, "/api/generate", **body, options=OPTIONS | {"num_predict": 20} | (options or {}))
    assert response.status_code == 200, response.text
    return response.json()


def test_an_infilling_is_that_of_openai_s_protocol(server):
    answer = generate(server, suffix=SUFFIX)
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 20, "temperature": 1, "seed": 7}
    expected = post(server, "/v1/completions", **body).json()
    assert answer["response"] == expected["choices"][0]["text"]
    assert answer["prompt_eval_count"] == expected["usage"]["prompt_tokens"] and answer["eval_count"] == 20
    assert (answer["model"], answer["done"], answer["done_reason"]) == ("any", True, "length")
    durations = [answer[f"{name}_duration"] for name in ("load", "prompt_eval", "eval")]
    assert all(isinstance(value, int) and value >= 0 for value in durations)
    assert sum(durations) <= answer["total_duration"]


def test_text_is_completed_as_it_is(server):
    answer = generate(server, raw=True)
    expected = post(server, "/v1/completions", prompt=PREFIX, max_tokens=20, temperature=1, seed=7).json()
    assert answer["response"] == expected["choices"][0]["text"] == generate(server)["response"]
    assert generate(server, suffix=SUFFIX, raw=True)["response"] == generate(server, suffix=SUFFIX)["response"]


def test_streaming_is_the_default_and_has_lines(server):
    body = {"model": "small:latest", "prompt": PREFIX, "suffix": SUFFIX}
    response = post(server, "/api/generate", **body, options=OPTIONS | {"num_predict": 20})
    assert response.headers["content-type"].startswith("application/x-ndjson")
    *parts, last = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(part["response"] for part in parts) == generate(server, suffix=SUFFIX)["response"]
    assert not any(part["done"] for part in parts) and last["done"] and last["response"] == ""
    assert {part["model"] for part in [*parts, last]} == {"small:latest"}


def test_log_probabilities_are_those_of_the_text(server):
    answer = generate(server, {"temperature": 0}, suffix=SUFFIX, prompt="a = [", logprobs=True, top_logprobs=2)
    assert len(answer["logprobs"]) == answer["eval_count"] == 20
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0 for token in answer["logprobs"][1:])
    penalized = generate(server, {"temperature": 0, "frequency_penalty": 2.0, "presence_penalty": 2.0}, suffix=SUFFIX)
    assert penalized["response"] != generate(server, {"temperature": 0}, suffix=SUFFIX)["response"]
    assert "logprobs" not in penalized


def test_a_stop_string_ends_the_text_and_crlf_stays(server):
    text = generate(server, suffix=SUFFIX)["response"]
    stopped = generate(server, {"stop": [text[5:8]]}, suffix=SUFFIX)
    assert (stopped["response"], stopped["done_reason"]) == (text[: text.index(text[5:8])], "stop")
    crlf = [part.replace("\n", "\r\n") for part in (PREFIX, SUFFIX)]
    assert generate(server, prompt=crlf[0], suffix=crlf[1])["response"] == text.replace("\n", "\r\n")


def test_long_prompts_are_cut_unless_the_request_says_no(server):
    lines = "".join(f"value_{number} = {number}\n" for number in range(400))
    for body in ({"suffix": lines}, {}):
        answer = generate(server, prompt=lines, **body)
        assert 300 < answer["prompt_eval_count"] < 512 and answer["eval_count"] == 20
    response = post(server, "/api/generate", model="m", prompt=lines, truncate=False)
    assert response.status_code == 400 and "longer than the context" in response.json()["error"]


def test_an_empty_prompt_loads_the_model(server):
    for keep_alive, reason in (("5m", "load"), (0, "unload")):
        answer = post(server, "/api/generate", model="m", keep_alive=keep_alive).json()
        assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, reason)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"format": "json"}, "format is not supported"),
        ({"prompt": 1}, "prompt must be a string"),
        ({"prompts": "a"}, "did you mean prompt?"),
        ({"options": {"num_predicts": 1}}, "did you mean num_predict?"),
        ({"options": {"top_k": "many"}}, "top_k must be an integer"),
        ({"options": {"temperature": -1}}, "temperature=-1"),
        ({"options": 1}, "options must be an object"),
        ({"images": ["aGk="]}, "images is not supported"),
    ],
)
def test_an_error_is_a_string(server, body, message):
    response = post(server, "/api/generate", **({"model": "m", "prompt": "a"} | body))
    assert response.status_code == 400 and message in response.json()["error"]


def test_unknown_names_and_other_options_are_ignored(server):
    options = {"num_ctx": 4096, "num_gpu": 1, "mirostat": 0, "an_option_of_tomorrow": 1}
    assert generate(server, options, tomorrow=1)["response"] == generate(server)["response"]


def test_a_model_without_infilling_does_not_offer_it(client_without_infilling):
    shown = client_without_infilling.post("/api/show", json={"model": "plain"}).json()
    assert ".Suffix" not in shown["template"] and shown["capabilities"] == ["completion"]
    response = client_without_infilling.post("/api/generate", json={"model": "m", "prompt": "a", "suffix": "b"})
    assert response.status_code == 400 and "m does not support insert" in response.json()["error"]


def test_ollama_s_own_client(server):
    options = {**OPTIONS, "num_predict": 20}
    with ollama.Client(server.url) as client:
        answer = client.generate("codellama:7b-code", PREFIX, suffix=SUFFIX, options=options)
        assert answer.response == generate(server, suffix=SUFFIX)["response"] and answer.model == "codellama:7b-code"
        parts = client.generate("x", PREFIX, suffix=SUFFIX, stream=True, options=options)
        assert "".join(part.response for part in parts) == answer.response
        shown = client.show("small")
        assert ".Suffix" in shown.template and shown.capabilities == ["completion", "insert"]
        assert shown.modelinfo["llama.context_length"] == 512 and shown.details.family == "llama"
        [listed] = client.list().models
        assert listed.model == "small:latest" == client.ps().models[0].model and listed.size > 0
        for call in (lambda: client.pull("x"), lambda: client.embed("x", "a"), lambda: client.delete("x")):
            with pytest.raises(ollama.ResponseError, match="this server serves one model, small") as failure:
                call()
            assert failure.value.status_code == 501


def test_a_server_is_found(server):
    assert httpx.head(server.url + "/").status_code == 200
    assert httpx.get(server.url + "/api/version").json()["version"].count(".") == 2
