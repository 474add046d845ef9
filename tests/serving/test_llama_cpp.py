"""llama.cpp's API: what llama.vim and llama.vscode send, and what they read."""

import json
import urllib.request

import httpx
import pytest

from codellama_jax.serving.llama_cpp_answers import Indentation, selected

PREFIX, LINE, SUFFIX = (
    "import json\n\n\ndef load(path):\n",
    "    with open(path) as file:\n        ret",
    "\n\n\nprint(1)\n",
)
# As /v1/completions samples: without the filters of llama.cpp's defaults.
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0, "seed": 7}


def post(server, path: str = "/infill", **body) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def infill(server, **body) -> dict:
    response = post(server, **({"input_prefix": PREFIX, "input_suffix": SUFFIX, "prompt": LINE} | body))
    assert response.status_code == 200, response.text
    return response.json()


def test_an_infilling_is_that_of_openai_s_protocol(server):
    answer = infill(server, n_predict=24, **PLAIN)
    request = {"prompt": PREFIX + LINE, "suffix": SUFFIX, "max_tokens": 24, "temperature": 1, "seed": 7}
    other = post(server, "/v1/completions", **request).json()
    assert answer["content"] == other["choices"][0]["text"]
    assert answer["tokens_evaluated"] == other["usage"]["prompt_tokens"]
    assert answer["tokens_predicted"] == other["usage"]["completion_tokens"] == 24
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "limit", "")
    assert answer["truncated"] is False and answer["tokens"] == []


