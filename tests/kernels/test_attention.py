"""Attention kernels against a float64 reference: forward and backward, on one device and over a mesh."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from codellama_jax.attention import make_attend
from codellama_jax.config.model import Llama
from codellama_jax.config.training import Mesh
from codellama_jax.kernels import blocked, splash
from codellama_jax.sharding import make_mesh, spec

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def probabilities(q, k, segments):
    """Masked softmax of the scores of heads-first queries and keys, [B, H, S, T]."""
    S, K = q.shape[2:]
    scores = q @ k.swapaxes(2, 3) / math.sqrt(K)
    visible = np.tril(np.ones((S, S), bool))[None, None]
    if segments is not None:
        visible = visible & (segments[:, :, None] == segments[:, None, :])[:, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def heads_first(x, times=1):
    """[B, S, H, K] -> [B, H x times, S, K] in float64, each head repeated."""
    return np.repeat(x.astype(np.float64).swapaxes(1, 2), times, axis=1)


def reference(q, k, v, segments):
    """Softmax attention in float64 with repeated key-value heads and all scores at once."""
    times = q.shape[2] // k.shape[2]
    weights = probabilities(heads_first(q), heads_first(k, times), segments)
    return (weights @ heads_first(v, times)).swapaxes(1, 2)


def reference_gradient(q, k, v, segments, seed):
    """Gradients of sum(out * seed) with respect to q, k and v in float64, written out by hand."""
    B, S, H, K = q.shape
    G = k.shape[2]
    q, k, v, seed = heads_first(q), heads_first(k, H // G), heads_first(v, H // G), heads_first(seed)
    weights = probabilities(q, k, segments)
    d_weights = seed @ v.swapaxes(2, 3)
    d_scores = weights * (d_weights - (d_weights * weights).sum(-1, keepdims=True)) / math.sqrt(K)

    def sum_of_group(x):  # over the query heads that share a key-value head
        return x.reshape(B, G, H // G, S, K).sum(2).swapaxes(1, 2)

    d_k, d_v = d_scores.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ seed
    return (d_scores @ k).swapaxes(1, 2), sum_of_group(d_k), sum_of_group(d_v)


def inputs(B=2, S=24, H=4, G=2, K=8, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(B, S, H, K), (B, S, G, K), (B, S, G, K)]
    segments = np.sort(rng.integers(0, 4, (B, S)), axis=1).astype(np.int32)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes], segments


def with_gradient(attend, arrays: Arrays, segments, seed):
    """Returns the output of an attention function and the gradients of sum(output * seed)."""

    def weighted(q, k, v):
        out = attend(q, k, v, segments)
        return jnp.sum(out * seed), out

    gradients, out = jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(*arrays)
    return out, gradients


def check(attend, arrays: Arrays, segments, atol=1e-5):
    """Asserts that the output and all gradients equal those of the reference."""
    seed = np.random.default_rng(9).normal(size=arrays[0].shape).astype(np.float32)
    out, gradients = with_gradient(attend, arrays, None if segments is None else jnp.asarray(segments), seed)
    np.testing.assert_allclose(out, reference(*arrays, segments), atol=atol)
    for ours, theirs in zip(gradients, reference_gradient(*arrays, segments, seed), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol * max(1.0, np.abs(theirs).max()))


@pytest.mark.parametrize("block", [5, 24, 512])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_blocked_equals_the_reference(block, masked, heads):
    arrays, segments = inputs(H=heads[0], G=heads[1])
    check(functools.partial(blocked.self_attention, block=block), arrays, segments if masked else None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
def test_splash_equals_the_reference(masked, heads):
    """The TPU kernel in interpret mode, with several blocks and shared key-value heads."""
    arrays, segments = inputs(B=1, S=256, H=heads[0], G=heads[1], K=128)
    mesh = make_mesh(Mesh(fsdp=1), devices=jax.devices()[:1])
    config = llama(heads, attention="splash")
    with jax.set_mesh(mesh):
        check(make_attend(config, mesh), arrays, segments if masked else None)


@functools.cache
def mesh_case(masked):
    """Inputs and the reference results, which are the same for all meshes and kernels."""
    arrays, segments = inputs(B=2, S=1024, H=4, G=2, K=128)
    seed = np.random.default_rng(9).normal(size=arrays[0].shape).astype(np.float32)
    expected = segments if masked else None
    return arrays, expected, seed, reference(*arrays, expected), reference_gradient(*arrays, expected, seed)


@pytest.mark.parametrize("kernel", ["blocked", "splash"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "shape, gathered_heads",
    [
        (Mesh(fsdp=1, context=2), 0),
        (Mesh(fsdp=1, context=4), 0),
        (Mesh(fsdp=2, context=2, tensor=2), 0),
        (Mesh(fsdp=1, context=4), 1),
    ],
    ids=["context2", "context4", "all", "one head at a time"],
)
def test_attention_over_a_mesh_equals_the_reference(kernel, masked, shape, gathered_heads):
    """Queries are exchanged to balance the work; keys and values are gathered, for all heads or for one at a time."""
    arrays, segments, seed, expected, expected_gradients = mesh_case(masked)
    mesh = make_mesh(shape, devices=jax.devices()[: shape.fsdp * shape.context * shape.tensor])
    config = dataclasses.replace(llama((4, 2), attention=kernel), gathered_heads=gathered_heads)
    placed = [
        jax.device_put(x, NamedSharding(mesh, spec(("batch", "sequence", heads, None))))
        for x, heads in zip(arrays, ("heads", "kv_heads", "kv_heads"), strict=True)
    ]
    with jax.set_mesh(mesh):
        attend = make_attend(config, mesh)
        out, gradients = with_gradient(attend, placed, jnp.asarray(segments) if masked else None, seed)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1.0, np.abs(theirs).max()))


def llama(heads: tuple[int, int], attention: str) -> Llama:
    shape = {"dim": 128 * heads[0], "layers": 1, "heads": heads[0], "kv_heads": heads[1], "ffn_dim": 8, "vocab_size": 8}
    return Llama(**shape, attention=attention, attention_block=128, splash_block=128, splash_block_backward=128)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_load_balanced_order_gives_devices_equal_work(devices):
    length = 64 * devices
    order = splash.load_balanced_order(length, devices)
    assert sorted(order) == list(range(length))
    work = {int(part.sum() + len(part)) for part in np.split(order, devices)}  # visible keys
    assert len(work) == 1


@pytest.mark.parametrize("shards", [1, 4])
def test_blocks_of_the_mask_equal_the_complete_mask(shards):
    length, block = 64, 4
    order = splash.load_balanced_order(length, shards)
    mask = splash._OrderedCausalMask((length, length), order, shards)
    expected = order[:, None] >= np.arange(length)[None, :]
    for i, j in np.ndindex(length // block, length // block):
        rows, columns = slice(i * block, (i + 1) * block), slice(j * block, (j + 1) * block)
        np.testing.assert_array_equal(np.broadcast_to(mask[rows, columns], (block, block)), expected[rows, columns])


def test_memory_is_linear_in_length():
    """No array of the lowered forward and backward pass is quadratic in the sequence length."""
    S, block = 1024, 64

    def loss(q, k, v):
        return jnp.sum(blocked.self_attention(q, k, v, None, block))

    (q, k, v), _ = inputs(B=1, S=S, H=2, G=1)
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).as_text()
    assert f"x{block}x{S}xf32" in text, "the largest block"
    assert f"x{S}x{S}x" not in text
