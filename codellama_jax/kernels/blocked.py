"""Attention anywhere: plain JAX, queries a block at a time."""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# A finite stand-in for minus infinity: a row in which everything is masked stays finite.
MASKED = -1e30


def attention(
    q_BSHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    index_S: jax.Array | None,
    block: int,
) -> jax.Array:
    """Softmax attention of each token over itself and those before it in its segment.

    Queries are taken `block` at a time; where they are the whole sequence in its order, each block only against the
    keys up to its own end, so the upper half of the square is never computed. The backward pass recomputes a block's
    scores instead of keeping them: what exists at once is [B, H, block, T].

    Args:
        q_BSHK: queries; H is a multiple of G and heads h*H/G .. (h+1)*H/G - 1 share key-value head h.
        k_BTGK, v_BTGK: keys and values of the whole sequence.
        segments: ids of queries [B, S] and keys [B, T]: tokens attend only within equal ones; None: over all.
        index_S: which tokens of the sequence the queries are; None: they are all of it.
        block: queries at a time.

    Returns:
        [B, S, H, K] in v's dtype. Scores and softmax are float32.
    """
    B, S, H, K = q_BSHK.shape
    T, G = k_BTGK.shape[1:3]
    # Heads outermost: plain batched matrix products, the layout that CPUs and TPUs both like.
    q_BGRSK = (q_BSHK * K**-0.5).reshape(B, S, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BGTK = k_BTGK.transpose(0, 2, 1, 3)
    v_BGTK = v_BTGK.transpose(0, 2, 1, 3)

    def one_block(start: int) -> jax.Array:
        stop = min(start + block, S)
        end = stop if index_S is None else T

        @jax.checkpoint
        def attend(q, k, v, index, segments):
            scores = jnp.einsum("bgrsk,bgtk->bgrst", q, k, preferred_element_type=jnp.float32)
            visible = (index[:, None] >= jnp.arange(end)[None, :])[None]
            if segments is not None:
                visible = visible & (segments[0][:, :, None] == segments[1][:, None, :])
            weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, MASKED), axis=-1).astype(v.dtype)
            return jnp.einsum("bgrst,bgtk->bgrsk", weights, v)

        index = jnp.arange(start, stop) if index_S is None else index_S[start:stop]
        ids = None if segments is None else (segments[0][:, start:stop], segments[1][:, :end])
        return attend(q_BGRSK[:, :, :, start:stop], k_BGTK[:, :, :end], v_BGTK[:, :, :end], index, ids)

    out_BGRSK = jnp.concatenate([one_block(start) for start in range(0, S, block)], axis=3)
    return checkpoint_name(out_BGRSK.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K), "attention")


def whole(
    q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None, block: int
) -> jax.Array:
    """`attention` over a whole sequence."""
    segments = None if segments_BS is None else (segments_BS, segments_BS)
    return attention(q_BSHK, k_BSGK, v_BSGK, segments, None, block)
