"""The scales of a cache of 8-bit integers (int8_cache.py), from the keys and values of a fixed text."""

import jax
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.generation import forward, int8_cache, shards
from codellama_jax.kernels import portable_paged_attention as portable

TOKENS = 512  # of the text, which is random


def with_scales(weights: forward.Weights, llama: Llama, mesh: Mesh | None) -> forward.Weights:
    """The weights with the scales of each layer, "kv_scale"."""
    count = TOKENS // forward.BLOCK
    ids = np.random.default_rng(0).integers(0, llama.vocab_size, (1, TOKENS)).astype(np.int32)
    ids[0, 0] = 1  # BOS: models attend to the first token in their own way
    positions, table = np.arange(TOKENS, dtype=np.int32)[None], np.arange(1, count + 1, dtype=np.int32)[None]
    inputs = ids, positions, np.ones((1, TOKENS), bool), table
    cache = shards.zeros(mesh, lambda: forward.new_cache(llama, count, forward.BLOCK), shards.CACHE)

    def scales(weights: forward.Weights, cache: forward.Cache, *inputs: jax.Array) -> list[jax.Array]:
        _, cache = forward.forward(weights, llama, cache, *inputs)
        filled = np.arange(1, count + 1)
        layers = [portable.read(pages, filled, llama.head_dim) for pages in cache if isinstance(pages, jax.Array)]
        return [int8_cache.scales(kv) for kv in layers]

    found = jax.jit(shards.program(scales, mesh, weights))(weights, cache, *inputs)
    layers = [layer | {"kv_scale": scale} for layer, scale in zip(weights["layers"], found, strict=True)]
    return weights | {"layers": layers}
