"""Infilling markers in raw prompts."""

import httpx
import pytest
import tokenizer_families

from codellama_jax.serving.sentinels import Sentinels
from codellama_jax.tokenizer import from_files

PREFIX, SUFFIX = "def f(x):\n    ", "\n    return y\n"


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("<PRE> a <SUF>b <MID>", ("a", "b")),
        ("<PRE>  a  <SUF> b  <MID>", (" a ", " b ")),
        ("<PRE>  <SUF>\n <MID>", ("", "\n")),
        ("<PRE>a\n<SUF>\nb<MID>", ("a\n", "\nb")),
        ("<PRE>   a<SUF>b <MID>", ("   a", "b ")),
        ("<PRE><SUF><MID>", ("", "")),
        (f"{' ' * 12}# File:a.py\n{' ' * 16}<PRE>a<SUF>b<MID>", ("# File:a.py\na", "b")),
        (f"# x\n\n{' ' * 12}# File:a.py\n{' ' * 16}<PRE>  a<SUF>b<MID>", ("# x\n\n# File:a.py\n  a", "b")),
        ("<PRE> <SUF>b <MID> a", ("a", "b")),
        ("<PRE> <SUF>b <MID> ", ("", "b")),
    ],
)
def test_the_documented_forms_are_split_without_a_blank_lost_or_added(prompt, parts):
    sentinels = Sentinels(enabled=True)
    assert sentinels.split(prompt) == parts and sentinels.count == 1
    assert Sentinels(enabled=False).split(prompt) is None


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "def f(): pass",
        "print('<PRE> a <SUF>b <MID>')",
        "<PRE> a <SUF>b <MID>\n",
        " <PRE> a <SUF>b <MID>",
        "<PRE> a <SUF>b",
        "<PRE> a <MID>b <SUF>",
        "<PRE> x = '<SUF>' <SUF>b <MID>",
        "<PRE> a <SUF>y = '<MID>' <MID>",
        "<pre> a <suf>b <mid>",
        "<PRE> <SUF>b <MID>a",
        "# File:a.py\n<PRE>a<SUF>b<MID>",
    ],
)
def test_all_other_text_stays_text(prompt):
    sentinels = Sentinels(enabled=True)
    assert sentinels.split(prompt) is None and sentinels.count == 0


@pytest.mark.parametrize("family", ["qwen", "starcoder", "deepseek", "codegemma"])
def test_a_model_with_markers_of_its_own_is_sent_these(family):
    pytest.importorskip("tokenizers")
    tokenizer = from_files(tokenizer_families.files(family), infilling=True)
    before, after, middle, _ = tokenizer.markers.names
    sentinels = Sentinels(enabled=True, tokenizer=tokenizer)
    assert sentinels.split(f"{before} a\n{after}b {middle}") == (" a\n", "b ")
    assert sentinels.split(f"{before}{after}b {middle} a\n") == (" a\n", "b ")
    assert sentinels.split(f"{before}{after}b{middle}") == ("", "b")
    assert sentinels.count == 3
    for text in (
        "<PRE> a <SUF>b <MID>",
        f"{before}{after}",
        f"x{before}a{after}b{middle}",
        f"{before}{before}{after}{middle}",
    ):
        assert sentinels.split(text) is None


def test_a_marked_prompt_is_the_infilling_on_every_raw_endpoint_and_is_counted(server):
    before = server.api.sentinels.count
    marked = f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>"
    settings = {"temperature": 1.0, "seed": 3}
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

    def post(path: str, **body) -> dict:
        return httpx.post(server.url + path, json=body, timeout=60).json()

    request = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 20, **settings}
    expected = post("/v1/completions", **request)["choices"][0]["text"]
    assert server.api.sentinels.count == before
    assert post("/v1/completions", prompt=marked, max_tokens=20, **settings)["choices"][0]["text"] == expected
    assert post("/completion", prompt=marked, n_predict=20, **settings, **plain)["content"] == expected
    options = {"num_predict": 20, **settings, **plain}
    for raw in (False, True):
        answer = post("/api/generate", model="m", prompt=marked, raw=raw, stream=False, options=options)
        assert answer["response"] == expected
    assert server.api.sentinels.count == before + 4
    refused = post("/v1/completions", prompt=marked, max_tokens=2, echo=True, logprobs=1)
    assert "infilling markers" in refused["error"]["message"]
    infilled = post("/infill", input_prefix=marked, input_suffix=marked, n_predict=2)
    assert infilled["tokens_evaluated"] > 40, "a marker in a field for text stays text"
    assert post("/v1/completions", prompt="a", suffix=marked, max_tokens=2)["usage"]["prompt_tokens"] > 20
    assert server.api.sentinels.count == before + 4
