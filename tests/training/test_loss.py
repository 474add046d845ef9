"""Chunked cross-entropy and its gradient against an unchunked one in float64, and the size of its arrays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.training import Mesh
from codellama_jax.training.loss import weighted_loss

B, S, D, V = 8, 16, 24, 52
MESHES = {
    "one device": None,
    "fsdp": Mesh(fsdp=4, data=2),
    "tensor": Mesh(fsdp=2, tensor=4),
    "context and tensor": Mesh(fsdp=2, context=2, tensor=2),
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(B, S, D)), jnp.float32),
        jnp.asarray(rng.normal(size=(D, V)), jnp.float32),
        jnp.asarray(rng.integers(0, V, (B, S)), jnp.int32),
        jnp.asarray(rng.random((B, S)), jnp.float32),
    )


def unchunked(x, head, targets, weights):
    """Losses, and the gradients of their weighted sum, from all logits at once."""
    x, head = np.asarray(x, np.float64), np.asarray(head, np.float64)
    logits = x @ head
    logits -= logits.max(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(probabilities, np.asarray(targets)[..., None], -1)[..., 0])
    dlogits = (probabilities - np.eye(V)[np.asarray(targets)]) * np.asarray(weights)[..., None]
    return losses, dlogits @ head.T, np.einsum("bsd,bsv->dv", x, dlogits)


@pytest.mark.parametrize("chunk", [1, 5, 8, 16, 100])
@pytest.mark.parametrize("where", MESHES)
def test_chunked_loss_and_gradients_equal_the_unchunked_ones(arrays, chunk, where):
    mesh = sharding.make_mesh(MESHES[where]) if MESHES[where] else None
    x, head, targets, weights = arrays

    def loss(x, head):
        return weighted_loss(x, head, targets, weights, chunk, mesh)

    summed, losses = jax.jit(loss)(x, head)
    (with_gradient, again), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, head)
    expected, *expected_gradients = unchunked(*arrays)
    for values in (losses, again):
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    for value in (summed, with_gradient):
        np.testing.assert_allclose(value, np.sum(expected * np.asarray(weights)), rtol=1e-6)
    for actual, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(actual, expected_gradient, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_scaled_by_the_cotangent_of_the_loss(arrays):
    x, head, targets, weights = arrays
    half = jax.grad(lambda x: weighted_loss(x, head, targets, weights, 8)[0] / 2)(x)
    np.testing.assert_allclose(half, unchunked(*arrays)[1] / 2, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_head_is_accumulated_in_float32():
    """128 chunks in bfloat16 give the gradient of one chunk, up to the rounding of one chunk."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 1024, D)), jnp.bfloat16)
    head = jnp.asarray(rng.normal(size=(D, V)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, V, (1, 1024)), jnp.int32)

    def gradient(x, chunk):
        ones = jnp.ones((1, 1024))
        return np.asarray(jax.jit(jax.grad(lambda head: weighted_loss(x, head, targets, ones, chunk)[0]))(head))

    exact = gradient(x.astype(jnp.float32), 1024)
    assert np.linalg.norm(gradient(x, 8) - exact) / np.linalg.norm(exact) < 0.005


@pytest.mark.parametrize("where", MESHES)
def test_no_array_of_logits_is_larger_than_a_chunk(arrays, where):
    """In the forward and in the backward pass. With a tensor axis, a device has only its shard of the vocabulary."""
    mesh = sharding.make_mesh(MESHES[where]) if MESHES[where] else None
    x, head, targets, weights = arrays
    chunk = 4
    rows = V // (mesh.shape["tensor"] if mesh else 1)

    def loss(x, head):
        return weighted_loss(x, head, targets, weights, chunk, mesh)[0]

    text = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, head))
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"f32\[([\d,]+)\]", text)}
    of_head = {(D // parts, rows) for parts in (1, 2, 4)} | {(D, V)}
    logits = {shape for shape in shapes if len(shape) > 1 and shape[-1] in (V, rows)} - of_head
    assert logits == {(chunk, rows)}
