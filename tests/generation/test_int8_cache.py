"""A cache of 8-bit integers."""

import jax
import numpy as np
import pytest
from generation_models import model, weights_of

from codellama_jax import sharding
from codellama_jax.config import training
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.generation import calibration, forward
from codellama_jax.generation.engine import Engine

pytestmark = pytest.mark.compares_bits


def test_the_scales_are_functions_of_the_weights_alone():
    """Also if the model is cut over devices."""
    llama, params, weights = model("70b")
    mesh = sharding.make_mesh(training.Mesh(fsdp=1, tensor=2), devices=jax.devices()[:2])
    cut = calibration.with_scales(weights_of(params, llama, mesh), llama, mesh)
    for one, other in zip(calibration.with_scales(weights, llama, None)["layers"], cut["layers"], strict=True):
        assert one["kv_scale"].shape == (1, 1, 2 * llama.kv_heads, llama.head_dim)
        np.testing.assert_allclose(one["kv_scale"], other["kv_scale"], rtol=1e-5)


def test_logits_are_within_the_error_of_the_integers():
    llama, _, weights = model("70b")
    scaled = calibration.with_scales(weights, llama, None)
    tokens = np.random.default_rng(2).integers(0, 300, (1, 100)).astype(np.int32)
    positions = np.arange(100, dtype=np.int32)[None]
    table = np.array([[1, 2, 3, 4]], np.int32)
    step = jax.jit(forward.forward, static_argnums=1)
    logits = []
    for each, dtype in ((weights, "float32"), (scaled, "int8")):
        cache = forward.new_cache(llama, 4, 32, dtype)
        out, cache = step(each, llama, cache, tokens, positions, positions >= 0, table)
        assert all(pages.dtype == dtype for pages in cache)
        logits.append(np.asarray(forward.logits(each, out)))
    assert np.sqrt(np.square(logits[1] - logits[0]).mean()) < 0.02 * logits[0].std()


def test_requests_give_the_same_tokens_alone_and_together():
    llama, _, weights = model("70b")
    prompts = [np.random.default_rng(seed).integers(3, 300, 40).tolist() for seed in range(4)]
    sizes = Serving(slots=4, context=96, chunks=(16,), cache_dtype="int8", prefix_cache=False)
    running = Engine(weights, llama, sizes, 300)

    def answers(together: list[list[int]]) -> list[list[int]]:
        requests = [running.submit(prompt, Sampling(max_tokens=20)) for prompt in together]
        while running.busy:
            running.step()
        return [request.tokens for request in requests]

    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]
