"""Small random models for generation."""

import dataclasses
import functools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.conversion import native
from codellama_jax.conversion.canonical import Model, Tensor, dtype_of, from_native, shape, tensors
from codellama_jax.generation import forward
from codellama_jax.model.llama import hidden_states
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage
from codellama_jax.training.step import merged

SHAPES = {
    "7b": Llama(dim=64, layers=2, heads=4, kv_heads=4, ffn_dim=176, vocab_size=320, compute_dtype="float32"),
    "70b": Llama(dim=128, layers=2, heads=8, kv_heads=2, ffn_dim=256, vocab_size=336, compute_dtype="float32"),
    "long": Llama(
        dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=96, vocab_size=320, rope_theta=1e6, compute_dtype="float32"
    ),
}


def random_params(llama: Llama, seed: int = 0) -> dict:
    """Parameters whose logits differ by more than rounding: without a nearly uniform distribution."""
    rng = np.random.default_rng(seed)
    d, n, k, f = llama.dim, llama.layers, llama.head_dim, llama.ffn_dim

    def normal(*shape: int, scale: float) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    return {
        "embedding": normal(llama.vocab_size, d, scale=1.0),
        "blocks": {
            "attention_norm": 1 + normal(n, d, scale=0.1),
            "wq": normal(n, d, llama.heads, k, scale=d**-0.5),
            "wk": normal(n, d, llama.kv_heads, k, scale=d**-0.5),
            "wv": normal(n, d, llama.kv_heads, k, scale=d**-0.5),
            "wo": normal(n, llama.heads, k, d, scale=d**-0.5),
            "ffn_norm": 1 + normal(n, d, scale=0.1),
            "w1": normal(n, d, f, scale=d**-0.5),
            "w3": normal(n, d, f, scale=d**-0.5),
            "w2": normal(n, f, d, scale=f**-0.5),
        },
        "norm": 1 + normal(d, scale=0.1),
        "head": normal(d, llama.vocab_size, scale=3 * d**-0.5),
    }


def weights_of(params: dict, llama: Llama, mesh: Mesh | None = None) -> forward.Weights:
    def read(name: str, layer: int | None) -> np.ndarray:
        return params[name] if layer is None else params["blocks"][name][layer]

    return forward.weights_of(read, llama, mesh)


@functools.cache
def model(name: str) -> tuple[Llama, dict, forward.Weights]:
    params = random_params(SHAPES[name])
    return SHAPES[name], params, weights_of(params, SHAPES[name])


def reference(name: str, tokens: np.ndarray) -> np.ndarray:
    """Logits [B, S, V] of the training forward pass."""
    llama, params, _ = model(name)
    decoder = merged(llama, params)
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return np.asarray(hidden_states(decoder, llama, jnp.asarray(tokens), jnp.asarray(positions)) @ decoder.head[...])


class RandomSource:
    """A Source of random values."""

    def __init__(self, llama: Llama):
        self.model = Model(llama, 256, {str(tensor): "float32" for tensor in tensors(llama)})
        rng = np.random.default_rng(0)
        self._arrays = {
            tensor: rng.normal(size=shape(llama, tensor.name)).astype(dtype_of(self.model, tensor)) * llama.dim**-0.5
            for tensor in tensors(llama)
        }

    def rows(self, tensor: Tensor, start: int, stop: int):
        return self._arrays[tensor][start:stop]

    def close(self):
        pass


class ParamsSource:
    """The Source of some parameters, float32."""

    def __init__(self, llama: Llama, params: dict):
        self.model = Model(llama, 512, {str(tensor): "float32" for tensor in tensors(llama)})
        self._params = params

    def rows(self, tensor: Tensor, start: int, stop: int):
        array = self._params[tensor.name] if tensor.layer is None else self._params["blocks"][tensor.name][tensor.layer]
        return from_native(self.model.llama, tensor.name, array)[start:stop]

    def close(self):
        pass


def write_checkpoint(folder: Path, rows: int, positions: int, files: Assets) -> None:
    """Writes an import with random values, the shape "7b" and `rows` rows of the vocabulary."""
    llama = dataclasses.replace(SHAPES["7b"], vocab_size=rows)
    native.write(RandomSource(llama), folder, "random", files, Lineage.of({"sequence_length": positions}))
