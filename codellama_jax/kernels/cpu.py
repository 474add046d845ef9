"""Matrix products in the forms for which XLA has fast kernels on a CPU.

XLA hands a product to its CPU library as it is only where both operands lie row by row, the dim that is summed over is
the left one's last, and the result is float32. Every other product of bfloat16 is first turned into one of float32,
operands and all, at half the speed or less; and a transposed left operand is slow in float32 too. JAX's own gradient of
a product has both: results in bfloat16, and for the gradient of the weights a transposed left operand.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint


def rows(x: jax.Array) -> jax.Array:
    """x; on a CPU laid out row by row, so that a transposition before it happens in memory and not in a product."""
    return jax.lax.platform_dependent(
        x, cpu=lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), default=lambda x: x
    )


def computed_once(x: jax.Array) -> jax.Array:
    """x, float32 and finite; on a CPU behind a product with 1, which ends a fusion (a barrier does not): else XLA
    computes it anew wherever it is used."""

    def product(x: jax.Array) -> jax.Array:
        return jnp.einsum("...k,kl->...l", x, jnp.eye(x.shape[-1]), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast_rows(row_D: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The row [D] repeated to a shape [..., D]. On a CPU its gradient sums over the rows by a product with ones: XLA's
    own reduction over leading dims takes ten times as long."""
    return jnp.broadcast_to(row_D, shape)


def _broadcast_rows(row_D: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, None]:
    return broadcast_rows(row_D, shape), None


def _broadcast_rows_backward(shape: tuple[int, ...], _: None, of_rows: jax.Array) -> tuple[jax.Array]:
    def product(of_rows: jax.Array) -> jax.Array:
        of_rows_TD = of_rows.reshape(-1, shape[-1])
        ones_T = jnp.ones(len(of_rows_TD), of_rows.dtype)
        return jnp.einsum("t,td->d", ones_T, of_rows_TD, preferred_element_type=jnp.float32).astype(of_rows.dtype)

    def reduction(of_rows: jax.Array) -> jax.Array:
        return jnp.sum(of_rows, axis=range(len(shape) - 1))

    return (jax.lax.platform_dependent(of_rows, cpu=product, default=reduction),)


broadcast_rows.defvjp(_broadcast_rows, _broadcast_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """jnp.einsum on one CPU device, where the last dims of x are summed over with the first ones of the weight."""
    return _einsum(equation, x, weight)[0]


def _einsum(equation: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    summed = _summed(equation)
    x_TD, weight_DF = _matrices(x, weight, summed)
    out_TF = jnp.einsum("td,df->tf", x_TD, weight_DF, preferred_element_type=jnp.float32)
    shape = x.shape[: x.ndim - summed] + weight.shape[summed:]
    return out_TF.astype(x.dtype).reshape(shape), (x, weight)


def _einsum_backward(
    equation: str, kept: tuple[jax.Array, jax.Array], of_out: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = kept
    x_TD, weight_DF = _matrices(x, weight, _summed(equation))
    of_out_TF = of_out.reshape(x_TD.shape[0], weight_DF.shape[1])
    of_x_TD = jnp.einsum("tf,df->td", of_out_TF, weight_DF, preferred_element_type=jnp.float32)
    of_weight_DF = jnp.einsum("dt,tf->df", rows(x_TD.T), of_out_TF, preferred_element_type=jnp.float32)
    return of_x_TD.astype(x.dtype).reshape(x.shape), of_weight_DF.astype(weight.dtype).reshape(weight.shape)


einsum.defvjp(_einsum, _einsum_backward)


def _summed(equation: str) -> int:
    """How many dims are summed over."""
    x, weight = equation.split("->")[0].split(",")
    summed = sum(dim in weight for dim in x)
    if x[len(x) - summed :] != weight[:summed]:
        raise ValueError(f"{equation}: the last dims of the one must be the first dims of the other")
    return summed


def _matrices(x: jax.Array, weight: jax.Array, summed: int) -> tuple[jax.Array, jax.Array]:
    """Both as matrices, [T, D] and [D, F]."""
    D = 1
    for size in weight.shape[:summed]:
        D *= size
    return x.reshape(-1, D), weight.reshape(D, -1)
