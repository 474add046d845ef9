"""Tabby's API: what its clients send and read."""

import httpx
import pytest

from codellama_jax.serving.tabby import commented, stop_strings

SEGMENTS = {"prefix": "def load(path):\n    with open(path) as f", "suffix": "\n    return x\n", "filepath": "a.py"}


def post(server, **body) -> httpx.Response:
    return httpx.post(server.url + "/v1/completions", json=body, timeout=60)


def test_segments_are_infilled_as_openai_s_protocol_infills_them(server):
    answer = post(server, language="python", segments=SEGMENTS, user="me", temperature=1.0, seed=4).json()
    body = {"prompt": SEGMENTS["prefix"], "suffix": SEGMENTS["suffix"], "max_tokens": 64, "temperature": 1.0, "seed": 4}
    text = post(server, **body).json()["choices"][0]["text"]
    ends = [text.index(stop) for stop in stop_strings("python") if stop in text]
    assert answer["id"].startswith("cmpl-") and list(answer) == ["id", "choices"]
    assert answer["choices"] == [{"index": 0, "text": text[: min(ends, default=None)]}]


def test_snippets_of_other_files_come_as_comments():
    assert commented("python", [("a.py", "x = 1\n\ny = 2"), ("b.py", "z")]) == (
        "# Path: a.py\n# x = 1\n#\n# y = 2\n#\n# Path: b.py\n# z\n"
    )
    assert commented("rust", [("a.rs", "let x;")]) == "// Path: a.rs\n// let x;\n"
    assert commented("markdown", [("a.md", "x")]) == commented("python", []) == ""


def test_declarations_and_snippets_are_part_of_the_prompt(server):
    request = {"language": "python", "temperature": 1.0, "seed": 4}
    declarations = [{"filepath": "b.py", "body": "class File: ..."}]
    changed = [{"filepath": "c.py", "body": "x" * 800, "score": 1.0}, {"filepath": "d.py", "body": "y", "score": 0.5}]
    segments = SEGMENTS | {"declarations": declarations, "relevant_snippets_from_changed_files": changed}
    text = commented("python", [("b.py", "class File: ...")]) + SEGMENTS["prefix"]
    answers = [post(server, **request, segments=one).json() for one in (segments, SEGMENTS | {"prefix": text})]
    assert answers[0]["choices"] == answers[1]["choices"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"segments": {"suffix": "b"}}, "prefix is missing"),
        ({"segments": {"prefix": 1}}, "prefix must be a string"),
        ({"segments": []}, "segments must be an object"),
        ({"segments": {"prefix": "a", "declarations": [{"body": "x"}]}}, "declarations"),
        ({"segments": {"prefix": "a"}, "mode": "next_edit_suggestion"}, "mode is not supported"),
    ],
)
def test_an_error_names_the_field(server, body, message):
    response = post(server, **body)
    assert response.status_code == 400 and message in response.json()["error"]["message"]


def test_a_model_without_infilling_says_so(client_without_infilling):
    response = client_without_infilling.post("/v1/completions", json={"segments": SEGMENTS})
    assert response.status_code == 400 and "no infilling ids" in response.json()["error"]["message"]


def test_what_clients_ask_and_report(server):
    health = httpx.get(server.url + "/v1/health").json()
    assert (health["model"], health["status"], health["device"]) == ("small", "ok", "cpu")
    assert isinstance(health["cuda_devices"], list) and "git_describe" in health["version"]
    event = {"type": "view", "completion_id": "cmpl-1", "choice_index": 0}
    assert httpx.post(server.url + "/v1/events", json=event).status_code == 200
    assert httpx.get(server.url + "/v1beta/server_setting").status_code == 200
