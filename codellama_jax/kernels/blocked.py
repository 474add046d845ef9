"""Attention anywhere: plain JAX, a block at a time, with a gradient of its own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from codellama_jax.kernels.cpu import rows

# A finite stand-in for minus infinity: a row in which everything is masked stays finite.
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
    """Softmax attention of each token over itself and those before it in its segment.

    Forwards queries are taken `block` at a time, backwards keys; where the queries are the whole sequence in its order,
    a block only meets the keys up to its own end, or the queries from its own start, so half of the square is never
    computed. The backward pass computes a block's scores again instead of keeping them: what exists at once is
    [B, H, block, T].

    Args:
        q_BSHK: queries; H is a multiple of G and heads h*H/G .. (h+1)*H/G - 1 share key-value head h.
        k_BTGK, v_BTGK: keys and values of the whole sequence.
        segments: ids of queries [B, S] and keys [B, T]: tokens attend only within equal ones; None: over all.
        index_S: which tokens of the sequence the queries are; None: they are all of it.
        block: queries, or keys, at a time.

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
        scores = jnp.where(_visible(segments, index_S, slice(start, stop), slice(0, end), H // G), scores, MASKED)
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        sums = jnp.sum(weights, axis=-1, keepdims=True)
        out = _product("bgqt,bgtk->bgqk", weights.astype(v_BGTK.dtype), v_BGTK[:, :, :end]) / sums
        shape = B, G, H // G, stop - start, -1
        return out.astype(v_BGTK.dtype).reshape(shape), largest.reshape(shape), sums.reshape(shape)

    blocks = [one_block(start) for start in range(0, S, block)]
    out_BGRSK, largest_BGRS1, sums_BGRS1 = (jnp.concatenate(parts, axis=3) for parts in zip(*blocks, strict=True))
    # What a policy for rematerialisation calls attention: with these the backward pass needs no forward one. The two of
    # softmax are kept apart: as one logarithm they would cost digits of every weight.
    out_BSHK = checkpoint_name(out_BGRSK.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K), "attention")
    softmax = checkpoint_name((largest_BGRS1, sums_BGRS1), "attention")
    return out_BSHK, (q_BSHK, k_BTGK, v_BTGK, segments, index_S, out_BSHK, *softmax)


def _backward(block: int, kept: Any, of_out_BSHK: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    q_BSHK, k_BTGK, v_BTGK, segments, index_S, out_BSHK, largest_BGRS1, sums_BGRS1 = kept
    B, S, H, K = q_BSHK.shape
    T, G = k_BTGK.shape[1:3]
    dtype = v_BTGK.dtype
    q_BGRSK, k_BGTK, v_BGTK = _heads_first(q_BSHK, G), _heads_first(k_BTGK), _heads_first(v_BTGK)
    q_BGRSK = q_BGRSK * K**-0.5
    of_out_BGRSK = _heads_first(of_out_BSHK, G)
    # sum over keys of (weight x its gradient), which is the output times its gradient
    inner_BSH = jnp.sum(out_BSHK.astype(jnp.float32) * of_out_BSHK.astype(jnp.float32), axis=-1)
    inner_BGRS = inner_BSH.transpose(0, 2, 1).reshape(B, G, H // G, S)

    of_q_BGKRS = jnp.zeros((B, G, K, H // G, S), jnp.float32)
    of_keys, of_values = [], []
    for start in range(0, T, block):
        stop = min(start + block, T)
        first = start if index_S is None else 0
        keys, queries = slice(start, stop), slice(first, S)
        k, v = k_BGTK[:, :, keys], v_BGTK[:, :, keys]
        # Scores with the keys first: three of the five products then have nothing to transpose, and what is left is
        # the gradient of the queries, whose small operand is the one that is turned.
        q = q_BGRSK[:, :, :, first:].reshape(B, G, -1, K)
        of_out = of_out_BGRSK[:, :, :, first:].reshape(B, G, -1, K)
        scores = _product("bgtk,bgqk->bgtq", k, q)
        visible = _visible(segments, index_S, queries, keys, H // G).swapaxes(2, 3)
        largest, sums = (x[:, :, :, first:].reshape(B, G, 1, -1) for x in (largest_BGRS1, sums_BGRS1))
        weights = jnp.exp(jnp.where(visible, scores, MASKED) - largest) * (1 / sums)
        of_weights = _product("bgtk,bgqk->bgtq", v, of_out)
        of_scores = (weights * (of_weights - inner_BGRS[..., first:].reshape(B, G, 1, -1))).astype(dtype)
        of_values.append(_product("bgtq,bgqk->bgtk", weights.astype(dtype), of_out).astype(dtype))
        of_keys.append(_product("bgtq,bgqk->bgtk", of_scores, q).astype(dtype))
        of_q = _product("bgkt,bgtq->bgkq", rows(k.swapaxes(2, 3)), of_scores)
        of_q_BGKRS = of_q_BGKRS.at[..., first:].add(of_q.reshape(B, G, K, H // G, -1))

    of_q_BSHK = (of_q_BGKRS * K**-0.5).astype(q_BSHK.dtype).transpose(0, 4, 1, 3, 2).reshape(B, S, H, K)
    of_k_BTGK, of_v_BTGK = (jnp.concatenate(parts, axis=2).transpose(0, 2, 1, 3) for parts in (of_keys, of_values))
    return of_q_BSHK, of_k_BTGK, of_v_BTGK, None, None


attention.defvjp(_forward, _backward)


def _product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _heads_first(x_BSHK: jax.Array, groups: int | None = None) -> jax.Array:
    """[B, H, S, K], the layout of plain batched matrix products; with groups [B, G, H / G, S, K]."""
    B, S, H, K = x_BSHK.shape
    x_BHSK = x_BSHK.transpose(0, 2, 1, 3)
    return rows(x_BHSK if groups is None else x_BHSK.reshape(B, groups, H // groups, S, K))


def _visible(segments: Segments, index_S: jax.Array | None, queries: slice, keys: slice, times: int) -> jax.Array:
    """Which of the keys these queries see, [1 or B, 1, times x queries, keys]: once for each head of a group."""
    index = jnp.arange(queries.start, queries.stop) if index_S is None else index_S[queries]
    visible = (index[:, None] >= jnp.arange(keys.start, keys.stop)[None, :])[None]
    if segments is not None:
        visible = visible & (segments[0][:, queries, None] == segments[1][:, None, keys])
    return jnp.tile(visible, (1, times, 1))[:, None]


def whole(
    q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None, block: int
) -> jax.Array:
    """`attention` over a whole sequence."""
    segments = None if segments_BS is None else (segments_BS, segments_BS)
    return attention(q_BSHK, k_BSGK, v_BSGK, segments, None, block)
