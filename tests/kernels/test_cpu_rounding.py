"""Rounding to bfloat16 on a CPU: the same bits as a cast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.kernels.cpu_rounding import rounded


def floats(bits) -> jax.Array:
    return jnp.asarray(np.asarray(bits, np.uint32).view(np.float32))


def bits(x) -> np.ndarray:
    return np.asarray(x).view(np.uint16)


@pytest.mark.parametrize("lower", [0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_every_upper_half_has_the_bits_of_a_cast(lower):
    """All signs and exponents, ties to even and odd neighbours, subnormal values, and those that become infinite."""
    x = floats((np.arange(1 << 16, dtype=np.uint32) << 16) | lower)
    number = ~np.isnan(np.asarray(x))
    actual = np.asarray(jax.jit(lambda x: rounded(x, jnp.bfloat16))(x))
    with np.errstate(invalid="ignore"):
        expected = np.asarray(x).astype(jnp.bfloat16)
    np.testing.assert_array_equal(bits(actual)[number], bits(expected)[number])


@pytest.mark.parametrize("payload", [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000])
def test_nan_stays_nan(payload):
    assert np.isnan(np.asarray(rounded(floats([payload]), jnp.bfloat16)).astype(np.float32)).all()


def test_other_dtypes_are_cast():
    x = jnp.asarray([1.2345678, -3.0])
    assert rounded(x, jnp.float32).dtype == jnp.float32 and rounded(x, jnp.float16).dtype == jnp.float16
