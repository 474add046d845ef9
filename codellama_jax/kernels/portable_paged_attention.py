"""Attention to the pages of a key-value cache on any device, and the cache in the form for which it is fast on a CPU.

A layer of the cache is one array [P, 2, G, page * K]: for each page and head, the keys as a matrix [K, page], and the
values as a matrix [page, K]. A gather of such matrices gives the operands of the products of a head without a
transposition, which would take longer than the products. In both products the contracted dim is the first one of a
row-major right operand. As in row_products.py, each element of the results is then a sum of fused multiply-adds in
order, with one row as with many: a query has the same bits alone and in a chunk.
"""

import jax
import jax.numpy as jnp

BLOCK = 128  # keys that attention processes at a time

_MASKED = -1e30


def empty(pages: int, size: int, kv_heads: int, width: int, dtype: jax.typing.DTypeLike) -> jax.Array:
    """One layer of a cache with zeros.

    bfloat16 is kept as its bits, in uint16: XLA for CPUs would convert the whole cache to float32 and back to change a
    page of it.
    """
    stored = jnp.uint16 if jnp.dtype(dtype) == jnp.bfloat16 else dtype
    return jnp.zeros((pages, 2, kv_heads, size * width), stored)


def write(pages: jax.Array, page_SC: jax.Array, offset_SC: jax.Array, kv: jax.Array) -> jax.Array:
    """Writes keys and values of new tokens, which alternate in [S, C, 2G, K], to their pages."""
    if pages.dtype == jnp.uint16:  # the bits of bfloat16
        kv = jax.lax.bitcast_convert_type(kv.astype(jnp.bfloat16), jnp.uint16)
    if page_SC.size == 1:  # written twice: XLA makes a single update a slice, and copies the whole cache for it
        page_SC, offset_SC, kv = (jnp.repeat(x, 2, axis=0) for x in (page_SC, offset_SC, kv))
    count, _, kv_heads, elements = pages.shape
    width = kv.shape[3]
    size = elements // width
    kv = kv.astype(pages.dtype).reshape(*kv.shape[:2], kv_heads, 2, width)
    keys, values = kv[:, :, :, 0], kv[:, :, :, 1]
    pages = pages.reshape(count, 2, kv_heads, width, size).at[page_SC, 0, :, :, offset_SC].set(keys)
    pages = pages.reshape(count, 2, kv_heads, size, width).at[page_SC, 1, :, offset_SC].set(values)
    return pages.reshape(count, 2, kv_heads, elements)


def read(pages: jax.Array, ids: jax.typing.ArrayLike, width: int) -> jax.Array:
    """Keys and values of pages [...] as they were written: float32 [..., page, 2G, K]."""
    found = _float32(pages[jnp.asarray(ids)])
    *ids_shape, _, kv_heads, elements = found.shape
    size = elements // width
    keys = found[..., 0, :, :].reshape(*ids_shape, kv_heads, width, size)
    values = found[..., 1, :, :].reshape(*ids_shape, kv_heads, size, width)
    kv = jnp.stack([jnp.moveaxis(keys, -1, -3), jnp.moveaxis(values, -2, -3)], axis=-2)  # [..., page, G, 2, K]
    return kv.reshape(*ids_shape, size, 2 * kv_heads, width)


def attend(
    q_SCHK: jax.Array, pages: jax.Array, table_SM: jax.Array, positions_SC: jax.Array, blocks: jax.Array
) -> jax.Array:
    """Causal attention of new tokens to the keys and values in the pages of their rows.

    The softmax is computed block by block. A block in which a row sees no key leaves its sums as they are, bit for bit,
    so a row does not depend on how long the other rows are.

    Args:
        q_SCHK: queries.
        pages: one layer of the cache, [P, 2, G, page * K]. The page divides BLOCK.
        table_SM: the pages of each row.
        positions_SC: positions of the queries; a query sees the keys up to its own position.
        blocks: number of blocks of BLOCK keys to process, an integer scalar.

    Returns:
        [S, C, H, K] in the dtype of q.
    """
    rows, length, heads, width = q_SCHK.shape
    _, _, kv_heads, elements = pages.shape
    size = elements // width
    per_block = BLOCK // size
    table_SM = jnp.pad(table_SM, ((0, 0), (0, -table_SM.shape[1] % per_block)))
    queries = q_SCHK.astype(jnp.float32) * width**-0.5
    queries = queries.reshape(rows, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)  # [S, G, R, C, K]
    shared = queries.shape[2]
    queries = queries.reshape(rows, kv_heads, shared * length, width)
    limit = jnp.tile(positions_SC[:, None, :], (1, shared, 1)).reshape(rows, 1, shared * length, 1)
    matrices = pages.reshape(-1, elements)

    def block(index: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        largest, total, out = state
        ids = jax.lax.dynamic_slice_in_dim(table_SM, index * per_block, per_block, axis=1)
        of_keys = ids[:, None, :] * (2 * kv_heads) + jnp.arange(kv_heads)[None, :, None]  # [S, G, pages of a block]
        keys = _float32(matrices[of_keys]).reshape(rows, kv_heads, per_block, width, size)
        values = _float32(matrices[of_keys + kv_heads]).reshape(rows, kv_heads, BLOCK, width)
        scores = _scores(queries, keys)
        key_positions = index * BLOCK + jnp.arange(BLOCK)[None, None, None, :]
        scores = jnp.where(key_positions <= limit, scores, _MASKED)
        new_largest = jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True))
        probabilities = jnp.where(key_positions <= limit, jnp.exp(scores - new_largest), 0.0)
        scale = jnp.exp(largest - new_largest)
        total = total * scale + jnp.sum(probabilities, axis=-1, keepdims=True)
        return new_largest, total, out * scale + jnp.einsum("sgqt,sgtk->sgqk", probabilities, values)

    shape = rows, kv_heads, shared * length
    start = jnp.full((*shape, 1), _MASKED), jnp.zeros((*shape, 1)), jnp.zeros((*shape, width))
    _, total, out = jax.lax.fori_loop(0, blocks, block, start)
    out = (out / total).reshape(rows, heads, length, width).transpose(0, 2, 1, 3)
    return out.astype(q_SCHK.dtype)


def _scores(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """Products of queries [S, G, Q, K] and the keys of some pages [S, G, M, K, page]: [S, G, Q, M * page]."""
    rows, kv_heads, count, width = queries.shape
    pages, size = keys.shape[2], keys.shape[4]
    if count == 1:  # a product for each page: the keys are read in place
        queries = jnp.broadcast_to(queries[:, :, None], (rows, kv_heads, pages, 1, width))
        return jnp.einsum("sgmqk,sgmkt->sgmqt", queries, keys).reshape(rows, kv_heads, 1, pages * size)
    # one large product: the barrier keeps the transposition outside of it, which would select another kernel
    keys = jax.lax.optimization_barrier(keys.swapaxes(2, 3).reshape(rows, kv_heads, width, pages * size))
    return jnp.einsum("sgqk,sgkt->sgqt", queries, keys)


def _float32(stored: jax.Array) -> jax.Array:
    if stored.dtype == jnp.uint16:
        stored = jax.lax.bitcast_convert_type(stored, jnp.bfloat16)
    return stored.astype(jnp.float32)
