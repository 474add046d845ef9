"""Keys and values as 8-bit integers.

Each channel of each head has a scale, which is a function of the weights alone, as the tokens of a request must be: it
is taken from the keys and values of a fixed text (calibration.py). Queries are multiplied by the scales of the keys,
and the output of attention by those of the values, so attention itself reads only the integers. Scales have the shape
of the keys and values of one token in the cache, [1, 1, 2G, K].
"""

import jax
import jax.numpy as jnp

MARGIN = 1.5  # other texts may have larger values; those above are cut off
_LARGEST = 127


def scales(pages: jax.Array) -> jax.Array:
    """The scales of a layer whose cache [P, page, 2G, K] holds the text.

    Rotation mixes the channels i and i + K/2 of a key, so the scale of both covers the length of the pair.
    """
    pages = pages.astype(jnp.float32)
    keys, values = pages[:, :, 0::2], pages[:, :, 1::2]
    first, second = jnp.split(keys, 2, axis=-1)
    pairs = jnp.sqrt(jnp.square(first) + jnp.square(second))
    largest = jnp.stack([jnp.concatenate([pairs, pairs], axis=-1), jnp.abs(values)], axis=3)
    largest = jnp.max(largest, axis=(0, 1), keepdims=True).reshape(1, 1, *pages.shape[2:])
    return jnp.maximum(largest * (MARGIN / _LARGEST), 1e-20)


def quantized(q_SCHK: jax.Array, kv: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Queries for the integers, and keys and values [S, C, 2G, K] as integers."""
    integers = jnp.clip(jnp.round(kv.astype(jnp.float32) / scale), -_LARGEST, _LARGEST).astype(jnp.int8)
    return _times(q_SCHK, scale[:, :, 0::2]), integers


def restored(attended_SCHK: jax.Array, scale: jax.Array) -> jax.Array:
    """The output of attention to the values, from that to their integers."""
    return _times(attended_SCHK, scale[:, :, 1::2])


def _times(x_SCHK: jax.Array, scale: jax.Array) -> jax.Array:
    shared = x_SCHK.shape[2] // scale.shape[2]
    return (x_SCHK.astype(jnp.float32) * jnp.repeat(scale, shared, axis=2)).astype(x_SCHK.dtype)
