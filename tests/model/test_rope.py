"""Rotary embedding: scores depend on relative positions only, and the base has the effect that the paper states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.config.model import Llama
from codellama_jax.model import rope


def model(head_dim, theta=1e4, scale=1.0, **settings):
    return Llama(
        dim=head_dim,
        layers=1,
        heads=1,
        kv_heads=1,
        ffn_dim=8,
        vocab_size=8,
        rope_theta=theta,
        rope_scale=scale,
        **settings,
    )


def scores(q, k, positions_q, positions_k, theta=1e4, scale=1.0):
    """Scores of q [S, K] and k [T, K] rotated to these positions."""

    def rotated(x, positions):
        cos, sin = rope.tables(jnp.asarray(positions)[None], model(x.shape[-1], theta, scale))
        return rope.rotate(jnp.asarray(x, jnp.float32)[None, :, None], cos, sin)[0, :, 0]

    return np.asarray(rotated(q, positions_q) @ rotated(k, positions_k).T)


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("shift", [1, 7, 1000])
def test_scores_depend_on_relative_positions_only(theta, shift):
    q, k = np.random.default_rng(0).normal(size=(2, 12, 16))
    positions = np.arange(12)
    original = scores(q, k, positions, positions, theta)
    shifted = scores(q, k, positions + shift, positions + shift, theta)
    # in float32 the angle of position 1000 has an error of 6e-5
    np.testing.assert_allclose(original, shifted, atol=2e-3 if shift == 1000 else 1e-4)


def test_rotation_preserves_norms_and_position_0():
    x = np.random.default_rng(1).normal(size=(1, 9, 2, 8)).astype(np.float32)
    cos, sin = rope.tables(jnp.arange(9)[None], model(8))
    rotated = np.asarray(rope.rotate(jnp.asarray(x), cos, sin))
    np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(rotated[:, 0], x[:, 0])


def test_interpolation_divides_positions_by_four():
    q, k = np.random.default_rng(2).normal(size=(2, 8, 16))
    positions = np.arange(8)
    interpolated = scores(q, k, 4 * positions, 4 * positions, scale=0.25)
    np.testing.assert_allclose(interpolated, scores(q, k, positions, positions), atol=1e-5)


# Normalised expectation of attention over distance n, g(n) = mean_i cos(n theta_i), at dimension 1024 (section 2.4).
DISTANCES = [1, 100, 1000, 4096, 16384, 50000, 100000]
EXPECTATIONS = {
    (1e4, 1.0): [0.974, 0.437, 0.195, 0.050, -0.090, 0.015, 0.027],
    (1e6, 1.0): [0.982, 0.625, 0.476, 0.339, 0.249, 0.198, 0.145],
    (1e4, 0.25): [0.998, 0.587, 0.338, 0.177, 0.050, -0.022, 0.012],
}


@pytest.mark.parametrize("theta, scale", EXPECTATIONS)
def test_attention_expectation_equals_the_published_curve(theta, scale):
    cos, _ = rope.tables(jnp.asarray(DISTANCES)[None], model(1024, theta, scale))
    # the published values have three decimals; float32 angles of 1e5 have errors up to 4e-3 at the highest frequencies
    np.testing.assert_allclose(np.asarray(cos)[0].mean(-1), EXPECTATIONS[theta, scale], atol=1.1e-3)


def test_tables_are_float32_and_rotation_keeps_the_dtype():
    cos, _ = rope.tables(jnp.arange(4, dtype=jnp.int32)[None], model(8, 1e6))
    assert cos.dtype == jnp.float32
    x = jnp.ones((1, 4, 1, 8), jnp.bfloat16)
    assert jax.eval_shape(rope.rotate, x, cos, cos).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("theta, scale, first", [(1e4, 1.0, 0), (1e6, 1.0, 99_000), (1e4, 0.25, 16_000)])
def test_rotation_by_a_product_equals_rotation_bit_for_bit(dtype, theta, scale, first):
    """Forward and backward, without compilation: a compiler may fuse products and sums of one form only."""
    rng = np.random.default_rng(3)
    x, seed = (jnp.asarray(rng.normal(size=(2, 5, 3, 16)), dtype) for _ in range(2))
    cos, sin = rope.tables(first + jnp.arange(5)[None], model(16, theta, scale))
    expected, expected_gradient = jax.vjp(lambda x: rope.rotate(x, cos, sin), x)
    rotated, gradient = jax.vjp(lambda x: rope.rotate_by_product(x, cos, sin), x)
    assert rotated.dtype == x.dtype
    np.testing.assert_array_equal(rotated, expected)
    np.testing.assert_array_equal(*gradient(seed), *expected_gradient(seed))
