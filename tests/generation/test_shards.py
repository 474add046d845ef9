"""Engines whose weights and cache are cut over the devices of a mesh."""

import dataclasses
import gc
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from generation_models import model, reference, weights_of
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from codellama_jax import sharding
from codellama_jax.config import training
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.conversion.generation_model import open_model
from codellama_jax.errors import UserError
from codellama_jax.generation import forward, shards
from codellama_jax.generation.engine import Engine

SIZES = Serving(slots=2, context=160, page=16, chunks=(16,), steps=4)


def mesh_of(**sizes: int) -> Mesh:
    count = int(np.prod(list(sizes.values())))
    return sharding.make_mesh(training.Mesh(**({"fsdp": 1} | sizes)), devices=jax.devices()[:count])


def answers(name: str, mesh: Mesh | None) -> list[list[int]]:
    llama, params, _ = model(name)
    running = Engine(weights_of(params, llama, mesh), llama, SIZES, 300, mesh)
    running.warm_up()
    compiled = running.compilations
    rng = np.random.default_rng(0)
    settings = [Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=0.8, top_p=0.9, seed=3)] * 2
    requests = [running.submit(rng.integers(3, 300, 5 + 9 * i).tolist(), each) for i, each in enumerate(settings)]
    while running.busy:
        running.step()
    assert running.compilations == compiled, "no program is compiled after warm-up"
    return [request.tokens for request in requests]


def test_a_cut_model_gives_the_tokens_of_the_whole_one():
    assert answers("70b", mesh_of(fsdp=2, context=2, tensor=2)) == answers("70b", None)


@pytest.mark.parametrize(
    "devices, changes",
    [
        (None, {}),
        ({"tensor": 2}, {}),
        (None, {"cache_dtype": "int8", "draft_tokens": 3, "batches": (1,)}),
    ],
)
def test_an_unused_engine_frees_its_memory_without_garbage_collection(devices, changes: dict):
    """A stage fills holes with an engine before its first step, which needs the memory."""
    mesh = mesh_of(**devices) if devices else None
    llama, params, _ = model("70b")
    gc.disable()
    try:
        before = len(jax.live_arrays())
        running = Engine(weights_of(params, llama, mesh), llama, dataclasses.replace(SIZES, **changes), 300, mesh)
        running.warm_up()
        request = running.submit([3, 4, 5], Sampling(max_tokens=9))
        while running.busy:
            running.step()
        assert len(request.tokens) == 9 and len(jax.live_arrays()) > before
        del running, request
        assert len(jax.live_arrays()) == before
    finally:
        gc.enable()


def test_stories260k_over_four_devices_gives_its_golden_ids(shared_data: Path):
    folder = shared_data / "stories260K"
    golden = json.loads((folder / "golden_greedy.json").read_text())
    opened = open_model(folder / "stories260K.bin", folder / "tok512.model", "float32", tensor=4)
    assert opened.mesh is not None and opened.mesh.shape["tensor"] == 4
    sizes = Serving(slots=1, context=256, chunks=(16,))
    running = Engine(opened.weights, opened.llama, sizes, opened.tokenizer.rows, opened.mesh)
    request = running.submit([golden["bos"]], Sampling(max_tokens=200))
    while running.busy:
        running.step()
    assert request.tokens == golden["greedy_ids"][-200:]


def test_logits_of_a_cut_model_are_those_of_training():
    llama, params, _ = model("70b")
    mesh = mesh_of(fsdp=2, tensor=2)
    weights = weights_of(params, llama, mesh)
    cache = shards.zeros(mesh, lambda: forward.new_cache(llama, 4, 16), shards.CACHE)
    tokens = np.random.default_rng(1).integers(0, 300, (2, 30)).astype(np.int32)
    positions = np.broadcast_to(np.arange(30, dtype=np.int32), (2, 30))

    def logits(weights, cache, *inputs):
        x_SCD, cache = forward.forward(weights, llama, cache, *inputs)
        return cache, forward.logits(weights, x_SCD)

    run = jax.jit(shards.program(logits, mesh, weights))
    table = np.array([[1, 3], [4, 2]], np.int32)
    cache, found = run(weights, cache, tokens, positions, np.ones((2, 30), bool), table)
    expected = reference("70b", tokens)
    assert np.abs(np.asarray(found) - expected).max() < 2e-4 * np.abs(expected).max()
    assert found.is_fully_replicated and found.sharding.device_set == set(mesh.devices.flat)
    # each device has its part: half of the heads, of the rows of the vocabulary and of the width
    assert weights["head"].addressable_shards[0].data.shape == (llama.dim // 2, llama.vocab_size // 2)
    assert weights["layers"][0]["qkv"].addressable_shards[0].data.shape == (64, (8 + 2 * 2) // 2 * 16)
    for pages in cache:
        assert pages.sharding.is_equivalent_to(NamedSharding(mesh, P(None, None, "tensor")), 4)


def test_the_mesh_of_a_model():
    llama = model("70b")[0]  # two key-value heads
    assert shards.serving_mesh(llama) is None, "one device on a CPU"
    assert shards.serving_mesh(llama, 2).shape["tensor"] == 2
    for tensor, message in (
        (16, "--tensor=16 is more than the 8 devices of this machine: use 1, 2"),
        (4, "--tensor=4 does not divide the 2 key-value heads, .* use 1, 2"),
    ):
        with pytest.raises(UserError, match=message):
            shards.serving_mesh(llama, tensor)
