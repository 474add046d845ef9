"""Portable attention in plain JAX: computed in blocks, with a custom gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from codellama_jax.kernels.cpu_products import row_major

# A finite substitute for minus infinity, so that a fully masked row stays finite.
MASKED = -1e30

Segments = tuple[jax.Array, jax.Array] | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def attention(
    q_BSHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments: Segments,
    index_S: jax.Array | None,
    block: int,
) -> jax.Array:
    """Causal softmax attention within segments: each token attends to itself and to earlier tokens of its segment.

    The forward pass loops over blocks of queries, the backward pass over blocks of keys. If the queries are the
    complete sequence in order, a block of queries uses only the keys up to its end, and a block of keys only the
    queries from its start, so about half of the score matrix is never computed. The backward pass recomputes the scores
    of a block instead of storing them: the largest temporary array is [B, H, block, T].

    Args:
        q_BSHK: queries; H is a multiple of G, and query heads h*H/G .. (h+1)*H/G - 1 share key-value head h.
        k_BTGK, v_BTGK: keys and values of the complete sequence.
        segments: segment ids of queries [B, S] and keys [B, T]; a token attends only to tokens with its id. None: no
            segments.
        index_S: positions of the queries in the sequence; None: the queries are the complete sequence in order.
        block: number of queries, or keys, in a block.

    Returns:
        [B, S, H, K] in v's dtype. Scores and softmax are float32.
    """
    return _forward(q_BSHK, k_BTGK, v_BTGK, segments, index_S, block)[0]


def _forward(
    q_BSHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array, segments: Segments, index_S: jax.Array | None, block: int
) -> tuple[jax.Array, Any]:
    B, S, H, K = q_BSHK.shape
    T, G = k_BTGK.shape[1:3]
    q_BGRSK, k_BGTK, v_BGTK = _heads_first(q_BSHK, G), _heads_first(k_BTGK), _heads_first(v_BTGK)
    q_BGRSK = q_BGRSK * K**-0.5

    def one_block(start: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        stop = min(start + block, S)
        end = stop if index_S is None else T
        q = q_BGRSK[:, :, :, start:stop].reshape(B, G, -1, K)
        scores = _product("bgqk,bgtk->bgqt", q, k_BGTK[:, :, :end])
        visible = _visible(segments, index_S, slice(start, stop), slice(0, end))[:, None, None]
        by_head = B, G, H // G, stop - start, end
        scores = jnp.where(visible, scores.reshape(by_head), MASKED).reshape(scores.shape)
        max_scores = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - max_scores)
        sums = jnp.sum(weights, axis=-1, keepdims=True)
        out = _product("bgqt,bgtk->bgqk", weights.astype(v_BGTK.dtype), v_BGTK[:, :, :end]) / sums
        shape = B, G, H // G, stop - start, -1
        return out.astype(v_BGTK.dtype).reshape(shape), max_scores.reshape(shape), sums.reshape(shape)

    blocks = [one_block(start) for start in range(0, S, block)]
    out_BGRSK, max_BGRS1, sums_BGRS1 = (jnp.concatenate(arrays, axis=3) for arrays in zip(*blocks, strict=True))
    # A remat policy that saves "attention" saves all residuals of the backward pass, so attention is not recomputed.
    # The maximum and the sum of the softmax are stored separately: one log-sum-exp would lose digits of every weight.
    out_BSHK = checkpoint_name(out_BGRSK.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K), "attention")
    softmax = checkpoint_name((max_BGRS1, sums_BGRS1), "attention")
    return out_BSHK, (q_BSHK, k_BTGK, v_BTGK, segments, index_S, out_BSHK, *softmax)


def _backward(block: int, residuals: Any, d_out_BSHK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    q_BSHK, k_BTGK, v_BTGK, segments, index_S, out_BSHK, max_BGRS1, sums_BGRS1 = residuals
    B, S, H, K = q_BSHK.shape
    T, G = k_BTGK.shape[1:3]
    dtype = v_BTGK.dtype
    q_BGRSK, k_BGTK, v_BGTK = _heads_first(q_BSHK, G), _heads_first(k_BTGK), _heads_first(v_BTGK)
    q_BGRSK = q_BGRSK * K**-0.5
    d_out_BGRSK = _heads_first(d_out_BSHK, G)
    # the sum over keys of weight x gradient of the weight equals the output times its gradient
    inner_BSH = jnp.sum(out_BSHK.astype(jnp.float32) * d_out_BSHK.astype(jnp.float32), axis=-1)
    inner_BGRS = inner_BSH.transpose(0, 2, 1).reshape(B, G, H // G, S)

    d_q_BGKRS = jnp.zeros((B, G, K, H // G, S), jnp.float32)
    d_keys, d_values = [], []
    for start in range(0, T, block):
        stop = min(start + block, T)
        first = start if index_S is None else 0
        keys, queries = slice(start, stop), slice(first, S)
        k, v = k_BGTK[:, :, keys], v_BGTK[:, :, keys]
        # In the scores the keys are the first dim, so that three of the five products need no transposition. The
        # gradient of the queries needs one, of its smaller operand. The softmax has a dim for the heads of a group: XLA
        # does not vectorize a loop in which the mask repeats within a dim.
        q = q_BGRSK[:, :, :, first:].reshape(B, G, -1, K)
        d_out = d_out_BGRSK[:, :, :, first:].reshape(B, G, -1, K)
        by_head = B, G, stop - start, H // G, S - first
        scores = _product("bgtk,bgqk->bgtq", k, q).reshape(by_head)
        visible = _visible(segments, index_S, queries, keys).swapaxes(1, 2)[:, None, :, None]
        max_scores, sums = (x[:, :, None, :, first:, 0] for x in (max_BGRS1, sums_BGRS1))
        weights = jnp.exp(jnp.where(visible, scores, MASKED) - max_scores) * (1 / sums)
        d_weights = _product("bgtk,bgqk->bgtq", v, d_out).reshape(by_head)
        d_scores = (weights * (d_weights - inner_BGRS[:, :, None, :, first:])).astype(dtype)
        weights, d_scores = (x.reshape(B, G, stop - start, -1) for x in (weights, d_scores))
        d_values.append(_product("bgtq,bgqk->bgtk", weights.astype(dtype), d_out).astype(dtype))
        d_keys.append(_product("bgtq,bgqk->bgtk", d_scores, q).astype(dtype))
        d_q = _product("bgkt,bgtq->bgkq", row_major(k.swapaxes(2, 3)), d_scores)
        d_q_BGKRS = d_q_BGKRS.at[..., first:].add(d_q.reshape(B, G, K, H // G, -1))

    d_q_BSHK = (d_q_BGKRS * K**-0.5).astype(q_BSHK.dtype).transpose(0, 4, 1, 3, 2).reshape(B, S, H, K)
    d_k_BTGK, d_v_BTGK = (jnp.concatenate(arrays, axis=2).transpose(0, 2, 1, 3) for arrays in (d_keys, d_values))
    return d_q_BSHK, d_k_BTGK, d_v_BTGK, None, None


attention.defvjp(_forward, _backward)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _heads_first(x_BSHK: jax.Array, groups: int | None = None) -> jax.Array:
    """Transposes to [B, H, S, K], the layout of batched matrix products; with groups to [B, G, H / G, S, K]."""
    B, S, H, K = x_BSHK.shape
    x_BHSK = x_BSHK.transpose(0, 2, 1, 3)
    return row_major(x_BHSK if groups is None else x_BHSK.reshape(B, groups, H // groups, S, K))


def _visible(segments: Segments, index_S: jax.Array | None, queries: slice, keys: slice) -> jax.Array:
    """The mask of these queries and keys, [1 or B, queries, keys]."""
    index = jnp.arange(queries.start, queries.stop) if index_S is None else index_S[queries]
    visible = (index[:, None] >= jnp.arange(keys.start, keys.stop)[None, :])[None]
    if segments is None:
        return visible
    return visible & (segments[0][:, queries, None] == segments[1][:, None, keys])


def self_attention(
    q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None, block: int
) -> jax.Array:
    """`attention` with queries, keys and values of the same complete sequence."""
    segments = None if segments_BS is None else (segments_BS, segments_BS)
    return attention(q_BSHK, k_BSGK, v_BSGK, segments, None, block)
