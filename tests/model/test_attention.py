"""Attention against plain mathematics in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.model.attention import attention

jitted = jax.jit(attention, static_argnums=4)


def reference(q, k, v, segments):
    """Softmax attention in float64, key-value heads repeated, the whole square at once."""
    _, S, H, K = q.shape
    k, v = (np.repeat(x.astype(np.float64), H // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bshk,bthk->bhst", q.astype(np.float64), k) / np.sqrt(K)
    visible = np.tril(np.ones((S, S), bool))[None, None]
    if segments is not None:
        visible = visible & (segments[:, :, None] == segments[:, None, :])[:, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhst,bthk->bshk", weights / weights.sum(-1, keepdims=True), v)


def inputs(B=2, S=24, H=4, G=2, K=8, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, S, H, K), (B, S, G, K), (B, S, G, K)]
    segments = np.sort(rng.integers(0, 4, (B, S)), axis=1).astype(np.int32)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes], segments


@pytest.mark.parametrize("block", [5, 24, 512])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_equals_the_reference(block, masked, heads):
    (q, k, v), segments = inputs(H=heads[0], G=heads[1])
    out = jitted(q, k, v, jnp.asarray(segments) if masked else None, block)
    np.testing.assert_allclose(out, reference(q, k, v, segments if masked else None), atol=2e-6)


def test_blocks_do_not_change_the_gradient():
    (q, k, v), segments = inputs()

    def gradient(block):
        def loss(q, k, v):
            return jnp.sum(jnp.sin(attention(q, k, v, jnp.asarray(segments), block)))

        return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)

    for whole, blocked in zip(gradient(24), gradient(7), strict=True):
        np.testing.assert_allclose(whole, blocked, atol=2e-6)


def test_memory_is_linear_in_length():
    """No array of the compiled forward and backward pass holds the whole square of a length."""
    S, block = 1024, 64

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, None, block))

    (q, k, v), _ = inputs(B=1, S=S, H=2, G=1)
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).as_text()
    assert f"x{block}x{S}xf32" in text, "the largest block is there"
    assert f"x{S}x{S}x" not in text
