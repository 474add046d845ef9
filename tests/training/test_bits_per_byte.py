"""Bits per byte of gold texts: equal to a forward pass over each text alone, on one device and on several."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import Mesh, Stage
from codellama_jax.evaluation.gold import GoldText
from codellama_jax.training.bits_per_byte import BitsPerByte
from codellama_jax.training.passages import packed, passages
from codellama_jax.training.step import init_params, param_shardings

LLAMA = Llama(dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=64, vocab_size=64, compute_dtype="float32", remat="none")
STAGE = Stage("code", "test", None, steps=1, batch_tokens=512, sequence_length=32)


def gold_texts(*sizes):
    """Texts of random tokens from (benchmark, tokens of the prompt, tokens of the gold text)."""
    rng = np.random.default_rng(0)
    return [
        GoldText(name, rng.integers(0, 64, prompt).tolist(), rng.integers(0, 64, gold).tolist(), nbytes=3 * gold)
        for name, prompt, gold in sizes
    ]


def bits(params, ids, scored):
    """-log2 of the probabilities of the last ids, by a Llama in NumPy over this sequence alone, in float64."""
    length, half = len(ids) - 1, LLAMA.head_dim // 2
    angles = np.arange(length)[:, None] * LLAMA.rope_theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + LLAMA.norm_eps) * scale

    def rotated(x):
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x, causal = params["embedding"][ids[:-1]], np.tril(np.ones((length, length), bool))
    for layer in range(LLAMA.layers):
        p = {name: value[layer] for name, value in params["blocks"].items()}
        h = norm(x, p["attention_norm"])
        q, k, v = (np.einsum("sd,dhk->shk", h, p[name]) for name in ("wq", "wk", "wv"))
        k, v = (np.repeat(each, LLAMA.heads // LLAMA.kv_heads, axis=1) for each in (rotated(k), v))
        scores = np.einsum("shk,thk->hst", rotated(q), k) / math.sqrt(LLAMA.head_dim)
        attended = np.einsum("hst,thk->shk", softmax(np.where(causal, scores, -np.inf)), v)
        x = x + np.einsum("shk,hkd->sd", attended, p["wo"])
        h = norm(x, p["ffn_norm"])
        gate = h @ p["w1"]
        x = x + gate / (1 + np.exp(-gate)) * (h @ p["w3"]) @ p["w2"]
    probabilities = softmax(norm(x, params["norm"]) @ params["head"])
    return -np.log2(probabilities[np.arange(length), ids[1:]])[-scored:]


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(lambda x: x * 4, init_params(LLAMA, 0))  # probabilities that differ clearly


@pytest.mark.parametrize("devices, shape", [(1, Mesh()), (8, Mesh(fsdp=2, context=2, tensor=2))])
def test_equals_a_forward_pass_over_each_text(params, devices, shape):
    texts = gold_texts(*[("humaneval", 4 + n, 1 + 2 * n) for n in range(9)], ("mbpp", 20, 13), ("mbpp", 1, 32))
    mesh = sharding.make_mesh(shape, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        evaluator = BitsPerByte(LLAMA, mesh, STAGE, texts)
        measured = evaluator.measure(jax.device_put(params, param_shardings(LLAMA, mesh)))
    for name in ("humaneval", "mbpp"):
        own = [text for text in texts if text.benchmark == name]
        expected = sum(bits(params, [*text.prompt, *text.gold], len(text.gold)).sum() for text in own)
        expected /= sum(text.nbytes for text in own)
        assert measured[f"bits_per_byte/{name}"] == pytest.approx(expected, rel=1e-5)
    assert measured.keys() == {"bits_per_byte/humaneval", "bits_per_byte/mbpp"}


def test_a_text_longer_than_the_window_is_scored_in_parts(params):
    (text,) = gold_texts(("humaneval", 16, 49))
    ids = [*text.prompt, *text.gold]
    first, second, third = passages(text.prompt, text.gold, 0, 32)
    assert (first.ids, first.scored) == (ids[:33], 17)
    assert (second.ids, second.scored) == (ids[16:49], 16)
    assert (third.ids, third.scored) == (ids[32:65], 16)
    mesh = sharding.make_mesh(Mesh(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        text = dataclasses.replace(text, shortened=True)
        measured = BitsPerByte(LLAMA, mesh, STAGE, [text]).measure(params)
    expected = sum(bits(params, part.ids, part.scored).sum() for part in (first, second, third)) / 147
    assert measured["bits_per_byte/humaneval"] == pytest.approx(expected, rel=1e-5)
    assert measured["shortened/humaneval"] == 1


def test_batches_have_one_shape_of_at_most_a_micro_batch_and_little_padding(params):
    sizes = np.random.default_rng(1).integers(2, 17, (300, 2))
    texts = gold_texts(*[("mbpp", prompt, gold) for prompt, gold in sizes.tolist()])
    mesh = sharding.make_mesh(Mesh(fsdp=2, context=2, tensor=2))
    with jax.set_mesh(mesh):
        evaluator = BitsPerByte(LLAMA, mesh, dataclasses.replace(STAGE, micro_batches=2), texts)
        sharded = jax.device_put(params, param_shardings(LLAMA, mesh))
        first = evaluator.measure(sharded)
        with jax.no_tracing():  # nothing compiles again
            assert evaluator.measure(sharded) == first
    rows = {array.shape for batch in evaluator.batches for array in batch.values()}
    assert len(rows) == 1 and rows.pop()[0] in (2, 4, 6, 8)
    assert len(evaluator.batches) > 10 and evaluator.tokens < 1.1 * (sizes.sum() - len(sizes))


def test_packing_keeps_every_passage_once():
    found = [passage for n in range(40) for passage in passages([1] * (n % 7 + 1), [n] * (n % 11 + 1), 0, 16)]
    windows = packed(found, 16)
    assert sorted(map(id, found)) == sorted(id(passage) for window in windows for passage in window)
    assert all(sum(passage.positions for passage in window) <= 16 for window in windows)
