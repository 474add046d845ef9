"""Rotary position embedding with a configurable base and position interpolation.

The half-split form of Hugging Face checkpoints: channel i of a head is rotated with channel i + K/2. Meta's checkpoints
rotate adjacent pairs instead; conversion permutes the projections of q and k.
"""

import jax
import jax.numpy as jnp


def frequencies(head_dim: int, theta: float) -> jax.Array:
    """theta_i = theta^(-2i/K) for i in 0 .. K/2 - 1, float32 [K/2] (arXiv 2308.12950, section 2.4)."""
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    return theta**-exponents


def tables(positions_BS: jax.Array, head_dim: int, theta: float, scale: float) -> tuple[jax.Array, jax.Array]:
    """Computes cosine and sine of the angles of every position, float32 [B, S, K/2].

    float32 throughout: bfloat16 has 8 bits of mantissa, so adjacent positions above 256 would be equal.

    Args:
        positions_BS: integers, 0 for the first token.
        head_dim: K.
        theta: base of the frequencies.
        scale: factor by which positions are multiplied; 1/4 interpolates sequences of four times the trained length
            into the trained range.
    """
    positions_BS1 = positions_BS.astype(jnp.float32)[:, :, None] * scale
    angles = positions_BS1 * frequencies(head_dim, theta)[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BSHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates every head by the angles of its position, in float32, and casts the result to x's dtype."""
    first, second = jnp.split(x_BSHK.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]  # the same for every head
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BSHK.dtype)
