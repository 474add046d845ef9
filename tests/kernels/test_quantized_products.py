"""Products in int8 and float8 against the same computation in NumPy, and their errors against exact products."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from codellama_jax.kernels.quantized_products import DTYPES, make_einsum, quantize

EQUATIONS = {  # the products of a block, and the sizes of their operands
    "bsd,dhk->bshk": ((2, 3, 32), (32, 4, 8)),
    "bshk,hkd->bsd": ((2, 3, 4, 8), (4, 8, 32)),
    "bsd,df->bsf": ((2, 3, 32), (32, 24)),
    "bsf,fd->bsd": ((2, 3, 24), (24, 32)),
}


def operands(equation, seed=0):
    rng = np.random.default_rng(seed)
    x, weight = (rng.normal(size=shape) for shape in EQUATIONS[equation])
    x *= np.exp(rng.normal(size=(*x.shape[:2], *[1] * (x.ndim - 2))) * 3)  # rows of very different magnitude
    return jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)


def rounded(x, axes, dtype):
    """x as the nearest multiples of its rows' scales."""
    largest = np.abs(x).max(axes, keepdims=True)
    if dtype == "int8":
        return np.rint(x / (largest / 127)) * (largest / 127)
    return (x / (largest / 448)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * (largest / 448)


def product_of_rounded(equation, a, b, dtype):
    left, right, out = equation.replace("->", ",").split(",")
    contracted = (set(left) & set(right)) - set(out)
    a, b = (
        rounded(np.asarray(x, np.float32), tuple(i for i, label in enumerate(labels) if label in contracted), dtype)
        for x, labels in ((a, left), (b, right))
    )
    return np.einsum(equation, a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_product_and_gradients_equal_numpys(equation, native, dtype):
    """For each row and column its own scale, forward and in the gradient of the activation; the gradient of the weight
    is exact."""
    x, weight = operands(equation)
    out, vjp = jax.vjp(functools.partial(make_einsum(dtype, jnp.einsum, native), equation), x, weight)
    np.testing.assert_allclose(out, product_of_rounded(equation, x, weight, dtype), rtol=1e-4, atol=1e-4)
    d_out = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), jnp.float32)
    d_x, d_weight = vjp(d_out)
    left, right, result = equation.replace("->", ",").split(",")
    expected = product_of_rounded(f"{result},{right}->{left}", d_out, weight, dtype)
    np.testing.assert_allclose(d_x, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(d_weight, np.einsum(f"{left},{result}->{right}", x, d_out), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dtype, error", [("int8", 0.02), ("float8", 0.05)])
def test_the_error_of_a_row_does_not_depend_on_its_magnitude(dtype, error):
    x, weight = operands("bsd,df->bsf")
    out = np.asarray(make_einsum(dtype, jnp.einsum, False)("bsd,df->bsf", x, weight))
    exact = np.einsum("bsd,df->bsf", x, weight)
    relative = np.linalg.norm(out - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert relative.max() < error


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros_and_the_largest_number_is_exact(dtype):
    x = jnp.asarray([[0.0, 0.0, 0.0], [1.0, -3.0, 2e-9]])
    numbers, scale = quantize(x, (1,), dtype)
    restored = np.asarray(numbers, np.float32) * np.asarray(scale)
    assert numbers.dtype == DTYPES[dtype] and scale.dtype == jnp.float32 and scale.shape == (2, 1)
    np.testing.assert_array_equal(restored[0], 0)
    assert restored[1, 1] == pytest.approx(-3)
