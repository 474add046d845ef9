"""A server with adapters: requests choose one by the name of their model, in every protocol that has names."""

from collections.abc import Iterator

import numpy as np
import pytest
import requests

from codellama_jax import serve
from codellama_jax.config.generation import Serving
from codellama_jax.config.lora import Lora
from codellama_jax.config.serving import Server
from codellama_jax.conversion import adapters as checkpoints
from codellama_jax.conversion import canonical, formats, native
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.errors import UserError
from codellama_jax.generation.engine import Engine
from codellama_jax.training import assets
from codellama_jax.training.lineage import Lineage
from tests.generation.generation_models import ParamsSource, random_params
from tests.serving.conftest import Running, running_server


def write_model(folder, model, seed=0):
    source = ParamsSource(model.llama, random_params(model.llama, seed))
    files = {assets.MODEL: model.tokenizer.model}
    native.write(source, folder, "test", files, Lineage(512, infilling=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory, small_model):
    """A checkpoint of the small model, and two checkpoints of adapters of it."""
    folder = tmp_path_factory.mktemp("adapters")
    llama = small_model.llama
    write_model(folder / "base", small_model)
    base = formats.open_base(folder / "base")
    for name, targets in (("fast", "wq+wv+w2"), ("careful", "wo+w1")):
        lora, rng = Lora(rank=3, targets=targets), np.random.default_rng(len(name))
        factors = {}
        for matrix in lora.names:
            outs, ins = canonical.shape(llama, matrix)
            shapes = (llama.layers, ins, 3), (llama.layers, 3, outs)
            factors[matrix] = checkpoints.Factors(*(0.3 * rng.standard_normal(s).astype(np.float32) for s in shapes))
        checkpoints.write(folder / name, lora, factors, base, folder / "base", "test")
    base.source.close()
    return folder


@pytest.fixture(scope="module")
def served(folders) -> Iterator[Running]:
    model = open_model(folders / "base", None, None, 0, {name: folders / name for name in ("fast", "careful")})
    engine = Engine(model.weights, model.llama, Serving(slots=3, context=512, chunks=(16, 64)), model.tokenizer.rows)
    with running_server(model, engine, Server()) as running:
        yield running


def complete(served, name):
    body = {"model": name, "prompt": "def f(x):", "max_tokens": 8, "temperature": 0, "token_healing": False}
    return requests.post(f"{served.url}/v1/completions", json=body, timeout=60)


def test_the_name_of_the_model_chooses_the_adapter(served):
    texts = {}
    for name in ("small", "fast", "careful"):
        answer = complete(served, name).json()
        assert answer["model"] == name
        texts[name] = answer["choices"][0]["text"]
    assert len(set(texts.values())) == 3


def test_all_names_are_listed(served):
    listed = requests.get(f"{served.url}/v1/models", timeout=60).json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed] == [
        ("small", None), ("fast", "small"), ("careful", "small"),
    ]  # fmt: skip
    assert requests.get(f"{served.url}/v1/models/fast", timeout=60).json()["id"] == "fast"
    assert requests.get(f"{served.url}/v1/models/slow", timeout=60).status_code == 404
    tags = requests.get(f"{served.url}/api/tags", timeout=60).json()["models"]
    assert [one["name"] for one in tags] == ["small:latest", "fast:latest", "careful:latest"]
    assert len({one["digest"] for one in tags}) == 3


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", {"prompt": "x"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ("/v1/fim/completions", {"prompt": "x", "suffix": "y"}),
    ("/completion", {"prompt": "x", "n_predict": 1}),
    ("/infill", {"input_prefix": "x", "input_suffix": "y", "n_predict": 1}),
    ("/api/generate", {"prompt": "x", "stream": False}),
    ("/api/show", {}),
])  # fmt: skip
def test_an_unknown_name_is_an_error_of_the_protocol(served, path, body):
    answer = requests.post(f"{served.url}{path}", json={"model": "slow", **body}, timeout=60)
    assert answer.status_code == 404 and "there is no model 'slow'; this server has small, fast, careful" in answer.text
    short = {"max_tokens": 1} if path.startswith("/v1") else {"options": {"num_predict": 1}} if "/api/g" in path else {}
    answer = requests.post(f"{served.url}{path}", json={"model": "fast", **body, **short}, timeout=60)
    assert answer.status_code == 200, answer.text
    if path in ("/v1/completions", "/v1/chat/completions", "/v1/fim/completions", "/completion", "/infill"):
        assert answer.json()["model"] == "fast"


def test_ollama_names_have_a_tag(served):
    body = {"prompt": "def f(x):", "stream": False, "raw": True, "options": {"temperature": 0, "num_predict": 8}}
    texts = [
        requests.post(f"{served.url}/api/generate", json={"model": name, **body}, timeout=60).json()["response"]
        for name in ("fast:latest", "fast", "small")
    ]
    assert texts[0] == texts[1] != texts[2]


def test_adapters_of_another_model_are_refused(folders, tmp_path, small_model):
    write_model(tmp_path / "other", small_model, seed=1)
    with pytest.raises(UserError, match=r"has adapters of .*base, whose content differs from that of .*other"):
        open_model(tmp_path / "other", None, None, 0, {"fast": folders / "fast"})
    with pytest.raises(UserError, match="has no adapters: name a stage that trained some"):
        open_model(folders / "base", None, None, 0, {"fast": folders / "base"})


@pytest.mark.parametrize("flags, message", [
    (["--adapter=fast"], "--adapter=fast is not of the form NAME=DIR"),
    (["--adapter=a=x", "--adapter=a=y"], "there are two adapters with the name a"),
])  # fmt: skip
def test_flags_are_checked_before_the_model_is_opened(folders, capsys, flags, message):
    assert serve.main([f"--checkpoint={folders / 'base'}", "--port=0", *flags]) == 2
    assert message in capsys.readouterr().err
