"""Causal grouped-query attention in memory linear in the sequence length."""

import jax
import jax.numpy as jnp

# A finite stand-in for minus infinity: a row in which everything is masked stays finite.
MASKED = -1e30


def attention(
    q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None, block: int
) -> jax.Array:
    """Softmax attention of each token over itself and those before it in its segment.

    Queries are taken `block` at a time, each block only against the keys up to its own end, so the upper half of the
    square is never computed. The backward pass recomputes a block's scores instead of keeping them: what exists at once
    is [B, H, block, S].

    Args:
        q_BSHK: queries; H is a multiple of G and heads h*H/G .. (h+1)*H/G - 1 share key-value head h.
        k_BSGK, v_BSGK: keys and values.
        segments_BS: tokens attend only within equal ids; None lets them attend over the whole row.
        block: queries at a time.

    Returns:
        [B, S, H, K] in v's dtype. Scores and softmax are float32.
    """
    B, S, H, K = q_BSHK.shape
    G = k_BSGK.shape[2]
    # Heads outermost: plain batched matrix products, the layout that CPUs and TPUs both like.
    q_BGRSK = (q_BSHK * K**-0.5).reshape(B, S, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BGTK = k_BSGK.transpose(0, 2, 1, 3)
    v_BGTK = v_BSGK.transpose(0, 2, 1, 3)

    def one_block(start: int) -> jax.Array:
        end = min(start + block, S)

        @jax.checkpoint
        def attend(q, k, v, segments):
            scores = jnp.einsum("bgrsk,bgtk->bgrst", q, k, preferred_element_type=jnp.float32)
            visible = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
            if segments is not None:
                same = segments[:, start:end, None] == segments[:, None, :end]
                visible = (visible[None] & same)[:, None, None]
            else:
                visible = visible[None, None, None]
            weights = jax.nn.softmax(jnp.where(visible, scores, MASKED), axis=-1).astype(v.dtype)
            return jnp.einsum("bgrst,bgtk->bgrsk", weights, v)

        return attend(q_BGRSK[:, :, :, start:end], k_BGTK[:, :, :end], v_BGTK[:, :, :end], segments_BS)

    out_BGRSK = jnp.concatenate([one_block(start) for start in range(0, S, block)], axis=3)
    return out_BGRSK.transpose(0, 3, 1, 2, 4).reshape(B, S, H, K)
