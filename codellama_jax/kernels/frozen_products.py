"""Products of activations and weights that are not trained.

The gradient of such a product needs no activations, and none is computed for the weight. Weights are stored as they
came: the conversion to the dtype of the activations is repeated in the backward pass, because a saved copy of all
converted weights would take more memory than the weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from codellama_jax.kernels.quantized_products import quantize

# multiply(equation, x, weight) -> the result of jnp.einsum
Multiply = Callable[[str, jax.Array, jax.Array], jax.Array]


class Int8Weight(NamedTuple):
    """A weight in 8 bits.

    Attributes:
        values: int8, in the shape of the weight.
        scale: float32, with size 1 in the input dims: the weight is about values * scale.
    """

    values: jax.Array
    scale: jax.Array


def to_int8(weight: jax.Array, axes: tuple[int, ...]) -> Int8Weight:
    """A weight in 8 bits, with a scale for each index outside of `axes`, the input dims."""
    return Int8Weight(*quantize(weight, axes, "int8"))


def from_int8(weight: Int8Weight) -> jax.Array:
    """The float32 weight that the 8 bits stand for."""
    return weight.values.astype(jnp.float32) * weight.scale


def product(multiply: Multiply, equation: str, x: jax.Array, weight: jax.Array | Int8Weight) -> jax.Array:
    """multiply(equation, x, weight) for a frozen weight of any dtype, in the dtype of x.

    The input dims of the weight must be its first ones, and its output dims the last ones of the result. An int8 weight
    is multiplied without its scale, which is applied to the result: they commute, because it belongs to an output
    channel.
    """
    if isinstance(weight, Int8Weight):
        out = _frozen(multiply, equation, x, weight.values)
        channels = equation.split(",")[1].split("->")[0]
        outputs = sum(channel not in equation.split(",")[0] for channel in channels)
        shape = (1,) * (out.ndim - outputs) + weight.scale.shape[weight.scale.ndim - outputs :]
        return (out.astype(jnp.float32) * weight.scale.reshape(shape)).astype(x.dtype)
    return _frozen(multiply, equation, x, weight)


def _frozen(multiply: Multiply, equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    shape, dtype = x.shape, x.dtype

    @jax.custom_vjp
    def frozen(x: jax.Array, weight: jax.Array) -> jax.Array:
        return multiply(equation, x, weight.astype(dtype))

    def forward(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return frozen(x, weight), weight

    def backward(weight: jax.Array, d_out: jax.Array) -> tuple[jax.Array, None]:
        def of_input(x: jax.Array) -> jax.Array:
            return multiply(equation, x, weight.astype(dtype))

        # The gradient of a product for x does not depend on x: XLA removes the product with zeros.
        return jax.vjp(of_input, jnp.zeros(shape, dtype))[1](d_out)[0], None

    frozen.defvjp(forward, backward)
    return frozen(x, weight)
