"""Generation of models with biases, wide heads, scaled frequencies and one matrix for embedding and head."""

import dataclasses

import jax
import numpy as np
import pytest
from generation_models import SHAPES, random_params, weights_of

from codellama_jax import sharding
from codellama_jax.config import training
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.errors import UserError
from codellama_jax.evaluation.text_scoring import TextScorer
from codellama_jax.generation import calibration, forward, shards
from codellama_jax.generation.engine import Engine
from codellama_jax.model.llama import hidden_states, output_head
from codellama_jax.training.step import merged

YARN = {"rope_type": "yarn", "rope_factor": 4.0, "rope_original_positions": 16}
QWEN = dataclasses.replace(SHAPES["70b"], head_width=24, qkv_bias=True, tied=True, **YARN)


def params_of(llama):
    params, rng = random_params(llama), np.random.default_rng(5)
    del params["head"]
    for name, heads in (("bq", llama.heads), ("bk", llama.kv_heads), ("bv", llama.kv_heads)):
        params["blocks"][name] = rng.normal(size=(llama.layers, heads, llama.head_dim)).astype(np.float32)
    params["embedding"] *= 0.3
    return params


PARAMS = params_of(QWEN)
TOKENS = np.random.default_rng(1).integers(0, 300, (2, 30)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(30, dtype=np.int32), (2, 30))


def expected():
    decoder = merged(QWEN, PARAMS)
    return np.asarray(hidden_states(decoder, QWEN, TOKENS, POSITIONS) @ output_head(decoder, QWEN))


def logits(weights, mesh=None, dtype=None):
    cache = shards.zeros(mesh, lambda: forward.new_cache(QWEN, 4, 16, dtype), shards.CACHE)

    def run(weights, cache, *inputs):
        x_SCD, cache = forward.forward(weights, QWEN, cache, *inputs)
        return cache, forward.logits(weights, x_SCD)

    table = np.array([[1, 3], [4, 2]], np.int32)
    run = jax.jit(shards.program(run, mesh, weights))
    return np.asarray(run(weights, cache, TOKENS, POSITIONS, np.ones((2, 30), bool), table)[1])


@pytest.mark.parametrize("sizes", [None, {"fsdp": 1, "tensor": 2}, {"fsdp": 2, "tensor": 2}])
def test_logits_are_those_of_training_on_one_device_and_on_several(sizes):
    mesh = sizes and sharding.make_mesh(
        training.Mesh(**sizes), devices=jax.devices()[: int(np.prod(list(sizes.values())))]
    )
    weights, reference = weights_of(PARAMS, QWEN, mesh), expected()
    assert ("head" in weights) == (mesh is None), "the tied matrix is stored once, except on one CPU"
    found = logits(weights, mesh)
    assert np.abs(found - reference).max() < 2e-4 * np.abs(reference).max()


def test_a_cache_of_integers_is_within_its_error():
    weights, reference = calibration.with_scales(weights_of(PARAMS, QWEN), QWEN, None), expected()
    assert np.sqrt(np.square(logits(weights, dtype="int8") - reference).mean()) < 0.03 * reference.std()


def test_contexts_beyond_what_dynamic_scaling_defines_are_refused():
    llama = dataclasses.replace(SHAPES["7b"], rope_type="dynamic", rope_factor=2.0, rope_original_positions=64)
    weights = weights_of(random_params(llama), llama)
    running = Engine(weights, llama, Serving(slots=1, context=64, chunks=(16,)), 300)
    request = running.submit(list(range(3, 20)), Sampling(max_tokens=4))
    while running.busy:
        running.step()
    assert len(request.tokens) == 4
    theta = 1e4 * 3 ** (16 / 14)  # (2 * 128 / 64 - 1) ** (K / (K - 2))
    with pytest.raises(UserError, match=f"with 128 tokens: .* Llama.rope_theta={theta:.6g}"):
        Engine(weights, llama, Serving(slots=1, context=128, chunks=(16,)), 300)
    with pytest.raises(UserError, match="with 65 tokens"):
        TextScorer(weights, llama, 300, 65)
