"""Programs that speak to servers like this one, on a running server that needs a key."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mistralai.client
import mistralai.client.errors
import ollama
import openai
import pytest

from codellama_jax.config.serving import Server
from tests.serving.conftest import Running, running_server

KEY = "key-of-the-tests"
PREFIX, SUFFIX = "def f(x):\n    é = ", "\n    return é\n"
HOLE = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 20}


@pytest.fixture(scope="module")
def server(small_model, small_engine) -> Iterator[Running]:
    with running_server(small_model, small_engine, Server(api_keys=(KEY,))) as running:
        yield running


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def text(client) -> str:
    """The greedy answer to HOLE."""
    return client.completions.create(model="any", temperature=0, **HOLE).choices[0].text


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_free(server: Running) -> bool:
    service = server.api.service
    return not (service.active or service.waiting or service.engine.pool.used)


# --- openai


def test_openai_completes_and_infills(client, text):
    settings = {"model": "any", "temperature": 1, "seed": 3, "logprobs": 2, "n": 2, **HOLE}
    answer = client.completions.create(**settings)
    assert answer.usage.completion_tokens == 40 and answer.usage.prompt_tokens > 10
    events = list(client.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    for index, choice in enumerate(answer.choices):
        own = [event.choices[0] for event in events if event.choices and event.choices[0].index == index]
        assert "".join(choice.text for choice in own) == choice.text and len(choice.logprobs.tokens) == 20
        assert own[-1].finish_reason == choice.finish_reason == "length"
    assert (
        events[-1].usage.total_tokens == answer.usage.total_tokens and answer.choices[0].text != answer.choices[1].text
    )
    stop = text[3:6]
    stopped = client.completions.create(model="any", temperature=0, stop=[stop], **HOLE).choices[0]
    assert stopped.text == text.partition(stop)[0] and stopped.finish_reason == "stop"


def test_openai_chats(client):
    dialogue = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is é?"}]
    settings = {"model": "any", "messages": dialogue, "max_completion_tokens": 20, "temperature": 1, "seed": 2}
    answer = client.chat.completions.create(**settings)
    assert answer.choices[0].message.role == "assistant" and answer.usage.completion_tokens <= 20
    events = list(client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True}))
    parts = [event.choices[0] for event in events if event.choices]
    assert "".join(part.delta.content or "" for part in parts) == answer.choices[0].message.content
    assert parts[-1].finish_reason == answer.choices[0].finish_reason
    assert events[-1].usage.total_tokens == answer.usage.total_tokens
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(**settings, tools=[{"type": "function", "function": {"name": "f"}}])


def test_openai_lists_the_model(client):
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "codellama_jax"


def test_openai_raises_its_own_errors(server, client):
    with pytest.raises(openai.BadRequestError, match="temperature=-1 must be at least 0") as failure:
        client.completions.create(model="any", prompt="x", temperature=-1)
    assert failure.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match=r"the prompt has .* tokens"):
        client.completions.create(model="any", prompt="x = 1\n" * 2000)
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")
    with pytest.raises(openai.AuthenticationError, match="API key"):
        client.with_options(api_key="another-key").models.list()


def test_openai_s_asynchronous_client_gives_the_same_beside_others(server, client):
    async def answers() -> list[str]:
        async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as client:
            calls = [client.completions.create(model="any", temperature=1, seed=seed, **HOLE) for seed in range(6)]
            return [answer.choices[0].text for answer in await asyncio.gather(*calls)]

    alone = [client.completions.create(model="any", temperature=1, seed=seed, **HOLE) for seed in range(6)]
    assert asyncio.run(answers()) == [answer.choices[0].text for answer in alone]


def test_a_closed_stream_frees_its_pages(server, client):
    for _ in range(3):
        with client.completions.create(model="any", prompt="x", max_tokens=400, stream=True) as stream:
            next(iter(stream))
    wait_until(lambda: is_free(server))


def test_the_cache_is_empty_after_100_cancelled_requests(server, client):
    def cancel(number: int) -> None:
        timeout = None if number % 2 else 0.02  # before and after the first token
        call = client.with_options(timeout=timeout)
        with contextlib.suppress(openai.APITimeoutError):
            settings = {"model": str(number), "prompt": f"{number}" * 30, "max_tokens": 300, "temperature": 1}
            with call.completions.create(**settings, stream=True) as stream:
                next(iter(stream))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cancel, range(100)))
    wait_until(lambda: is_free(server))


# --- ollama


def test_ollama_infills(server, text):
    options = {"temperature": 0, "num_predict": 20}
    headers = {"Authorization": f"Bearer {KEY}"}
    with ollama.Client(server.url, headers=headers) as client:
        answer = client.generate("small", PREFIX, SUFFIX, options=options)
        parts = list(client.generate("small", PREFIX, SUFFIX, stream=True, options=options))
        assert answer.response == text == "".join(part.response for part in parts)
        assert answer.done_reason == "length" and answer.eval_count == 20 == parts[-1].eval_count
        assert answer.prompt_eval_count > 10 and answer.total_duration > 0
        assert ".Suffix" in client.show("small").template
        with pytest.raises(ollama.ResponseError, match="temperature=-1") as failure:
            client.generate("small", PREFIX, options={"temperature": -1})
        assert failure.value.status_code == 400
    with ollama.Client(server.url) as client, pytest.raises(ollama.ResponseError, match="API key"):
        client.list()


def test_ollama_s_asynchronous_client_streams(server, text):
    async def answer() -> str:
        client = ollama.AsyncClient(server.url, headers={"Authorization": f"Bearer {KEY}"})
        options = {"temperature": 0, "num_predict": 20}
        stream = await client.generate("small", PREFIX, SUFFIX, stream=True, options=options)
        return "".join([part.response async for part in stream])

    assert asyncio.run(answer()) == text


# --- mistralai


def test_mistral_infills(server, text):
    settings = {"model": "codestral-latest", "temperature": 0, **HOLE}
    with mistralai.client.Mistral(api_key=KEY, server_url=server.url) as client:
        answer = client.fim.complete(**settings)
        assert answer.choices[0].message.content == text and answer.usage.completion_tokens == 20
        parts = [event.data for event in client.fim.stream(**settings)]
        assert "".join(part.choices[0].delta.content for part in parts) == text
        assert parts[-1].choices[0].finish_reason == "length" and parts[-1].usage.completion_tokens == 20
        with pytest.raises(mistralai.client.errors.SDKError, match="temperature=-1") as failure:
            client.fim.complete(**settings | {"temperature": -1})
        assert failure.value.status_code == 400


# --- curl


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_streams_unicode_and_sees_the_status(server, text):
    def curl(body: str | bytes, *flags: str) -> str:
        command = ["curl", "-sN", *flags, f"{server.url}/v1/completions", "-H", f"Authorization: Bearer {KEY}"]
        data = body.encode() if isinstance(body, str) else body
        return subprocess.run(
            [*command, "--data-binary", "@-"], input=data, capture_output=True, check=True
        ).stdout.decode()

    request = {"temperature": 0, "stream": True, **HOLE}
    for ascii in (True, False):  # \u00e9, and the character itself
        lines = [
            line.removeprefix("data: ") for line in curl(json.dumps(request, ensure_ascii=ascii)).split("\n") if line
        ]
        assert lines.pop() == "[DONE]"
        assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == text
    status = ("-o", os.devnull, "-w", "%{http_code}")
    assert curl('{"prompt": ', *status) == "400" and curl(b'{"prompt": "\xff"}', *status) == "400"
    assert curl("{}", *status, "-H", "Host: example.com") == "403"


# --- requests of plugins whose programs are not installed here, as their code makes them


def post(server: Running, path: str, body: dict) -> dict:
    """As urllib.request sends it, which spyder-ai-chat uses. A status of 400 or more raises HTTPError."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read())


