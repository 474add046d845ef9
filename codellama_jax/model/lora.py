"""Low-rank adapters beside the frozen matrices of the blocks (config/lora.py, arXiv 2106.09685).

The decoder is not changed: its parameters are AdaptedWeights in place of arrays, and `make_product` makes the product
that it multiplies them with. Names of dims are those of model/llama.py, and R for the rank.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from codellama_jax.config.lora import TARGETS, Lora
from codellama_jax.kernels import frozen_products
from codellama_jax.kernels.frozen_products import Int8Weight, Multiply

Tree = dict[str, Any]

# The input and the output dims of each matrix of a block.
DIMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "wq": (("dim",), ("heads", "head_dim")),
    "wk": (("dim",), ("kv_heads", "head_dim")),
    "wv": (("dim",), ("kv_heads", "head_dim")),
    "wo": (("heads", "head_dim"), ("dim",)),
    "w1": (("dim",), ("ffn",)),
    "w2": (("ffn",), ("dim",)),
    "w3": (("dim",), ("ffn",)),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptedWeight:
    """A frozen matrix and its adapter, of one block or stacked over all blocks.

    Attributes:
        weight: the matrix, [in, out]; `in` and `out` are one or two dims.
        a, b: the factors, [in, R] and [R, out], float32; None: the matrix has no adapter.
        keys: raw key of the dropout of each row of the batch, uint32 [B, 2]; None: no dropout.
        scale: the factor of (x A) B.
        dropout: share of the inputs of A that are set to 0.
        first, width: the inputs are those from `first` on of a matrix with `width` inputs; width 0: all of them.
    """

    weight: jax.Array | Int8Weight
    a: jax.Array | None = None
    b: jax.Array | None = None
    keys: jax.Array | None = None
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    dropout: float = dataclasses.field(default=0.0, metadata={"static": True})
    first: int = dataclasses.field(default=0, metadata={"static": True})
    width: int = dataclasses.field(default=0, metadata={"static": True})

    def __getitem__(self, index: Any) -> "AdaptedWeight":
        """One block of stacked ones; with an ellipsis, as for an array, the same."""
        return self if index is ... else jax.tree.map(lambda x: x[index], self)

    def astype(self, dtype: Any) -> "AdaptedWeight":
        """The same: the product converts what it reads to the dtype of the activations."""
        return self

    def split(self, parts: int, axis: int) -> list["AdaptedWeight"]:
        """Equal parts of a matrix with two dims along its inputs (axis 0) or outputs (axis 1)."""

        def pieces(x: Any, axis: int) -> list[Any]:
            return [None] * parts if x is None else jnp.split(x, parts, axis)

        if isinstance(self.weight, Int8Weight):
            scales = pieces(self.weight.scale, 1) if axis else [self.weight.scale] * parts
            weights = list(map(Int8Weight, pieces(self.weight.values, axis), scales))
            size = self.weight.values.shape[0]
        else:
            weights, size = pieces(self.weight, axis), self.weight.shape[0]
        if axis:
            bs = pieces(self.b, 1)
            return [dataclasses.replace(self, weight=w, b=b) for w, b in zip(weights, bs, strict=True)]
        firsts = range(0, size, size // parts)
        return [
            dataclasses.replace(self, weight=w, a=a, first=first, width=size)
            for w, a, first in zip(weights, pieces(self.a, 0), firsts, strict=True)
        ]


def split(weight: Any, parts: int, axis: int) -> list[Any]:
    """jnp.split of a matrix with or without an adapter."""
    return weight.split(parts, axis) if isinstance(weight, AdaptedWeight) else jnp.split(weight, parts, axis)


def init_adapters(blocks: Tree, lora: Lora, seed: int) -> Tree:
    """Adapters that change nothing yet: B is 0, and A is uniform within 1 / sqrt(in), as PEFT initialises it.

    Args:
        blocks: the stacked matrices of the blocks, of which only the shapes are used.
        lora: the settings.
        seed: of A.

    Returns:
        {"blocks": {"wq_a": [N, in, R], "wq_b": [N, R, out], ...}}, float32.
    """
    adapters = {}
    for name in lora.names:
        inputs, _ = DIMS[name]
        layers, *shape = blocks[name].shape
        key = jax.random.fold_in(jax.random.key(seed), TARGETS.index(name))
        bound = 1 / math.sqrt(math.prod(shape[: len(inputs)]))
        a_shape = (layers, *shape[: len(inputs)], lora.rank)
        adapters[f"{name}_a"] = jax.random.uniform(key, a_shape, jnp.float32, -bound, bound)
        adapters[f"{name}_b"] = jnp.zeros((layers, lora.rank, *shape[len(inputs) :]), jnp.float32)
    return {"blocks": adapters}


def adapter_dims(lora: Lora) -> Tree:
    """The logical dims of every adapter, in the structure of `init_adapters`."""
    dims: dict[str, tuple[str, ...]] = {}
    for name in lora.names:
        inputs, outputs = DIMS[name]
        dims |= {f"{name}_a": ("layers", *inputs, "rank"), f"{name}_b": ("layers", "rank", *outputs)}
    return {"blocks": dims}


def scale_dims(name: str) -> tuple[str | None, ...]:
    """The logical dims of the scale of a stacked int8 matrix, of which the input dims have size 1."""
    inputs, outputs = DIMS[name]
    return ("layers", *(None for _ in inputs), *outputs)


def freeze(name: str, weight: jax.Array, base_dtype: str) -> jax.Array | Int8Weight:
    """A parameter as a frozen base stores it.

    Args:
        name: of the parameter; matrices of the blocks are stacked.
        weight: the parameter.
        base_dtype: Lora.base_dtype.
    """
    if name in DIMS and base_dtype == "int8":
        return frozen_products.to_int8(weight, tuple(range(1, 1 + len(DIMS[name][0]))))
    if weight.ndim < 2 or name.endswith("norm"):
        return weight.astype(jnp.float32)
    return weight.astype("bfloat16" if base_dtype == "int8" else base_dtype)


def combine(base: Tree, adapters: Tree, lora: Lora, key: jax.Array | None = None, rows_B: Any = None) -> Tree:
    """The parameters of a decoder: those of the frozen base, with AdaptedWeights in place of the matrices.

    Args:
        base: parameters from `freeze`.
        adapters: in the structure of `init_adapters`.
        lora: the settings.
        key: of the dropout of a step; None: no dropout, as in evaluations.
        rows_B: with a key, the index of each row in the batch of the step. The dropout of a row depends on it alone,
            not on the micro-batch or the device.
    """
    blocks, found = dict(base["blocks"]), adapters["blocks"]
    for number, name in enumerate(TARGETS):
        keys = None
        if key is not None and name in lora.names:
            layers = len(found[f"{name}_a"])
            matrices = jnp.arange(layers) * len(TARGETS) + number
            keys = jax.vmap(lambda matrix: _row_keys(key, matrix, rows_B))(matrices)
        dropout = lora.dropout if keys is not None else 0.0
        scale = lora.scale if lora.rank else 1.0
        a, b = found.get(f"{name}_a"), found.get(f"{name}_b")
        blocks[name] = AdaptedWeight(blocks[name], a, b, keys, scale=scale, dropout=dropout)
    return base | {"blocks": blocks}


def is_adapted(params: Tree) -> bool:
    """Whether parameters are from `combine`: only their adapters are trained."""
    return any(isinstance(weight, AdaptedWeight) for weight in params["blocks"].values())


def _row_keys(key: jax.Array, matrix: Any, rows_B: jax.Array) -> jax.Array:
    """Raw keys [B, 2] of the rows of a batch for one matrix."""
    of_matrix = jax.random.fold_in(key, matrix)
    return jax.random.key_data(jax.vmap(lambda row: jax.random.fold_in(of_matrix, row))(rows_B))


def make_product(multiply: Multiply, constrain: Callable[[jax.Array, tuple], jax.Array] | None = None) -> Multiply:
    """A product of activations with arrays, by `multiply`, or with AdaptedWeights.

    Args:
        multiply: the product without adapters; its gradient for an array is that of training.
        constrain: the sharding of an activation with the given dims, where there is a mesh.
    """

    def product(equation: str, x: jax.Array, weight: Any) -> jax.Array:
        if not isinstance(weight, AdaptedWeight):
            return multiply(equation, x, weight)
        out = frozen_products.product(multiply, equation, x, weight.weight)
        if weight.a is None or weight.b is None:
            return out
        left, right, result = equation.replace("->", ",").split(",")
        inputs = [dim for dim in right if dim in left]
        outputs = [dim for dim in right if dim not in left]
        rows = left[: len(left) - len(inputs)]
        x_in = _dropped(x, weight, len(inputs)) if weight.keys is not None else x
        low_BSR = multiply(f"{left},{''.join(inputs)}r->{rows}r", x_in, weight.a.astype(x.dtype)) * weight.scale
        if constrain is not None:
            low_BSR = constrain(low_BSR, ("batch", "sequence", None))
        return out + multiply(f"{rows}r,r{''.join(outputs)}->{result}", low_BSR, weight.b.astype(x.dtype))

    return product


def _dropped(x: jax.Array, weight: AdaptedWeight, inputs: int) -> jax.Array:
    """The inputs of A after dropout. The mask of a part of the inputs is that part of the mask of all of them."""
    assert weight.keys is not None
    shape, last = x.shape[1:], x.shape[-1]
    drawn = (*shape[:-1], weight.width or last)
    keys_B = jax.random.wrap_key_data(weight.keys)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - weight.dropout, drawn))(keys_B)
    kept = kept[..., weight.first : weight.first + last]
    return jnp.where(kept, x / jnp.asarray(1 - weight.dropout, x.dtype), jnp.zeros((), x.dtype))


def merge(weight: Any) -> jax.Array:
    """The float32 matrix that an AdaptedWeight computes with, without dropout, stacked or not; an array as it is."""
    if not isinstance(weight, AdaptedWeight):
        return weight
    stored = weight.weight
    matrix = frozen_products.from_int8(stored) if isinstance(stored, Int8Weight) else stored.astype(jnp.float32)
    if weight.a is None or weight.b is None:
        return matrix
    # one of the two leading dims of a stacked pair counts twice, and so does the rank
    stacks = matrix.shape[: weight.a.ndim + weight.b.ndim - matrix.ndim - 2]
    rank = weight.a.shape[-1]
    a, b = weight.a.reshape(*stacks, -1, rank), weight.b.reshape(*stacks, rank, -1)
    delta = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    return matrix + weight.scale * delta.reshape(matrix.shape)


def merge_all(params: Tree) -> Tree:
    """Parameters from `combine` as those of a decoder without adapters."""
    return jax.tree.map(merge, params, is_leaf=lambda x: isinstance(x, AdaptedWeight))
