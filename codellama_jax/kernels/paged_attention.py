"""Attention to the pages of a key-value cache on a TPU: JAX's ragged paged attention, and the cache in its form.

The kernel reads arrays [P, page, 2G, K] in which keys and values of a head alternate. Its layout of memory wants 1, 2,
4, 8 or a multiple of 8 such heads, so other numbers are cut into groups: the 5 heads of 13B on each of 8 devices are
one group of 4 and one of 1, without padding. A layer is a tuple with an array for each group; a layer for portable
attention (portable_paged_attention.py) is a single array. The type of a layer thus selects the kernel.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu import ragged_paged_attention as ragged

HEAD_SIZE = 128  # the kernel needs a multiple of it
_SUM_BYTES = 4 * 2**20  # of VMEM, for the sums of a block of queries
_BLOCK_BYTES, _MOST_KEYS = 2**20, 512  # of a block of keys: the kernel copies whole blocks


def head_groups(kv_heads: int, dtype: jax.typing.DTypeLike) -> tuple[int, ...]:
    """The groups into which the key-value heads of a device are cut; () if the kernel cannot process them.

    Elements narrower than 32 bits are packed, so one head of int8, of which K and V fill half a word, is impossible.
    """
    packing, groups, rest = 4 // jnp.dtype(dtype).itemsize, list[int](), kv_heads
    while rest:
        fitting = [size for size in range(1, rest + 1) if _fits(2 * size, packing)]
        if not fitting:
            return ()
        groups.append(fitting[-1])
        rest -= fitting[-1]
    return tuple(groups)


def _fits(combined: int, packing: int) -> bool:
    rows, rest = divmod(combined, packing)
    return not rest and (rows in (1, 2, 4, 8) or rows % 8 == 0)


def write(
    pages: tuple[jax.Array, ...], page_SC: jax.Array, offset_SC: jax.Array, kv: jax.Array
) -> tuple[jax.Array, ...]:
    """Writes keys and values [S, C, 2G, K] of new tokens to their pages."""
    ends = list(itertools.accumulate(group.shape[2] for group in pages))
    parts = jnp.split(kv, ends[:-1], axis=2)
    return tuple(
        group.at[page_SC, offset_SC].set(part.astype(group.dtype)) for group, part in zip(pages, parts, strict=True)
    )


def attend(q_SCHK: jax.Array, pages: tuple[jax.Array, ...], table_SM: jax.Array, positions_SC: jax.Array) -> jax.Array:
    """Causal attention of new tokens to the keys and values in the pages of their rows, [S, C, H, K].

    Args:
        q_SCHK: queries.
        pages: one layer of the cache, in groups of heads.
        table_SM: the pages of each row.
        positions_SC: positions of the queries. Only the first of a row is read: those of the others follow it.
    """
    rows, length, heads, width = q_SCHK.shape
    combined = [group.shape[2] for group in pages]
    shared = heads // (sum(combined) // 2)
    ends = list(itertools.accumulate(size // 2 * shared for size in combined))
    starts = jnp.arange(rows + 1, dtype=jnp.int32) * length
    out = []
    # Without the constraint, the compiler copies a small group to on-chip memory and back.
    for group, q in zip(pages, jnp.split(q_SCHK, ends[:-1], axis=2), strict=True):
        keys, queries = block_sizes(q.shape[2], group)
        attended = ragged.ragged_paged_attention(
            q.reshape(rows * length, -1, width),
            pltpu.with_memory_space_constraint(group, pltpu.HBM),
            positions_SC[:, 0] + length,
            table_SM,
            starts,
            jnp.array([rows], jnp.int32),
            sm_scale=width**-0.5,
            k_scale=1.0 if group.dtype == jnp.int8 else None,  # with a scale, the kernel converts to the dtype of q
            v_scale=1.0 if group.dtype == jnp.int8 else None,
            num_kv_pages_per_block=min(max(keys // group.shape[1], 1), table_SM.shape[1]),
            num_queries_per_block=min(queries, rows * length),
        )
        out.append(attended.reshape(rows, length, -1, width))
    return jnp.concatenate(out, axis=2)


def block_sizes(heads: int, pages: jax.Array | jax.ShapeDtypeStruct) -> tuple[int, int]:
    """Keys and queries of a block of the kernel, by the memory that they need."""
    _, _, combined, width = pages.shape
    tile = 8 * 4 // pages.dtype.itemsize  # the kernel processes this many combined heads together if they divide
    at_a_time = tile if combined % tile == 0 else combined
    keys = _BLOCK_BYTES // (at_a_time * width * pages.dtype.itemsize)
    queries = _SUM_BYTES // (3 * heads * at_a_time // combined * width * 4)
    return min(1 << int(math.log2(keys)), _MOST_KEYS), max(1 << int(math.log2(max(queries, 1))), 8)
