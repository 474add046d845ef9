"""Matrix products for CPUs: values and gradients equal those of jnp.einsum; only CPUs get layout constraints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.kernels import cpu_products


def test_values_and_gradients_equal_einsum():
    rng = np.random.default_rng(0)
    for equation, x_shape, weight_shape in (
        ("bsd,dhk->bshk", (2, 5, 8), (8, 3, 4)),
        ("bshk,hkd->bsd", (2, 5, 3, 4), (3, 4, 8)),
        ("bsd,df->bsf", (2, 5, 8), (8, 6)),
    ):
        x, weight = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in (x_shape, weight_shape))
        seed = rng.normal(size=jnp.einsum(equation, x, weight).shape)

        def weighted(product, x, weight, equation=equation, seed=seed):
            out = product(equation, x, weight)
            return jnp.sum(out * seed), out

        (gradients, out), (expected_gradients, expected) = (
            jax.jit(jax.grad(weighted, (1, 2), has_aux=True), static_argnums=0)(product, x, weight)
            for product in (cpu_products.einsum, jnp.einsum)
        )
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


def test_bfloat16_products_accumulate_in_float32():
    """The sum of 4,096 terms of 2^-8 is 16. Accumulated in bfloat16, it would stop at 2."""
    x, weight = jnp.ones((1, 1, 4096), jnp.bfloat16), jnp.full((4096, 1), 1 / 256, jnp.bfloat16)
    out = cpu_products.einsum("bsd,df->bsf", x, weight)
    assert out.dtype == jnp.bfloat16
    assert float(out[0, 0, 0]) == 16.0


def test_other_orders_of_dims_are_errors():
    with pytest.raises(ValueError, match="bsd,fd->bsf"):
        cpu_products.einsum("bsd,fd->bsf", jnp.ones((1, 2, 3)), jnp.ones((4, 3)))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_layout_is_constrained_on_a_cpu_only(platform):
    traced = jax.jit(lambda x: cpu_products.row_major(x.T)).trace(jnp.ones((3, 4)))
    assert ("LayoutConstraint" in traced.lower(lowering_platforms=(platform,)).as_text()) == (platform == "cpu")
