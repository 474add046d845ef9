"""The bits of a row do not depend on the number of rows and columns of the program, nor on the place in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.config.model import Llama
from codellama_jax.generation import forward
from codellama_jax.kernels import portable_paged_attention, row_products

pytestmark = pytest.mark.compares_bits

TOKENS, PAGE = 144, 16


def compiled(function, **options):
    return jax.jit(function, compiler_options=row_products.compiler_options(), **options)


product = compiled(row_products.product)
step = compiled(forward.forward, static_argnums=1)
head = compiled(forward.logits)


@pytest.mark.parametrize(
    ("dtype", "shape", "counts"),
    [
        ("float32", (64, 192), (1, 4, 16)),
        ("float32", (288, 864), (1, 4, 16, 40, 128)),
        ("float32", (768, 4096), (1, 16, 128)),
        ("float32", (2048, 64), (1, 8, 64)),
        ("float32", (5504, 32), (1, 16)),
        ("bfloat16", (768, 288), (1, 16)),
    ],
)
def test_rows_of_a_product(dtype: str, shape: tuple[int, int], counts: tuple[int, ...]):
    rng = np.random.default_rng(0)
    weight = row_products.matrix(jnp.asarray(rng.standard_normal(shape, np.float32), dtype))
    x = jnp.asarray(rng.standard_normal((160, shape[0]), np.float32), dtype)
    expected = np.asarray(product(x, weight))
    for rows in counts:
        for start in (0, 7):
            found = np.asarray(product(x[start : start + rows], weight))
            np.testing.assert_array_equal(found, expected[start : start + rows], f"{rows} rows from row {start}")


@functools.cache
def small_model(dim: int, heads: int, kv_heads: int, ffn_dim: int, dtype: str) -> tuple[Llama, forward.Weights]:
    llama = Llama(
        dim=dim, layers=1, heads=heads, kv_heads=kv_heads, ffn_dim=ffn_dim, vocab_size=512, compute_dtype=dtype
    )
    rng = np.random.default_rng(0)
    width = llama.head_dim
    shapes = {
        "embedding": (512, dim),
        "norm": (dim,),
        "head": (dim, 512),
        "attention_norm": (dim,),
        "ffn_norm": (dim,),
        "wq": (dim, heads, width),
        "wk": (dim, kv_heads, width),
        "wv": (dim, kv_heads, width),
        "wo": (heads, width, dim),
        "w1": (dim, ffn_dim),
        "w3": (dim, ffn_dim),
        "w2": (ffn_dim, dim),
    }
    return llama, forward.weights_of(lambda name, _: rng.standard_normal(shapes[name], np.float32) * 0.1, llama)


def processed(llama: Llama, weights: forward.Weights, rows: int, chunks: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Processes the same text in several rows. Returns logits [rows, T, V], and keys and values [N, rows, T, 2G, K]."""
    text = np.random.default_rng(1).integers(0, 512, TOKENS).astype(np.int32)
    pages = TOKENS // PAGE
    cache = forward.new_cache(llama, rows * pages, PAGE)
    table = 1 + np.random.default_rng(rows).permutation(rows * pages).reshape(rows, pages).astype(np.int32)
    logits, start = [], 0
    for size in chunks:
        positions = np.broadcast_to(np.arange(start, start + size, dtype=np.int32), (rows, size))
        valid = np.ones((rows, size), bool)
        x_SCD, cache = step(weights, llama, cache, text[positions], positions, valid, table)
        logits.append(np.asarray(head(weights, x_SCD.reshape(rows * size, -1))).reshape(rows, size, -1))
        start += size
    read = [np.asarray(portable_paged_attention.read(layer, table, llama.head_dim)) for layer in cache]
    kv = np.stack([layer.reshape(rows, TOKENS, *layer.shape[3:])[:, :start] for layer in read])
    return np.concatenate(logits, axis=1), kv


@pytest.mark.parametrize("shape", [(288, 6, 6, 768, "float32"), (64, 4, 2, 96, "bfloat16")])
def test_a_token_has_the_same_keys_values_and_logits_however_it_is_processed(shape: tuple):
    llama, weights = small_model(*shape)
    logits, kv = processed(llama, weights, 1, [136])
    # one token at a time after a chunk; several guessed tokens of several rows at a time
    for rows, chunks in ((1, [128, 1, 1]), (8, [5, 5])):
        found_logits, found_kv = processed(llama, weights, rows, chunks)
        length = sum(chunks)
        np.testing.assert_array_equal(found_logits, np.broadcast_to(logits[:, :length], found_logits.shape))
        np.testing.assert_array_equal(found_kv, np.broadcast_to(kv[:, :, :length], found_kv.shape))
