"""The decoder over a paged key-value cache: the training forward pass with keys and values read from pages.

Array names are those of codellama_jax/model, and C for the new tokens of a row, P for pages, M for the pages of a row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.generation import int8_cache, shards
from codellama_jax.generation.kv_cache import SCRATCH
from codellama_jax.kernels import paged_attention as kernel
from codellama_jax.kernels import row_products
from codellama_jax.kernels.paged_attention import Pages
from codellama_jax.model import rope
from codellama_jax.model.llama import rms_norm

Weights = dict[str, Any]
Cache = list[Pages]  # one for each layer
BLOCK = 128  # keys that attention processes at a time

_MASKED = -1e30


def weights_of(read: Callable[[str, int | None], Any], llama: Llama, mesh: Mesh | None = None) -> Weights:
    """The weights in the form that `forward` reads: one dict for each layer, projections of one input joined.

    One layer is in memory twice at a time.

    Args:
        read: (name, layer) -> an array in the shape of one layer of the training parameters; layer is None for
            embedding, norm and head.
        llama: the model. Matrices take its compute dtype.
        mesh: the devices of the weights; None: the default device.
    """
    dtype, parts, place = jnp.dtype(llama.compute_dtype), shards.parts(mesh), shards.placement(mesh)

    def layer(index: int) -> dict[str, Any]:
        qkv = [read(name, index).reshape(llama.dim, -1) for name in ("wq", "wk", "wv")]
        return {
            "attention_norm": place("attention_norm", read("attention_norm", index), jnp.float32),
            "qkv": place("qkv", shards.join(qkv, parts), dtype),
            "wo": place("wo", read("wo", index).reshape(-1, llama.dim), dtype),
            "ffn_norm": place("ffn_norm", read("ffn_norm", index), jnp.float32),
            "gate_up": place("gate_up", shards.join([read("w1", index), read("w3", index)], parts), dtype),
            "w2": place("w2", read("w2", index), dtype),
        }

    return {
        "embedding": place("embedding", read("embedding", None), dtype),
        "layers": [layer(index) for index in range(llama.layers)],
        "norm": place("norm", read("norm", None), jnp.float32),
        "head": place("head", read("head", None), dtype),
    }


def new_cache(
    llama: Llama, pages: int, size: int, dtype: str | None = None, groups: Sequence[int] | None = None
) -> Cache:
    """An empty cache: for each layer [P + 1, size, 2G, K]. Keys and values of a head alternate, and page 0 is scratch.

    Portable attention keeps bfloat16 as its bits, in uint16: XLA for CPUs would convert the whole cache to float32 and
    back to change a page of it.

    Args:
        llama: the model.
        pages: number of pages.
        size: tokens in a page.
        dtype: the dtype; None: the compute dtype.
        groups: for the TPU kernel, the sizes of the groups of heads (kernels/paged_attention.py); None: one array.

    Raises:
        ValueError: the size does not divide BLOCK. Blocks of other lengths would give sums with other roundings.
    """
    if BLOCK % size:
        raise ValueError(f"a page of {size} tokens does not divide {BLOCK}")

    stored = jnp.dtype(dtype or llama.compute_dtype)
    if groups is None and stored == jnp.bfloat16:
        stored = jnp.dtype(jnp.uint16)

    def zeros(heads: int) -> jax.Array:
        return jnp.zeros((pages + 1, size, 2 * heads, llama.head_dim), stored)

    if groups is None:
        return [zeros(llama.kv_heads) for _ in range(llama.layers)]
    parts = llama.kv_heads // sum(groups)  # devices, each with all groups
    return [tuple(zeros(heads * parts) for heads in groups) for _ in range(llama.layers)]


def forward(
    weights: Weights,
    llama: Llama,
    cache: Cache,
    tokens_SC: jax.Array,
    positions_SC: jax.Array,
    valid_SC: jax.Array,
    table_SM: jax.Array,
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

    Returns:
        The output of the final norm, [S, C, D], and the new cache.
    """
    rows, length = tokens_SC.shape
    size, width = kernel.page_size(cache[0]), llama.head_dim
    heads, kv_heads = llama.heads // shards.count(), llama.kv_heads // shards.count()  # of this device
    pages_SC = jnp.take_along_axis(table_SM, positions_SC // size, axis=1)
    pages_SC, offsets_SC = jnp.where(valid_SC, pages_SC, SCRATCH), positions_SC % size
    # The number of blocks of keys depends on the longest row, but further blocks change nothing for the others.
    blocks = (jnp.max(jnp.where(valid_SC, positions_SC, 0)) + BLOCK) // BLOCK
    cos, sin = rope.tables(positions_SC, width, llama.rope_theta, llama.rope_scale)
    x_SCD = shards.look_up(weights["embedding"], tokens_SC)
    new_pages = []
    for layer, pages in zip(weights["layers"], cache, strict=True):
        layer = {name: shards.whole_rows(name, weight) for name, weight in layer.items()}
        h_SCD = rms_norm(x_SCD, layer["attention_norm"], llama.norm_eps)
        qkv = _product(h_SCD, layer["qkv"]).reshape(rows, length, heads + 2 * kv_heads, width)
        q, k, v = jnp.split(qkv, (heads, heads + kv_heads), axis=2)
        q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        kv = jnp.stack([k, v], axis=3).reshape(rows, length, 2 * kv_heads, width)
        scale = layer.get("kv_scale")
        if scale is not None:
            q, kv = int8_cache.quantized(q, kv, scale)
        pages = kernel.write(pages, pages_SC, offsets_SC, kv)
        if isinstance(pages, tuple):
            attended = kernel.attend(q, pages, table_SM, positions_SC)
        else:
            attended = paged_attention(q, pages, table_SM, positions_SC, blocks)
        if scale is not None:
            attended = int8_cache.restored(attended, scale)
        x_SCD = x_SCD + shards.total(_product(attended.reshape(rows, length, -1), layer["wo"]))
        h_SCD = rms_norm(x_SCD, layer["ffn_norm"], llama.norm_eps)
        gate, up = jnp.split(_product(h_SCD, layer["gate_up"]), 2, axis=-1)
        x_SCD = x_SCD + shards.total(_product(jax.nn.silu(gate) * up, layer["w2"]))
        new_pages.append(pages)
    return rms_norm(x_SCD, weights["norm"], llama.norm_eps), new_pages


def logits(weights: Weights, x_SD: jax.Array) -> jax.Array:
    """Logits [S, V] of the output of the final norm, float32."""
    return shards.all_columns(_product(x_SD, shards.whole_rows("head", weights["head"]), jnp.float32))


def paged_attention(
    q_SCHK: jax.Array, pages: jax.Array, table_SM: jax.Array, positions_SC: jax.Array, blocks: jax.Array
) -> jax.Array:
    """Causal attention of new tokens to the keys and values in the pages of their rows.

    The softmax is computed block by block. A block in which a row sees no key leaves its sums as they are, bit for bit,
    so a row does not depend on how long the other rows are.

    Args:
        q_SCHK: queries.
        pages: one layer of the cache, [P, page, 2G, K].
        table_SM: the pages of each row.
        positions_SC: positions of the queries; a query sees the keys up to its own position.
        blocks: number of blocks of BLOCK keys to process, an integer scalar.

    Returns:
        [S, C, H, K] in the dtype of q.
    """
    rows, length, heads, width = q_SCHK.shape
    size, kv_heads = pages.shape[1], pages.shape[2] // 2
    per_block = BLOCK // size
    pages_in_table = table_SM.shape[1]
    padding = -pages_in_table % per_block
    table_SM = jnp.pad(table_SM, ((0, 0), (0, padding)))
    queries = q_SCHK.astype(jnp.float32) * width**-0.5
    queries = queries.reshape(rows, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)  # [S, G, R, C, K]
    shared = queries.shape[2]
    queries = queries.reshape(rows, kv_heads, shared * length, width)
    limit = jnp.tile(positions_SC[:, None, :], (1, shared, 1)).reshape(rows, 1, shared * length, 1)

    def block(index: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, out = state
        ids = jax.lax.dynamic_slice_in_dim(table_SM, index * per_block, per_block, axis=1)
        kv = kernel.read(pages, ids).reshape(rows, per_block * size, kv_heads, 2, width)
        keys, values = kv[:, :, :, 0], kv[:, :, :, 1]
        scores = jnp.einsum("sgqk,stgk->sgqt", queries, keys)
        key_positions = index * per_block * size + jnp.arange(per_block * size)[None, None, None, :]
        scores = jnp.where(key_positions <= limit, scores, _MASKED)
        new_largest = jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True))
        probabilities = jnp.where(key_positions <= limit, jnp.exp(scores - new_largest), 0.0)
        scale = jnp.exp(largest - new_largest)
        total = total * scale + jnp.sum(probabilities, axis=-1, keepdims=True)
        return new_largest, total, out * scale + jnp.einsum("sgqt,stgk->sgqk", probabilities, values)

    shape = rows, kv_heads, shared * length
    start = jnp.full((*shape, 1), _MASKED), jnp.zeros((*shape, 1)), jnp.zeros((*shape, width))
    _, total, out = jax.lax.fori_loop(0, blocks, block, start)
    out = (out / total).reshape(rows, heads, length, width).transpose(0, 2, 1, 3)
    return out.astype(q_SCHK.dtype)


def _product(x: jax.Array, weight: row_products.Matrix, dtype: Any = None) -> jax.Array:
    """x times a matrix, accumulated in float32."""
    out = row_products.product(x.reshape(-1, x.shape[-1]), weight)
    return out.astype(dtype or x.dtype).reshape(*x.shape[:-1], -1)