def test_spyder_ai_chat_finds_and_uses_all_ways_to_infill(server, text):
    """Version 1.1.5: fim/client.py, and the probes of widgets/settings_dialog.py."""
    probe = {"model": "small"}
    answer = post(server, "/api/generate", {**probe, "prompt": "x", "suffix": "", "stream": False, "num_predict": 1})
    assert "response" in answer and not answer.get("error")
    for path in ("/v1/completions", "/v1/fim/completions"):
        suffix = {"suffix": ""} if "fim" in path else {"stream": False}
        assert "choices" in post(server, path, {**probe, "prompt": "x", "max_tokens": 1, **suffix})
    stop = ["\n\n\n", "<|endoftext|>"]
    request = {"model": "small", "prompt": PREFIX, "suffix": SUFFIX, "temperature": 0}
    options = {"temperature": 0, "num_predict": 20, "stop": stop}
    ollama_request = {key: value for key, value in request.items() if key != "temperature"}
    answer = post(server, "/api/generate", {**ollama_request, "stream": False, "options": options})
    assert answer["response"] == text
    answer = post(server, "/v1/completions", {**request, "max_tokens": 20, "stream": False, "stop": stop})
    assert answer["choices"][0]["text"] == text
    answer = post(server, "/v1/fim/completions", {**request, "max_tokens": 20})
    assert answer["choices"][0]["message"]["content"] == text
    dialogue = [{"role": "user", "content": "Complete the code at the <FILL> marker."}]
    answer = post(server, "/v1/chat/completions", {**probe, "max_tokens": 5, "temperature": 0, "messages": dialogue})
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post(server, "/v1/completions", {**request, "temperature": "hot"})


