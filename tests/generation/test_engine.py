"""The engine: exactness, batches, the cache and its limits."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from generation_models import SHAPES, model, random_params, weights_of

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.errors import UserError
from codellama_jax.generation.engine import Engine, Request


@functools.cache
def engine(**sizes) -> Engine:
    """An engine, compiled once. Tests leave it without requests."""
    llama, _, weights = model("70b")
    return Engine(weights, llama, Serving(**({"slots": 4, "context": 160, "page": 8, "chunks": (8, 32)} | sizes)), 300)


def finished(running: Engine, requests: list[Request]) -> list[list[int]]:
    while not all(request.finished for request in requests):
        running.step()
    return [request.tokens for request in requests]


def random_requests(count: int, longest: int = 120) -> list[tuple[list[int], Sampling]]:
    rng = np.random.default_rng(0)
    requests = []
    for number in range(count):
        prompt = rng.integers(3, 300, rng.integers(1, longest)).tolist()
        settings = Sampling(
            max_tokens=int(rng.integers(1, 30)),
            temperature=float(rng.choice([0, 0.7, 1.2])),
            top_p=float(rng.choice([1, 0.9, 0.5])),
            top_k=int(rng.choice([0, 3, 20])),
            min_p=float(rng.choice([0, 0.05])),
            repetition_penalty=float(rng.choice([1, 1.1])),
            seed=number,
        )
        requests.append((prompt, settings))
    return requests


@pytest.fixture(scope="module")
def alone() -> list[list[int]]:
    """The answers of 70 requests, each generated alone."""
    running = engine(slots=1, prefix_cache=False)
    return [finished(running, [running.submit(*request)])[0] for request in random_requests(70)]


@pytest.mark.parametrize(
    "sizes",
    [
        {"slots": 64, "cache_tokens": 4000},
        {"slots": 5, "chunks": (16,), "page": 16, "steps": 1},
        {"slots": 8, "cache_tokens": 200, "steps": 7},  # requests lose their pages and start again
        {"slots": 3, "prefix_cache": False, "page": 64},
    ],
)
def test_a_request_gives_the_same_tokens_beside_any_others(alone: list[list[int]], sizes: dict):
    running = engine(**sizes)
    order = np.random.default_rng(sizes["slots"]).permutation(70)
    requests = random_requests(70)
    submitted = {}
    for number in order:
        submitted[number] = running.submit(*requests[number])
        if number % 3 == 0:
            running.step()  # so that some arrive while others run
    assert finished(running, [submitted[number] for number in range(70)]) == alone
    assert running.pool.used == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_are_those_of_transformers(shape: str):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    llama = SHAPES[shape]
    params = random_params(llama)
    config = transformers.LlamaConfig(
        vocab_size=llama.vocab_size,
        hidden_size=llama.dim,
        intermediate_size=llama.ffn_dim,
        num_hidden_layers=llama.layers,
        num_attention_heads=llama.heads,
        num_key_value_heads=llama.kv_heads,
        rms_norm_eps=llama.norm_eps,
        rope_theta=llama.rope_theta,
        rope_parameters={"rope_type": "default", "rope_theta": llama.rope_theta},
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    theirs = transformers.LlamaForCausalLM(config).eval()
    names = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"w{x}": f"self_attn.{x}_proj" for x in "qkvo"}
    names |= {"w1": "mlp.gate_proj", "w2": "mlp.down_proj", "w3": "mlp.up_proj"}
    state = {
        "model.embed_tokens.weight": params["embedding"],
        "model.norm.weight": params["norm"],
        "lm_head.weight": params["head"].T,
    }
    for name, stacked in params["blocks"].items():
        for layer, array in enumerate(stacked):
            if array.ndim > 1:
                array = array.reshape((-1, llama.dim) if name == "wo" else (len(array), -1)).T
            state[f"model.layers.{layer}.{names[name]}.weight"] = array
    theirs.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in state.items()})
    prompt = np.random.default_rng(4).integers(3, 300, 30).tolist()
    with torch.no_grad():
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=100, do_sample=False)[0].tolist()
    running = Engine(weights_of(params, llama), llama, Serving(slots=2, context=160, page=16), llama.vocab_size)
    assert finished(running, [running.submit(prompt, Sampling(max_tokens=100))]) == [out[30:]]


def test_stories260k_gives_its_golden_ids(shared_data: Path):
    folder = shared_data / "stories260K"
    golden = json.loads((folder / "golden_greedy.json").read_text())
    opened = open_model(folder / "stories260K.bin", folder / "tok512.model", "float32")
    running = Engine(opened.weights, opened.llama, Serving(slots=2, context=512), opened.tokenizer.rows)
    request = running.submit([golden["bos"]], Sampling(max_tokens=200))
    assert finished(running, [request]) == [golden["greedy_ids"][-200:]]


def test_no_program_is_compiled_after_warm_up():
    llama, _, weights = model("70b")
    running = Engine(weights, llama, Serving(slots=32, context=160, page=8, chunks=(8, 32)), 300)
    running.warm_up()
    compiled = running.compilations
    requests = [running.submit(*request, stop_ids=(7, 9)) for request in random_requests(1000, longest=30)]
    running.finish(requests[3])
    finished(running, requests)
    assert running.compilations == compiled == 4


def test_a_stop_id_ends_the_answer():
    running = engine()
    prompt = [5, 6, 7]
    (tokens,) = finished(running, [running.submit(prompt, Sampling(max_tokens=30))])
    stop = tokens[len(tokens) // 2]
    request = running.submit(prompt, Sampling(max_tokens=30), stop_ids=(stop,))
    assert finished(running, [request]) == [tokens[: tokens.index(stop)]] and request.finish_reason == "stop"
    request = running.submit(prompt, Sampling(max_tokens=1))
    assert finished(running, [request]) == [tokens[:1]] and request.finish_reason == "length"


def test_the_answer_ends_at_the_context():
    running = engine(context=50)
    request = running.submit(range(3, 43), Sampling(max_tokens=1000))
    assert len(finished(running, [request])[0]) == 10 and request.finish_reason == "length"


def test_padding_rows_are_never_generated():
    llama, _, weights = model("70b")
    running = Engine(weights, llama, Serving(slots=2, context=200, page=8), 10)
    tokens = finished(running, [running.submit([3], Sampling(max_tokens=100, temperature=5.0))])[0]
    assert max(tokens) < 10


def test_the_prefix_cache_leaves_less_than_a_chunk_to_process():
    running = engine(slots=2, context=160)
    text = np.random.default_rng(5).integers(3, 300, 120).tolist()
    finished(running, [running.submit(text[:100], Sampling(max_tokens=4))])
    for end in range(101, 120):
        request = running.submit(text[:end], Sampling(max_tokens=4))
        finished(running, [request])
        assert request.prefilled < 8 and request.cached + request.prefilled == end - 1


def test_cancelled_requests_leave_the_cache_empty():
    running = engine(slots=4)
    for number, (prompt, settings) in enumerate(random_requests(200)):
        request = running.submit(prompt, settings)
        for _ in range(number % 4):
            running.step()
        running.finish(request, "cancelled")
        assert request.finish_reason in ("cancelled", "length")
    assert running.pool.used == 0 and not running.busy
    assert running.step() == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "no tokens"), ([1] * 160, "has 160 tokens; prompt and answer must fit 160"), ([1, 336], "outside 0 to 335")],
)
def test_prompts_that_cannot_be_used_are_refused(prompt: list[int], message: str):
    with pytest.raises(UserError, match=message):
        engine().submit(prompt, Sampling())


@pytest.mark.parametrize(
    "setting", ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed"]
)
def test_settings_out_of_range_are_refused(setting: str):
    with pytest.raises(ValueError, match=setting):
        Sampling(**{setting: -1})
