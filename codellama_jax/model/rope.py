"""Rotary position embedding with a configurable base, position interpolation and scaled frequencies.

The half-split form of Hugging Face checkpoints: channel i of a head is rotated with channel i + K/2. Meta's checkpoints
rotate adjacent pairs instead; conversion permutes the projections of q and k.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from codellama_jax.config.model import Llama


def frequencies(llama: Llama) -> tuple[jax.Array, float]:
    """The frequency of each pair of channels, and the factor on the cosines and sines of a model's settings.

    theta_i = theta^(-2i/K) for i in 0 .. K/2 - 1 (arXiv 2308.12950, section 2.4), as changed by Llama.rope_type. Those
    of "dynamic" are unchanged up to its original positions; longer windows are refused (config.rope.check_length).

    Returns:
        float32 [K/2], and the factor, which is 1 except for "yarn".
    """
    exponents = jnp.arange(0, llama.head_dim, 2, dtype=jnp.float32) / llama.head_dim
    plain = llama.rope_theta**-exponents
    if llama.rope_type == "llama3":
        return _llama3(plain, llama), 1.0
    if llama.rope_type == "yarn":
        return _yarn(plain, llama), _yarn_attention_factor(llama)
    return plain, 1.0


def _llama3(plain: jax.Array, llama: Llama) -> jax.Array:
    """Llama 3.1's: low frequencies are divided by the factor, high ones are kept, those between are interpolated."""
    low, high = llama.rope_low_freq_factor, llama.rope_high_freq_factor
    periods = plain * (llama.rope_original_positions / (2 * math.pi))
    share = jnp.clip((periods - low) / (high - low), 0.0, 1.0)
    return plain / llama.rope_factor * (1 - share) + plain * share


def _yarn(plain: jax.Array, llama: Llama) -> jax.Array:
    """YaRN's (arXiv 2309.00071): like llama3's, but interpolated along the channels."""

    def channel(periods: float) -> float:
        """Where a channel has this number of periods in the original positions."""
        wavelength = llama.rope_original_positions / (periods * 2 * math.pi)
        return llama.head_dim * math.log(wavelength) / (2 * math.log(llama.rope_theta))

    first, last = channel(llama.rope_beta_fast), channel(llama.rope_beta_slow)
    if llama.rope_truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, llama.head_dim - 1)
    if first == last:
        last += 0.001  # as transformers does
    share = jnp.clip((jnp.arange(len(plain), dtype=jnp.float32) - first) / (last - first), 0.0, 1.0)
    return plain / llama.rope_factor * share + plain * (1 - share)


def _yarn_attention_factor(llama: Llama) -> float:
    def grown(scale: float) -> float:
        return 0.1 * scale * math.log(llama.rope_factor) + 1.0

    if llama.rope_attention_factor:
        return llama.rope_attention_factor
    if llama.rope_mscale and llama.rope_mscale_all_dim:
        return grown(llama.rope_mscale) / grown(llama.rope_mscale_all_dim)
    return grown(1.0)


def tables(positions_BS: jax.Array, llama: Llama) -> tuple[jax.Array, jax.Array]:
    """Computes cosine and sine of the angles of every position, float32 [B, S, K/2].

    float32 throughout: bfloat16 has 8 bits of mantissa, so adjacent positions above 256 would be equal.

    Args:
        positions_BS: integers, 0 for the first token.
        llama: the model, of which the rotary settings are used. Llama.rope_scale multiplies the positions; 1/4
            interpolates sequences of four times the trained length into the trained range.
    """
    positions_BS1 = positions_BS.astype(jnp.float32)[:, :, None] * llama.rope_scale
    frequencies_K, factor = frequencies(llama)
    angles = positions_BS1 * frequencies_K[None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if factor == 1 else (cos * factor, sin * factor)


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
    return _rotate_by_product(d_BSHK, *tables, -1.0), None, None  # of a rotation, times a factor


rotate_by_product.defvjp(_forward, _backward)
