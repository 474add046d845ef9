"""Low-rank adapters of several models beside the weights of one: rows of a batch can have different ones.

The factors of all adapters are joined: a row is multiplied with every A, the results of the other adapters are set to
0, and the rest is multiplied with every B. The products are those of row_products, and a term of 0 changes no sum, so
the bits of a row depend neither on the other rows nor on their adapters, and a row without an adapter has those of the
model alone. With K adapters of rank R, a product costs 2 K R columns more.

Names of dims are those of forward.py, K for adapters, R for their largest rank.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.generation import shards

# The weights of a layer (forward.weights_of) -> the matrices that they join.
JOINED = {"qkv": ("wq", "wk", "wv"), "wo": ("wo",), "gate_up": ("w1", "w3"), "w2": ("w2",)}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One adapter.

    Attributes:
        factors: name of a matrix -> A [layers, in, rank] and B [layers, rank, out], float32.
        scale: the factor of (x A) B.
    """

    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    scale: float


def with_adapters(
    weights: dict[str, Any], adapters: Sequence[Adapter], llama: Llama, mesh: Mesh | None
) -> dict[str, Any]:
    """Weights with the joined factors of adapters, which `added` reads: NAME_a and NAME_b of each name in JOINED that
    has one, and the numbers of the adapters, from 1. Without adapters, the weights as they are."""
    if not adapters:
        return weights
    dtype, place = jnp.dtype(llama.compute_dtype), shards.placement(mesh)
    rank = max(a.shape[-1] for adapter in adapters for a, _ in adapter.factors.values())

    def joined(names: Sequence[str], index: int) -> tuple[np.ndarray, np.ndarray] | None:
        found = [adapter.factors[name] for name in names for adapter in adapters if name in adapter.factors]
        if not found:
            return None
        columns, inputs = len(names) * len(adapters) * rank, found[0][0].shape[1]
        a, bs = np.zeros((inputs, columns), np.float32), []
        for target, name in enumerate(names):
            b = np.zeros((columns, llama.matrices[name][1]), np.float32)
            for number, adapter in enumerate(adapters):
                if name in adapter.factors:
                    own_a, own_b = (factor[index] for factor in adapter.factors[name])
                    start = (target * len(adapters) + number) * rank
                    a[:, start : start + own_a.shape[1]] = own_a
                    b[start : start + len(own_b)] = adapter.scale * own_b
            bs.append(b)
        return a, shards.join(bs, shards.parts(mesh))

    def layer(index: int) -> dict[str, Any]:
        extra = {"adapters": place("adapters", np.arange(1, len(adapters) + 1), jnp.int32)}
        for name, matrices in JOINED.items():
            if (factors := joined(matrices, index)) is not None:
                extra[f"{name}_a"] = place(f"{name}_a", factors[0], dtype)
                extra[f"{name}_b"] = place(f"{name}_b", factors[1], dtype)
        return extra

    return weights | {"layers": [own | layer(index) for index, own in enumerate(weights["layers"])]}


def are_in(weights: dict[str, Any]) -> bool:
    """Whether weights have adapters."""
    return "adapters" in weights["layers"][0]


def added(
    layer: dict[str, Any],
    name: str,
    x_SCD: jax.Array,
    adapter_S: jax.Array | None,
    product: Callable[[jax.Array, Any], jax.Array],
) -> jax.Array | None:
    """The products of the adapters of one input, [S, C, F]; None: there are none.

    Args:
        layer: the weights of a layer.
        name: of JOINED.
        x_SCD: the input.
        adapter_S: number of the adapter of each row; None: all rows are without.
        product: multiplies rows and a matrix.
    """
    if adapter_S is None or f"{name}_a" not in layer:
        return None
    low = product(x_SCD, layer[f"{name}_a"])
    numbers_K = layer["adapters"]
    parts = low.reshape(*low.shape[:2], len(JOINED[name]), len(numbers_K), -1)
    own = (adapter_S[:, None] == numbers_K[None, :])[:, None, None, :, None]
    return product(jnp.where(own, parts, jnp.zeros((), low.dtype)).reshape(low.shape), layer[f"{name}_b"])