def test_the_request_of_llama_vim_gets_flat_keys_in_compact_json(server):
    """Recorded from llama.vim in vim 9: field names, their order and values, and the empty API key."""
    names = ["content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms"]
    names += ["timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms"]
    names += ["timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated", "tokens_cached"]
    body = {"id_slot": 0, "input_prefix": PREFIX, "input_suffix": SUFFIX}
    body |= {"input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "a.py"}], "prompt": LINE, "n_predict": 128}
    body |= {"stop": [], "n_indent": 8, "top_k": 40, "top_p": 0.90, "samplers": ["top_k", "top_p", "infill"]}
    body |= {"stream": False, "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 1000}
    data = json.dumps(body | {"response_fields": names})
    headers = {"Content-Type": "application/json", "Authorization": "Bearer "}
    with urllib.request.urlopen(urllib.request.Request(server.url + "/infill", data.encode(), headers)) as response:
        content = response.read()
    assert list(json.loads(content)) == names
    assert b'"content":"' in content and b"\n" not in content


def test_a_request_without_tokens_fills_the_cache(server):
    text = "".join(f"first_{number} = {number}\n" for number in range(20))
    request = {"input_prefix": text, "input_suffix": "\n", "prompt": "y =", "seed": 1}
    assert infill(server, **request, n_predict=0, samplers=[], response_fields=[""]) == {}
    answer = infill(server, **request, n_predict=4)
    assert answer["timings"]["cache_n"] > answer["timings"]["prompt_n"]
    again = infill(server, **request, n_predict=0, t_max_predict_ms=1)
    assert (again["content"], again["tokens_predicted"], again["stop_type"]) == ("", 0, "limit")


def test_a_stream_has_the_text_of_the_answer(server):
    answer = infill(server, n_predict=20, return_tokens=True, **PLAIN)
    body = {"input_prefix": PREFIX, "input_suffix": SUFFIX, "prompt": LINE, "n_predict": 20, "stream": True, **PLAIN}
    response = post(server, **body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, last = [json.loads(event.removeprefix("data: ")) for event in response.text.split("\n\n") if event]
    assert "".join(part["content"] for part in parts) == answer["content"] and last["content"] == ""
    assert not any(part["stop"] for part in parts) and last["stop"] and last["stop_type"] == "limit"
    assert last["tokens_predicted"] == len(answer["tokens"]) == 20


def test_several_answers_are_an_array_and_have_seeds_of_their_own(server):
    answers = infill(server, n_predict=12, n_cmpl=3, **PLAIN)
    assert [answer["index"] for answer in answers] == [0, 1, 2]
    alone = infill(server, n_predict=12, **PLAIN | {"seed": 9})
    assert answers[2]["content"] == alone["content"] != answers[0]["content"]


def test_a_stop_string_is_named_and_not_part_of_the_text(server):
    text = infill(server, n_predict=24, **PLAIN)["content"]
    word = text[6:9]
    answer = infill(server, n_predict=24, stop=[word, "never"], **PLAIN)
    assert (answer["stop_type"], answer["stopping_word"]) == ("word", word)
    assert answer["content"] == text[: text.index(word)]


@pytest.fixture(scope="module")
def with_lines(server) -> tuple[dict, str]:
    """A request whose answer has a line end, and that answer."""
    answers = infill(server, n_predict=200, n_cmpl=8, **PLAIN)
    index, text = next((answer["index"], answer["content"]) for answer in answers if "\n" in answer["content"])
    return {"n_predict": 200, **PLAIN, "seed": PLAIN["seed"] + index}, text


def test_a_late_answer_ends_only_after_a_line_end(server, with_lines):
    request, whole = with_lines
    answer = infill(server, **request, t_max_predict_ms=0.001)
    assert "\n" in answer["content"] and whole.startswith(answer["content"]) and answer["stop_type"] == "limit"
    line = infill(server, **request, stop=["\n"])["tokens_predicted"]
    assert line <= answer["tokens_predicted"] < line + 16


def test_an_answer_ends_before_a_line_that_is_indented_less(server, with_lines):
    request, whole = with_lines
    answer = infill(server, **request, n_indent=40)
    assert answer["content"] == Indentation(40).add(whole, last=True) != whole
    assert answer["stop_type"] == "limit" and answer["tokens_predicted"] < 200


def test_the_end_of_a_hole_is_not_part_of_the_text(server):
    answers = infill(server, n_predict=-1, n_cmpl=8, **PLAIN)
    assert {answer["stop_type"] for answer in answers} == {"eos", "limit"}
    assert not any(marker in answer["content"] for answer in answers for marker in ("<EOT>", "</s>"))
    assert all(answer["tokens_cached"] <= 512 for answer in answers)


def test_lines_with_crlf_stay_so(server):
    crlf = [text.replace("\n", "\r\n") for text in (PREFIX, SUFFIX, LINE)]
    names = ("input_prefix", "input_suffix", "prompt")
    answer = infill(server, n_predict=40, **PLAIN, **dict(zip(names, crlf, strict=True)))["content"]
    assert answer == infill(server, n_predict=40, **PLAIN)["content"].replace("\n", "\r\n")


def test_files_longer_than_the_context_are_cut(server):
    lines = "".join(f"value_{number} = {number}\n" for number in range(400))
    answer = infill(server, input_prefix=lines, input_suffix=lines, prompt="z =", n_predict=16, **PLAIN)
    assert answer["truncated"] is True and answer["tokens_predicted"] == 16
    assert 300 < answer["tokens_evaluated"] <= 496
    longer = infill(server, input_prefix=lines, input_suffix=lines, prompt="z = 1", n_predict=16, **PLAIN)
    assert longer["timings"]["cache_n"] > longer["timings"]["prompt_n"], "the cut has moved with one more character"
    assert infill(server, n_predict=4, input_extra=[{"text": lines}, {"text": "a"}], **PLAIN)["truncated"] is False


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input_suffix": "b"}, "input_prefix is missing"),
        ({"input_prefix": 1, "input_suffix": "b"}, "input_prefix must be a string"),
        ({"input_prefix": "a", "input_suffix": "b", "n_predicts": 1}, "did you mean n_predict?"),
        ({"input_prefix": "a", "input_suffix": "b", "top_p": "x"}, "top_p must be a number"),
        ({"input_prefix": "a", "input_suffix": "b", "grammar": "root"}, "grammar is not supported"),
        ({"input_prefix": "a", "input_suffix": "b", "input_extra": [{"txt": ""}]}, "input_extra"),
        ({"input_prefix": "a", "input_suffix": "b", "n_cmpl": 99}, "n_cmpl=99"),
        ({"input_prefix": "a", "input_suffix": "b", "repeat_penalty": -1}, "repeat_penalty=-1"),
        ({"input_prefix": "a", "input_suffix": "b", "t_max_predict_ms": 10**400}, "t_max_predict_ms is larger"),
        ({"input_prefix": "a", "input_suffix": "b", "samplers": ["top_q"]}, "samplers has 'top_q'"),
        ({"input_prefix": "a", "input_suffix": "b", "stop": ["a"] * 99}, "stop has at most"),
        ({"input_prefix": "a", "input_suffix": "b", "n_probs": 99}, "n_probs=99"),
    ],
)
def test_an_error_names_the_field_in_llama_cpp_s_form(server, body, message):
    response = post(server, **body)
    error = response.json()["error"]
    assert response.status_code == error["code"] == 400 and error["type"] == "invalid_request_error"
    assert message in error["message"]


def test_unknown_fields_are_ignored(server):
    assert infill(server, n_predict=2, a_field_of_tomorrow=1, **PLAIN)["tokens_predicted"] == 2


def test_a_model_without_infilling_says_what_to_use(client_without_infilling):
    response = client_without_infilling.post("/infill", json={"input_prefix": "a", "input_suffix": "b"})
    error = response.json()["error"]
    assert response.status_code == error["code"] == 501 and error["type"] == "not_supported_error"
    assert error["message"].startswith("Infill is not supported by this model: prefix token is missing. Use ")
    marked = client_without_infilling.post("/completion", json={"prompt": "<PRE> a <SUF>b <MID>"})
    assert marked.status_code == 400 and "no infilling ids" in marked.json()["error"]["message"]


def test_completion_takes_text_ids_and_lists_of_them(server):
    request = {"n_predict": 8, **PLAIN}
    answer = post(server, "/completion", prompt="def f(", **request).json()
    text = post(server, "/v1/completions", prompt="def f(", max_tokens=8, temperature=1, seed=7).json()
    assert answer["content"] == text["choices"][0]["text"] and answer["prompt"] == "def f("
    ids = post(server, "/tokenize", content="def f(", add_special=True).json()["tokens"]
    several = post(server, "/completions", prompt=["def f(", ids], **request).json()
    assert several[0]["content"] == answer["content"] and several[1]["index"] == 1
    assert several[1]["tokens_evaluated"] == len(ids)
    long = post(server, "/completion", prompt="a = 1\n" * 400)
    assert long.status_code == 400 and "longer than the context" in long.json()["error"]["message"]
    assert post(server, "/completion", prompt=[1, -2]).status_code == 400
    assert post(server, "/completion", prompt=[10**6]).status_code == 400


def test_probabilities_are_those_of_the_tokens(server):
    body = {"prompt": "def f(", "n_predict": 6, "n_probs": 2, "return_tokens": True, "temperature": 0}
    answer = post(server, "/completion", **body).json()
    probabilities = answer["completion_probabilities"]
    assert [token["id"] for token in probabilities] == answer["tokens"] and len(answer["tokens"]) == 6
    for token in probabilities[1:]:  # the first one is healed: not every token may come there
        assert len(token["top_logprobs"]) == 2 and token["top_logprobs"][0]["id"] == token["id"]
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]
    events = post(server, "/completion", **body, stream=True).text.split("\n\n")
    parts = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert [token for part in parts for token in part.get("completion_probabilities", [])] == probabilities


