"""Chunked cross-entropy against the whole, and what it does not hold."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.training.loss import token_losses

B, S, D, V = 3, 16, 8, 50


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32),
        jnp.asarray(rng.normal(size=(D, V)), jnp.float32),
        jnp.asarray(rng.integers(0, V, (B, S)), jnp.int32),
    )


def whole(x, head, targets):
    logits = np.asarray(x, np.float64) @ np.asarray(head, np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probabilities, np.asarray(targets)[..., None], -1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 5, 8, 16, 100])
def test_equals_the_whole(arrays, chunk):
    np.testing.assert_allclose(token_losses(*arrays, chunk), whole(*arrays), rtol=1e-5, atol=1e-6)


def test_chunks_do_not_change_the_gradient(arrays):
    def gradient(chunk):
        return jax.jit(jax.grad(lambda x, head: jnp.sum(token_losses(x, head, arrays[2], chunk)), (0, 1)))(*arrays[:2])

    for a, b in zip(gradient(16), gradient(4), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_heads_gradient_sums_over_chunks_in_float32():
    """128 chunks in bfloat16 give the gradient that one chunk gives, to the rounding of one chunk."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 1024, D)), jnp.bfloat16)
    head = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V, (1, 1024)), jnp.int32)

    def gradient(x, chunk):
        return np.asarray(jax.jit(jax.grad(lambda head: jnp.sum(token_losses(x, head, targets, chunk))))(head))

    exact = gradient(x.astype(jnp.float32), 1024)
    assert np.linalg.norm(gradient(x, 8) - exact) / np.linalg.norm(exact) < 0.005


def test_logits_never_exist_whole(arrays):
    """Neither the forward nor the backward pass has an array of [batch, length, vocabulary] in any layout."""

    def loss(x, head):
        return jnp.sum(token_losses(x, head, arrays[2], 4))

    text = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays[:2]).as_text()
    shapes = {tuple(map(int, s.split("x")[:-1])) for s in re.findall(r"tensor<((?:\d+x)+)f32>", text)}
    sizes = [int(np.prod(shape)) for shape in shapes if V in shape]
    assert B * 4 * V in sizes and max(sizes) == max(B * 4 * V, D * V)
