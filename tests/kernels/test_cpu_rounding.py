"""Rounding to bfloat16 on a CPU: the same bits as a cast, and an activation that rounds once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.kernels.cpu_rounding import rounded, swiglu


def floats(bits) -> jax.Array:
    return jnp.asarray(np.asarray(bits, np.uint32).view(np.float32))


def bits(x) -> np.ndarray:
    return np.asarray(x).view(np.uint16)


@pytest.mark.parametrize("lower", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_upper_half_has_the_bits_of_a_cast(lower):
    """All signs and exponents, ties to even and odd neighbours, subnormal values, and those that become infinite."""
    x = floats((np.arange(1 << 16, dtype=np.uint32) << 16) | lower)
    number = ~np.isnan(np.asarray(x))
    actual, expected = np.asarray(jax.jit(lambda x: rounded(x, jnp.bfloat16))(x)), np.asarray(x).astype(jnp.bfloat16)
    np.testing.assert_array_equal(bits(actual)[number], bits(expected)[number])


@pytest.mark.parametrize("payload", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000])
def test_nan_stays_nan(payload):
    assert np.isnan(np.asarray(rounded(floats([payload]), jnp.bfloat16)).astype(np.float32)).all()


def test_other_dtypes_are_cast():
    x = jnp.asarray([1.2345678, -3.0])
    assert rounded(x, jnp.float32).dtype == jnp.float32 and rounded(x, jnp.float16).dtype == jnp.float16


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_swiglu_and_its_gradients_round_once(dtype):
    gate, up, d_out = (jax.random.normal(jax.random.key(i), (64, 32)).astype(dtype) for i in range(3))

    def reference(gate, up):
        return jax.nn.silu(gate) * up

    wide = [x.astype(jnp.float32) for x in (gate, up)]
    expected, pullback = jax.vjp(reference, *wide)
    actual, gradients = jax.vjp(swiglu, gate, up)
    ulp = 2.0**-8 if dtype == jnp.bfloat16 else 1e-6
    for ours, theirs in zip((actual, *gradients(d_out)), (expected, *pullback(d_out.astype(jnp.float32))), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, np.float32), np.asarray(theirs), rtol=ulp, atol=ulp)
