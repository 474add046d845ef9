"""Rounding to bfloat16 on a CPU, in a form that XLA compiles to fast code.

XLA expands a cast from float32 to bfloat16 into integer operations with a test for NaN, and then evaluates the fusion
that computes the float32 several times, without vector instructions where it has an exponential: a cast takes three
times as long as all before it.

In the loss, this form makes a step of 15M parameters in bfloat16 a tenth faster. After products and in attention it
does not help, and in the activation of the feed-forward layer it costs more than it saves.
"""

from typing import Any

import jax
import jax.numpy as jnp

_MAGNITUDE, _SIGN = 0x7FFF_FFFF, 0x8000_0000
_NAN = 0x7FC0_0000


def rounded(x: jax.Array, dtype: Any) -> jax.Array:
    """x, which is float32, cast to a float dtype: the nearest value, and of two nearest ones the even one.

    It has no gradient: use it inside functions with their own.
    """
    if dtype != jnp.bfloat16:
        return x.astype(dtype)
    return jax.lax.platform_dependent(x, cpu=_to_bfloat16, default=lambda x: x.astype(dtype))


def _to_bfloat16(x: jax.Array) -> jax.Array:
    bits = x.view(jnp.uint32)
    # without the limit, the addition would carry the bits of some NaNs into the sign
    magnitude = jnp.minimum(bits & jnp.uint32(_MAGNITUDE), jnp.uint32(_NAN))
    nearest = magnitude + jnp.uint32(0x7FFF) + ((magnitude >> 16) & jnp.uint32(1))
    upper = (nearest | (bits & jnp.uint32(_SIGN))) >> 16
    return upper.astype(jnp.uint16).view(jnp.bfloat16)
