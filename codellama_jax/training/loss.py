"""Cross-entropy of next tokens without the [batch, length, vocabulary] array."""

import jax
import jax.numpy as jnp


def token_losses(x_BSD: jax.Array, head_DV: jax.Array, targets_BS: jax.Array, chunk: int) -> jax.Array:
    """Negative log-likelihood of each target in nats, float32 [B, S].

    Logits exist for `chunk` tokens of every sequence at a time, in float32, and again for each chunk in the backward
    pass, which recomputes them.

    Args:
        x_BSD: hidden states after the final norm.
        head_DV: output head, any float dtype; cast to x's.
        targets_BS: ids.
        chunk: tokens of a sequence at a time; the largest divisor of S that is no larger is used.
    """
    B, S, D = x_BSD.shape
    chunk = next(size for size in range(min(chunk, S), 0, -1) if S % size == 0)

    @jax.checkpoint
    def one_chunk(x_BCD: jax.Array, targets_BC: jax.Array) -> jax.Array:
        # cast here, not outside: the gradient of the head sums over chunks, which must happen in float32
        head = head_DV.astype(x_BCD.dtype)
        logits_BCV = jnp.einsum("bcd,dv->bcv", x_BCD, head, preferred_element_type=jnp.float32)
        picked_BC = jnp.take_along_axis(logits_BCV, targets_BC[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits_BCV, axis=-1) - picked_BC

    if chunk == S:
        return one_chunk(x_BSD, targets_BS)
    # A chunk takes every (S / chunk)-th token, so that the devices of a mesh, each with its part of batch and sequence,
    # have their share of every chunk.
    xs = x_BSD.reshape(B, chunk, S // chunk, D).transpose(2, 0, 1, 3)
    targets = targets_BS.reshape(B, chunk, S // chunk).transpose(2, 0, 1)
    _, losses = jax.lax.scan(lambda carry, xt: (carry, one_chunk(*xt)), None, (xs, targets))
    return losses.transpose(1, 2, 0).reshape(B, S)
