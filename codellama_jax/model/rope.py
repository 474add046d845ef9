"""Rotary position embedding with a configurable base and position interpolation.

The half-split form of Hugging Face checkpoints: channel i of a head is rotated with channel i + K/2. Meta's checkpoints
rotate adjacent pairs instead; conversion permutes the projections of q and k.
"""

import jax
import jax.numpy as jnp
import numpy as np


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


@jax.custom_vjp
def rotate_by_product(x_BSHK: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """`rotate` in another form for TPUs, equal bit for bit, and so is its gradient with respect to x; cos and sin are
    constants.

    Halves of 64 channels would fill half of a TPU's registers. Here the halves are exchanged by a product with a
    permutation of the channels, which is exact in bfloat16. float32 is rotated by `rotate`: TPUs round its products.
    """
    return _rotate_by_product(x_BSHK, cos, sin, 1.0)


def _rotate_by_product(x_BSHK: jax.Array, cos: jax.Array, sin: jax.Array, direction: float) -> jax.Array:
    """Rotates by the angles, or with direction -1 by their negatives."""
    if x_BSHK.dtype == jnp.float32:
        return rotate(x_BSHK, cos, direction * sin)
    half = x_BSHK.shape[-1] // 2
    swap_KK = np.zeros((2 * half, 2 * half), np.float32)
    swap_KK[half:, :half], swap_KK[:half, half:] = -np.eye(half), np.eye(half)
    swapped = jnp.einsum(
        "bshk,kl->bshl", x_BSHK, jnp.asarray(direction * swap_KK, x_BSHK.dtype), preferred_element_type=jnp.float32
    )
    cos, sin = (jnp.concatenate([table, table], axis=-1)[:, :, None, :] for table in (cos, sin))
    return (x_BSHK.astype(jnp.float32) * cos + swapped * sin).astype(x_BSHK.dtype)


def _forward(x_BSHK: jax.Array, cos: jax.Array, sin: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return rotate_by_product(x_BSHK, cos, sin), (cos, sin)


def _backward(tables: tuple[jax.Array, jax.Array], d_BSHK: jax.Array) -> tuple[jax.Array, None, None]:
    return _rotate_by_product(d_BSHK, *tables, -1.0), None, None  # the transpose of a rotation is its inverse


rotate_by_product.defvjp(_forward, _backward)
