"""The decoder over pages against the training forward pass."""

import jax
import numpy as np
import pytest
from generation_models import model, reference

from codellama_jax.generation import forward
from codellama_jax.kernels import portable_paged_attention


@pytest.mark.parametrize(("shape", "page"), [("7b", 8), ("70b", 32), ("long", 16)])
def test_chunks_of_any_size_give_the_logits_of_training(shape: str, page: int):
    llama, _, weights = model(shape)
    length, tokens = 200, np.random.default_rng(1).integers(0, 300, (2, 200)).astype(np.int32)
    expected = reference(shape, tokens)
    pages = -(-length // page)
    cache = forward.new_cache(llama, 2 * pages, page)
    # the pages of the two rows alternate, in descending order
    table = np.arange(2 * pages, 0, -1).reshape(pages, 2).T.astype(np.int32)
    step = jax.jit(forward.forward, static_argnums=1)
    start, found = 0, []
    for size in (1, 66, 66, 1, 66):  # two programs
        positions = np.broadcast_to(np.arange(start, start + size, dtype=np.int32), (2, size))
        part = tokens[:, start : start + size]
        out, cache = step(weights, llama, cache, part, positions, np.ones((2, size), bool), table)
        found.append(np.asarray(forward.logits(weights, out)))
        start += size
    difference = np.abs(np.concatenate(found, axis=1) - expected)
    assert start == length and difference.max() < 2e-4 * np.abs(expected).max()


def test_padding_writes_only_to_the_scratch_page():
    llama, _, weights = model("long")
    cache = forward.new_cache(llama, 2, 16)
    tokens, positions = np.full((1, 16), 7, np.int32), np.arange(16, dtype=np.int32)[None]
    table = np.array([[1, 2]], np.int32)
    _, after = jax.jit(forward.forward, static_argnums=1)(
        weights, llama, cache, tokens, positions, positions < 5, table
    )
    for layer in after:
        pages = np.asarray(portable_paged_attention.read(layer, np.arange(3), llama.head_dim))
        assert pages[1, :5].any(axis=(1, 2)).all()
        assert not pages[1, 5:].any() and not pages[2].any()


def test_pages_that_do_not_divide_a_block_are_refused():
    with pytest.raises(ValueError, match="a page of 48 tokens does not divide 128"):
        forward.new_cache(model("7b")[0], 4, 48)


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 16)], ids=["one token", "four requests", "a chunk"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_program_copies_the_cache(dtype: str, shape: tuple[int, int]):
    llama, _, weights = model("long")
    cache = jax.eval_shape(lambda: forward.new_cache(llama, 20_000, 16, dtype))
    size = sum(layer.size * layer.dtype.itemsize for layer in cache)
    inputs = (
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.ones(shape, bool),
        np.zeros((shape[0], 4), np.int32),
    )
    step = jax.jit(forward.forward, static_argnums=1, donate_argnums=2)
    assert step.lower(weights, llama, cache, *inputs).compile().memory_analysis().temp_size_in_bytes < size / 20
