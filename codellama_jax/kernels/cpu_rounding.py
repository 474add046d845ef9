"""Rounding to bfloat16 on a CPU, in a form that XLA compiles to fast code.

XLA expands a cast from float32 to bfloat16 into integer operations with a test for NaN, and then evaluates the fusion
that computes the float32 several times, without vector instructions where it has an exponential: a cast takes three
times as long as all before it. Arithmetic in bfloat16 has such a cast after every operation.
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


@jax.custom_vjp
def swiglu(gate: jax.Array, up: jax.Array) -> jax.Array:
    """silu(gate) * up, computed in float32 and rounded once, to the dtype of gate. So are the gradients."""
    return _swiglu_forward(gate, up)[0]


def _swiglu_forward(gate: jax.Array, up: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    gate32, up32 = gate.astype(jnp.float32), up.astype(jnp.float32)
    return rounded(gate32 * jax.nn.sigmoid(gate32) * up32, gate.dtype), (gate, up)


def _swiglu_backward(residuals: tuple[jax.Array, jax.Array], d_out: jax.Array) -> tuple[jax.Array, jax.Array]:
    gate, up, d_out32 = (x.astype(jnp.float32) for x in (*residuals, d_out))
    sigmoid = jax.nn.sigmoid(gate)
    silu = gate * sigmoid
    d_gate = d_out32 * up * (sigmoid + silu * (1 - sigmoid))
    return rounded(d_gate, residuals[0].dtype), rounded(d_out32 * silu, residuals[1].dtype)


swiglu.defvjp(_swiglu_forward, _swiglu_backward)
