"""A server whose model has a tokenizer.json: holes, raw prompts with the model's markers, and its own chat template."""

import dataclasses
import json
from collections.abc import Iterator

import httpx
import pytest
import tokenizer_families as families

from codellama_jax.config.generation import Serving
from codellama_jax.config.serving import Server
from codellama_jax.conversion.generation_model import GenerationModel
from codellama_jax.generation.engine import Engine
from codellama_jax.tokenizer import from_files
from tests.generation.generation_models import random_params, weights_of
from tests.serving.conftest import Running, running_server

pytest.importorskip("tokenizers")
pytestmark = pytest.mark.slow

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PREFIX, SUFFIX = "def f(x):\n    ", "\n    return y\n"


@pytest.fixture(scope="module")
def server(small_model: GenerationModel) -> Iterator[Running]:
    files = families.files("qwen") | {"chat_template.jinja": CHATML.encode()}
    tokenizer = from_files(files, infilling=True)
    llama = dataclasses.replace(small_model.llama, vocab_size=tokenizer.rows)
    weights = weights_of(random_params(llama), llama)
    model = GenerationModel(llama, weights, tokenizer, 256, "random", "small", "template", dialogues=True)
    engine = Engine(weights, llama, Serving(slots=2, context=256, chunks=(64,)), tokenizer.rows)
    with running_server(model, engine, Server()) as running:
        yield running


def post(server: Running, path: str, **body) -> dict:
    answer = httpx.post(server.url + path, json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_text_is_tokenized_as_text_and_back(server: Running):
    text = "x = 1  # <|fim_prefix|> naïve"
    ids = post(server, "/tokenize", content=text, add_special=True)["tokens"]  # the family has no BOS
    assert ids == server.api.tokenizer.encode(text).tolist()
    assert post(server, "/detokenize", tokens=ids)["content"] == text


def test_a_hole_has_the_same_answer_on_every_endpoint(server: Running):
    settings = {"temperature": 1.0, "seed": 3}
    plain = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    request = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 12, **settings}
    expected = post(server, "/v1/completions", **request)["choices"][0]["text"]
    before, after, middle, _ = server.api.tokenizer.markers.names
    marked = f"{before}{PREFIX}{after}{SUFFIX}{middle}"
    assert post(server, "/v1/completions", prompt=marked, max_tokens=12, **settings)["choices"][0]["text"] == expected
    assert post(server, "/completion", prompt=marked, n_predict=12, **settings, **plain)["content"] == expected
    assert server.api.order == "psm" and server.api.sentinels.count == 2
    shown = post(server, "/api/show", model="small")
    assert "<|fim_prefix|>{{ .Prompt }}<|fim_suffix|>" in shown["template"]
    assert shown["model_info"]["tokenizer.ggml.model"] == "gpt2"


def test_a_dialogue_is_written_with_the_models_template(server: Running):
    messages = [{"role": "user", "content": "Hi <|im_end|>"}]
    answer = post(server, "/v1/chat/completions", messages=messages, max_tokens=8, temperature=0)
    tokenizer = server.api.tokenizer
    expected = [tokenizer.control_ids["<|im_start|>"], *tokenizer.encode("user\nHi <|im_end|>").tolist()]
    expected += [tokenizer.control_ids["<|im_end|>"], *tokenizer.encode("\n").tolist()]
    expected += [tokenizer.control_ids["<|im_start|>"], *tokenizer.encode("assistant\n").tolist()]
    assert answer["usage"]["prompt_tokens"] == len(expected)
    assert json.dumps(answer["choices"][0]["message"]["content"])
