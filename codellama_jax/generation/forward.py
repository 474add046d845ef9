"""The decoder over a paged key-value cache: the training forward pass with keys and values read from pages.

Array names are those of codellama_jax/model, and C for the new tokens of a row, P for pages, M for the pages of a row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.generation import adapters, int8_cache, shards
from codellama_jax.generation.kv_cache import SCRATCH
from codellama_jax.kernels import paged_attention as kernel
from codellama_jax.kernels import portable_paged_attention as portable
from codellama_jax.kernels import row_products
from codellama_jax.model import rope
from codellama_jax.model.llama import rms_norm

Weights = dict[str, Any]
Pages = jax.Array | tuple[jax.Array, ...]  # one layer of a cache, in the form of portable attention or of the kernel
Cache = list[Pages]
BLOCK = portable.BLOCK


def weights_of(read: Callable[[str, int | None], Any], llama: Llama, mesh: Mesh | None = None) -> Weights:
    """The weights in the form that `forward` reads: one dict for each layer, projections of one input joined.

    One layer is in memory twice at a time.

    Args:
        read: (name, layer) -> an array in the shape of one layer of the training parameters; layer is None for
            embedding, norm and head. The head of a tied model is not read, and is stored only on one CPU.
        llama: the model. Matrices take its compute dtype.
        mesh: the devices of the weights; None: the default device.
    """
    dtype, parts, place = jnp.dtype(llama.compute_dtype), shards.parts(mesh), shards.placement(mesh)

    def bias(index: int) -> dict[str, Any]:
        if not llama.qkv_bias:
            return {}
        rows = [read(name, index).reshape(1, -1) for name in ("bq", "bk", "bv")]
        return {"qkv_bias": place("qkv_bias", shards.join(rows, parts), dtype)}

    def layer(index: int) -> dict[str, Any]:
        qkv = [read(name, index).reshape(llama.dim, -1) for name in ("wq", "wk", "wv")]
        return {
            "attention_norm": place("attention_norm", read("attention_norm", index), jnp.float32),
            "qkv": place("qkv", shards.join(qkv, parts), dtype),
            **bias(index),
            "wo": place("wo", read("wo", index).reshape(-1, llama.dim), dtype),
            "ffn_norm": place("ffn_norm", read("ffn_norm", index), jnp.float32),
            "gate_up": place("gate_up", shards.join([read("w1", index), read("w3", index)], parts), dtype),
            "w2": place("w2", read("w2", index), dtype),
        }

    def head() -> dict[str, Any]:
        if not llama.tied:
            return {"head": place("head", read("head", None), dtype)}
        # on one CPU, the rows of its products are independent only in the other layout (kernels/row_products.py)
        one_cpu = mesh is None and jax.default_backend() == "cpu"
        return {"head": place("head", read("embedding", None).T, dtype)} if one_cpu else {}

    return {
        "embedding": place("embedding", read("embedding", None), dtype),
        "layers": [layer(index) for index in range(llama.layers)],
        "norm": place("norm", read("norm", None), jnp.float32),
        **head(),
    }


def new_cache(
    llama: Llama, pages: int, size: int, dtype: str | None = None, groups: Sequence[int] | None = None
) -> Cache:
    """An empty cache, in the form of portable_paged_attention.py or, with groups, of paged_attention.py (kernels/).

    Page 0 is scratch.

    Args:
        llama: the model.
        pages: number of pages.
        size: tokens in a page.
        dtype: the dtype; None: the compute dtype.
        groups: for the TPU kernel, the sizes of the groups of heads; None: for portable attention.

    Raises:
        ValueError: the size does not divide BLOCK. Blocks of other lengths would give sums with other roundings.
    """
    if BLOCK % size:
        raise ValueError(f"a page of {size} tokens does not divide {BLOCK}")

    stored = jnp.dtype(dtype or llama.compute_dtype)
    if groups is None:
        return [portable.empty(pages + 1, size, llama.kv_heads, llama.head_dim, stored) for _ in range(llama.layers)]
    parts = llama.kv_heads // sum(groups)  # devices, each with all groups

    def layer() -> tuple[jax.Array, ...]:
        return tuple(jnp.zeros((pages + 1, size, 2 * heads * parts, llama.head_dim), stored) for heads in groups)

    return [layer() for _ in range(llama.layers)]


def page_size(pages: Pages, width: int) -> int:
    """Number of tokens in a page of a layer whose heads have this width."""
    return pages[0].shape[1] if isinstance(pages, tuple) else pages.shape[3] // width


def forward(
    weights: Weights,
    llama: Llama,
    cache: Cache,
    tokens_SC: jax.Array,
    positions_SC: jax.Array,
    valid_SC: jax.Array,
    table_SM: jax.Array,
    adapter_S: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Processes the next tokens of several rows. Their keys and values are written to the cache first.

    Args:
        weights: from weights_of.
        llama: the model.
        cache: from new_cache.
        tokens_SC: token ids.
        positions_SC: their positions, which are consecutive in a row.
        valid_SC: whether there is such a token; others are computed and dropped.
        table_SM: the pages of each row, in order. It has a page for every valid token, and zeros after them.
        adapter_S: number of the adapter of each row, 0 for none (adapters.py); None: no row has one.

    Returns:
        The output of the final norm, [S, C, D], and the new cache.
    """
    rows, length = tokens_SC.shape
    width = llama.head_dim
    size = page_size(cache[0], width)
    heads, kv_heads = llama.heads // shards.count(), llama.kv_heads // shards.count()  # of this device
    pages_SC = jnp.take_along_axis(table_SM, positions_SC // size, axis=1)
    pages_SC, offsets_SC = jnp.where(valid_SC, pages_SC, SCRATCH), positions_SC % size
    # The number of blocks of keys depends on the longest row, but further blocks change nothing for the others.
    blocks = (jnp.max(jnp.where(valid_SC, positions_SC, 0)) + BLOCK) // BLOCK
    cos, sin = rope.tables(positions_SC, llama)
    x_SCD = shards.look_up(weights["embedding"], tokens_SC)
    new_pages = []

    def product(x_SCD: jax.Array, layer: dict[str, Any], name: str) -> jax.Array:
        out = _product(x_SCD, layer[name])
        extra = adapters.added(layer, name, x_SCD, adapter_S, _product)
        return out if extra is None else out + extra

    for layer, pages in zip(weights["layers"], cache, strict=True):
        layer = {name: shards.whole_rows(name, weight) for name, weight in layer.items()}
        h_SCD = rms_norm(x_SCD, layer["attention_norm"], llama.norm_eps)
        qkv = product(h_SCD, layer, "qkv")
        if llama.qkv_bias:
            qkv = qkv + layer["qkv_bias"][None]
        qkv = qkv.reshape(rows, length, heads + 2 * kv_heads, width)
        q, k, v = jnp.split(qkv, (heads, heads + kv_heads), axis=2)
        q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        kv = jnp.stack([k, v], axis=3).reshape(rows, length, 2 * kv_heads, width)
        scale = layer.get("kv_scale")
        if scale is not None:
            q, kv = int8_cache.quantized(q, kv, scale)
        if isinstance(pages, tuple):
            pages = kernel.write(pages, pages_SC, offsets_SC, kv)
            attended = kernel.attend(q, pages, table_SM, positions_SC)
        else:
            pages = portable.write(pages, pages_SC, offsets_SC, kv)
            attended = portable.attend(q, pages, table_SM, positions_SC, blocks)
        if scale is not None:
            attended = int8_cache.restored(attended, scale)
        x_SCD = x_SCD + shards.total(product(attended.reshape(rows, length, -1), layer, "wo"))
        h_SCD = rms_norm(x_SCD, layer["ffn_norm"], llama.norm_eps)
        gate, up = jnp.split(product(h_SCD, layer, "gate_up"), 2, axis=-1)
        x_SCD = x_SCD + shards.total(product(jax.nn.silu(gate) * up, layer, "w2"))
        new_pages.append(pages)
    return rms_norm(x_SCD, weights["norm"], llama.norm_eps), new_pages


def logits(weights: Weights, x_SD: jax.Array) -> jax.Array:
    """Logits [S, V] of the output of the final norm, float32."""
    if "head" in weights:
        return shards.all_columns(_product(x_SD, shards.whole_rows("head", weights["head"]), jnp.float32))
    embedding_VD = shards.whole_rows("embedding", weights["embedding"])
    product = jnp.einsum("...d,vd->...v", x_SD, embedding_VD, preferred_element_type=jnp.float32)
    return shards.all_columns(product)


def _product(x: jax.Array, weight: row_products.Matrix, dtype: Any = None) -> jax.Array:
    """x times a matrix, accumulated in float32."""
    out = row_products.product(x.reshape(-1, x.shape[-1]), weight)
    return out.astype(dtype or x.dtype).reshape(*x.shape[:-1], -1)
