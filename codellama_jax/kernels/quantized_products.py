"""Products of activations and weights in int8 or float8, for training.

The chips multiply int8 (v5e, v5p, v6e) or float8 (tpu7x) at twice the speed of bfloat16. Each row of the left operand
and each column of the right one, over the contracted dims, has its own scale: the largest magnitude becomes the largest
number of the dtype. Products for outputs and for gradients of activations are quantised. Gradients of weights are not:
their contracted dim is the tokens, which are spread over devices, and devices could only add them up in 32 bits, at
twice the communication.

Parameters, activations between products, normalisation, attention and the output head are not affected.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

DTYPES = {"int8": jnp.int8, "float8": jnp.float8_e4m3fn}
_LARGEST = {"int8": 127.0, "float8": 448.0}  # with int8's symmetric range


def quantize(x: jax.Array, axes: tuple[int, ...], dtype: str) -> tuple[jax.Array, jax.Array]:
    """Rounds x to the nearest numbers of `dtype` times a scale for each index outside of `axes`.

    Args:
        x: any float dtype.
        axes: dims that share a scale.
        dtype: a key of DTYPES.

    Returns:
        The numbers, and the scales, float32, with size 1 in `axes`: x is about their product. The scale of zeros is 1.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True)
    scale = jnp.where(largest > 0, largest / _LARGEST[dtype], 1.0)
    scaled = x / scale
    return (jnp.round(scaled) if dtype == "int8" else scaled).astype(DTYPES[dtype]), scale


def make_einsum(
    dtype: str, multiply: Callable[[str, jax.Array, jax.Array], jax.Array], native: bool
) -> Callable[[str, jax.Array, jax.Array], jax.Array]:
    """Makes an einsum of an activation and a weight with quantised operands; its result has the activation's dtype.

    Args:
        dtype: a key of DTYPES.
        multiply: the einsum that it replaces; computes the gradient of the weight.
        native: multiply in `dtype` itself, as TPUs can. If not, the same numbers are multiplied in float32, whose sums
            are exact up to its rounding.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
        return forward(equation, x, weight)[0]

    def forward(equation: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return quantized(equation, x, weight), (x, weight)

    def backward(
        equation: str, residuals: tuple[jax.Array, jax.Array], d_out: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        x, weight = residuals
        left, right, out = _labels(equation)
        d_x = quantized(f"{out},{right}->{left}", d_out, weight)
        (d_weight,) = jax.vjp(lambda weight: multiply(equation, x, weight), weight)[1](d_out)
        return d_x, d_weight

    def quantized(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        left, right, out = _labels(equation)
        contracted = (set(left) & set(right)) - set(out)
        a8, a_scale = quantize(a, tuple(i for i, label in enumerate(left) if label in contracted), dtype)
        b8, b_scale = quantize(b, tuple(i for i, label in enumerate(right) if label in contracted), dtype)
        if native:
            total_type = jnp.int32 if dtype == "int8" else jnp.float32
            total = jnp.einsum(equation, a8, b8, preferred_element_type=total_type)
        else:
            total = jnp.einsum(equation, a8.astype(jnp.float32), b8.astype(jnp.float32))
        scales = _placed(a_scale, left, out) * _placed(b_scale, right, out)
        return (total.astype(jnp.float32) * scales).astype(a.dtype)

    einsum.defvjp(forward, backward)
    return einsum


def _labels(equation: str) -> tuple[str, str, str]:
    operands, out = equation.split("->")
    left, right = operands.split(",")
    return left, right, out


def _placed(scale: jax.Array, labels: str, out: str) -> jax.Array:
    """A scale with the dims `labels`, of which those that are not in `out` have size 1, with the dims `out`."""
    kept = [label for label in out if label in labels]
    sizes = dict(zip(labels, scale.shape, strict=True))
    order = [labels.index(label) for label in kept] + [i for i, label in enumerate(labels) if label not in out]
    return scale.transpose(order).reshape([sizes[label] if label in kept else 1 for label in out])