def test_tokens_have_their_pieces(server):
    text = "def été():\n\treturn '🙂'"
    with_pieces = post(server, "/tokenize", content=text, with_pieces=True).json()["tokens"]
    pieces = [piece["piece"] for piece in with_pieces]
    data = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in pieces)
    assert data.decode() == " " + text and any(isinstance(piece, list) for piece in pieces)
    ids = [piece["id"] for piece in with_pieces]
    assert post(server, "/tokenize", content=text).json() == {"tokens": ids}
    assert post(server, "/detokenize", tokens=ids).json() == {"content": " " + text}
    assert post(server, "/detokenize", tokens="x").status_code == 400
    assert "outside 0 to" in post(server, "/detokenize", tokens=[10**6]).text


def test_what_clients_ask_about_the_server(server):
    props = httpx.get(server.url + "/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 512
    assert httpx.get(server.url + "/health").json() == {"status": "ok"}
    assert [slot["is_processing"] for slot in httpx.get(server.url + "/slots").json()] == [False] * props["total_slots"]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_text_ends_before_a_line_that_is_indented_less(size):
    def shown(text: str, least: int) -> str:
        indentation = Indentation(least)
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        return "".join(indentation.add(part, last=number == len(parts) - 1) for number, part in enumerate(parts))

    assert shown("a\n    b\n  c\n    d", 4) == "a\n    b"
    assert shown("a\r\n\tb\r\nc", 1) == "a\r\n\tb"
    assert shown("a\n    b\n\n    c", 4) == "a\n    b"
    assert shown("a\n    b\n  ", 4) == "a\n    b\n  "
    assert shown("a\nb", 0) == "a\nb"


def test_selected_fields_are_flat_and_unknown_ones_left_out():
    assert selected({"a": {"b": 1, "c": 2}, "d": None}, ["a/b", "d", "a/x", "d/e", ""]) == {"a/b": 1, "d": None}
