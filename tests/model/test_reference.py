"""A trained Llama (stories260K: grouped-query attention, tied head) compared with its published logits and text."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.config.model import Llama
from codellama_jax.model.llama import hidden_states
from codellama_jax.training.step import merged


@pytest.fixture(scope="module")
def stories(shared_data):
    """(config, module) from a llama2.c file: a header of seven integers, then float32 matrices, [out, in]."""
    data = (shared_data / "stories260K/stories260K.bin").read_bytes()
    dim, ffn_dim, layers, heads, kv_heads, vocab, _ = np.frombuffer(data, np.int32, 7).tolist()
    config = Llama(dim, layers, heads, kv_heads, ffn_dim, vocab, compute_dtype="float32", remat="none")
    K = config.head_dim
    values, offset = np.frombuffer(data, np.float32, offset=28), 0

    def take(*shape):
        nonlocal offset
        offset += int(np.prod(shape))
        return values[offset - int(np.prod(shape)) : offset].reshape(shape)

    def heads_last(matrix, count, rotated):
        """[N, count * K, D] -> [N, D, count, K]; adjacent pairs of rotated channels move to separate halves."""
        matrix = matrix.reshape(layers, count, K, dim)
        if rotated:
            matrix = np.concatenate([matrix[:, :, 0::2], matrix[:, :, 1::2]], axis=2)
        return matrix.transpose(0, 3, 1, 2)

    embedding, attention_norm = take(vocab, dim), take(layers, dim)
    wq, wk = take(layers, heads * K, dim), take(layers, kv_heads * K, dim)
    wv, wo = take(layers, kv_heads * K, dim), take(layers, dim, heads * K)
    ffn_norm, w1 = take(layers, dim), take(layers, ffn_dim, dim)
    w2, w3 = take(layers, dim, ffn_dim), take(layers, ffn_dim, dim)
    blocks = {
        "attention_norm": attention_norm,
        "wq": heads_last(wq, heads, True),
        "wk": heads_last(wk, kv_heads, True),
        "wv": heads_last(wv, kv_heads, False),
        "wo": wo.reshape(layers, dim, heads, K).transpose(0, 2, 3, 1),
        "ffn_norm": ffn_norm,
        "w1": w1.swapaxes(1, 2),
        "w2": w2.swapaxes(1, 2),
        "w3": w3.swapaxes(1, 2),
    }
    params = {"embedding": embedding, "blocks": blocks, "norm": take(dim), "head": embedding.T}
    return config, merged(config, jax.tree.map(jnp.asarray, params))


@functools.partial(jax.jit, static_argnums=0)
def logits(config, model, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return hidden_states(model, config, tokens, positions) @ model.head[...]


def test_logits_equal_the_published_ones(stories, shared_data):
    golden = np.load(shared_data / "stories260K/golden_logits.npz")
    computed = np.asarray(logits(*stories, jnp.asarray(golden["tokens"], jnp.int32)[None]))[0]
    np.testing.assert_allclose(computed, golden["logits"], atol=1e-4)


def test_greedy_text_equals_the_published_one(stories, shared_data):
    golden = json.loads((shared_data / "stories260K/golden_greedy.json").read_text())
    ids = next(value for value in golden.values() if isinstance(value, list) and len(value) >= 200)
    sequence = ids if ids[0] == 1 else [1, *ids]
    # every id is the most probable one given those before it, so one pass checks them all
    predicted = np.asarray(logits(*stories, jnp.asarray(sequence, jnp.int32)[None]))[0].argmax(-1)
    np.testing.assert_array_equal(predicted[:-1], sequence[1:])
