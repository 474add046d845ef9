"""Matrix products in the forms for which XLA has fast kernels on a CPU.

XLA passes a product to its CPU library unchanged only if both operands are row-major, the contracted dim is the last
dim of the left operand, and the result is float32. Every other product of bfloat16 is first converted to float32,
operands included, at half the speed or less; a transposed left operand is slow in float32 too. JAX's own gradient of a
product has both problems: its results are bfloat16, and the gradient of the weights has a transposed left operand.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint


def row_major(x: jax.Array) -> jax.Array:
    """Returns x, on a CPU with row-major layout, so that a preceding transposition is written to memory instead of
    being fused into a product."""
    return jax.lax.platform_dependent(
        x, cpu=lambda x: with_layout_constraint(x, Layout(tuple(range(x.ndim)))), default=lambda x: x
    )


def materialize(x: jax.Array) -> jax.Array:
    """Returns x, which must be float32 and finite. On a CPU it is written to memory instead of being recomputed in
    every fusion that uses it: x is multiplied by the identity matrix, which ends a fusion (an optimization barrier does
    not).
    """

    def product(x: jax.Array) -> jax.Array:
        return jnp.einsum("...k,kl->...l", x, jnp.eye(x.shape[-1]), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(x, cpu=product, default=lambda x: x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def broadcast_rows(row_D: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Broadcasts a row [D] to a shape [..., D].

    On a CPU the gradient sums over the rows by a product with ones, because XLA's own reduction over leading dims takes
    ten times as long.
    """
    return jnp.broadcast_to(row_D, shape)


def _broadcast_rows_forward(row_D: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, None]:
    return broadcast_rows(row_D, shape), None


def _broadcast_rows_backward(shape: tuple[int, ...], _: None, d_rows: jax.Array) -> tuple[jax.Array]:
    def product(d_rows: jax.Array) -> jax.Array:
        d_rows_TD = d_rows.reshape(-1, shape[-1])
        ones_T = jnp.ones(len(d_rows_TD), d_rows.dtype)
        return jnp.einsum("t,td->d", ones_T, d_rows_TD, preferred_element_type=jnp.float32).astype(d_rows.dtype)

    def reduction(d_rows: jax.Array) -> jax.Array:
        return jnp.sum(d_rows, axis=range(len(shape) - 1))

    return (jax.lax.platform_dependent(d_rows, cpu=product, default=reduction),)


broadcast_rows.defvjp(_broadcast_rows_forward, _broadcast_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """jnp.einsum of an activation and a weight, for one CPU device.

    Raises:
        ValueError: the contracted dims are not the last ones of x and the first ones of weight.
    """
    return _einsum_forward(equation, x, weight)[0]


def _einsum_forward(equation: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    contracted = _contracted_dims(equation)
    x_TD, weight_DF = _as_matrices(x, weight, contracted)
    out_TF = jnp.einsum("td,df->tf", x_TD, weight_DF, preferred_element_type=jnp.float32)
    shape = x.shape[: x.ndim - contracted] + weight.shape[contracted:]
    return out_TF.astype(x.dtype).reshape(shape), (x, weight)


def _einsum_backward(
    equation: str, residuals: tuple[jax.Array, jax.Array], d_out: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weight = residuals
    x_TD, weight_DF = _as_matrices(x, weight, _contracted_dims(equation))
    d_out_TF = d_out.reshape(x_TD.shape[0], weight_DF.shape[1])
    d_x_TD = jnp.einsum("tf,df->td", d_out_TF, weight_DF, preferred_element_type=jnp.float32)
    d_weight_DF = jnp.einsum("dt,tf->df", row_major(x_TD.T), d_out_TF, preferred_element_type=jnp.float32)
    return d_x_TD.astype(x.dtype).reshape(x.shape), d_weight_DF.astype(weight.dtype).reshape(weight.shape)


einsum.defvjp(_einsum_forward, _einsum_backward)


def _contracted_dims(equation: str) -> int:
    """The number of dims that the product sums over."""
    x, weight = equation.split("->")[0].split(",")
    contracted = sum(dim in weight for dim in x)
    if x[len(x) - contracted :] != weight[:contracted]:
        raise ValueError(
            f"{equation}: the contracted dims must be the last of the left operand and the first of the right"
        )
    return contracted


def _as_matrices(x: jax.Array, weight: jax.Array, contracted: int) -> tuple[jax.Array, jax.Array]:
    """Both operands as matrices, [T, D] and [D, F]."""
    D = 1
    for size in weight.shape[:contracted]:
        D *= size
    return x.reshape(-1, D), weight.reshape(D, -1)