def test_cellsense_infills_through_markers(server, client):
    """jupyterlab-cellsense 0.3.1 with the model family codellama: models/base.py, providers/base.py and ollama.py."""
    stop = ["# File:", "<EOT>", "/s", "<MID>", "<PRE>", "<SUF>"]
    context = "# Signatures of mod.py (method bodies excluded)\n\ndef g(x): ...\n\n"
    prompt = f"{context}            # File:Current File\n                <PRE>{PREFIX}<SUF>{SUFFIX}<MID>"
    hole = {"prompt": f"{context}# File:Current File\n{PREFIX}", "suffix": SUFFIX, "max_tokens": 20, "stop": stop}
    expected = client.completions.create(model="codellama", temperature=0, **hole).choices[0].text
    request = {"model": "codellama", "prompt": prompt, "stop": stop}
    options = {"num_predict": 20, "temperature": 0}
    answer = post(
        server, "/api/generate", {**request, "raw": True, "stream": False, "keep_alive": "30m", "options": options}
    )
    assert answer["response"].startswith(expected)  # its stop strings are beside the options, where Ollama has none
    answer = client.completions.create(**request, max_tokens=20, temperature=0, stream=True)
    assert "".join(part.choices[0].text for part in answer) == expected


# --- Continue

# Installed by make test.
ADAPTERS = Path(__file__).resolve().parents[2] / ".venv/node/node_modules/@continuedev/openai-adapters/dist/index.js"
PROGRAM = """
const { constructLlmApi } = await import(process.argv[1]);
const [root, apiKey, hole] = [process.argv[2], process.argv[3], JSON.parse(process.argv[4])];
const signal = new AbortController().signal;
const joined = async (stream) => {
  let text = "";
  for await (const part of stream) text += part.choices[0].delta?.content ?? part.choices[0].text;
  return text;
};
const api = (provider, path) => constructLlmApi({ provider, apiKey, apiBase: root + path });
const request = { model: "small", temperature: 0, stream: true, ...hole };
const texts = [];
for (const provider of ["mistral", "vllm", "openai"]) {
  texts.push(await joined(api(provider, "/v1/").fimStream(request, signal)));
}
texts.push(await joined(api("deepseek", "/").fimStream(request, signal)));
const dialogue = { model: "small", messages: [{ role: "user", content: "Hello" }], max_tokens: 5, stream: true };
let chunks = 0;
for await (const part of api("vllm", "/v1/").chatCompletionStream(dialogue, signal)) chunks += 1;
const models = (await api("vllm", "/v1/").list()).map((model) => model.id);
let error = "";
try {
  await joined(api("mistral", "/v1/").fimStream({ ...request, temperature: -1 }, signal));
} catch (e) {
  error = e.message;
}
console.log(JSON.stringify({ texts, chunks, models, error }));
"""


def test_continue_s_adapters_infill(server, text):
    if not ADAPTERS.exists() or shutil.which("node") is None:
        pytest.skip("node is not installed, or make test could not install @continuedev/openai-adapters")
    command = ["node", "--input-type=module", "--eval", PROGRAM, ADAPTERS, server.url, KEY, json.dumps(HOLE)]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["texts"] == [text] * 4 and answer["chunks"] > 1 and answer["models"] == ["small"]
    assert "temperature=-1" in answer["error"]
