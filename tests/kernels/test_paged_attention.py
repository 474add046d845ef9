"""The TPU kernel for attention to pages, interpreted on a CPU, against portable attention."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.experimental.pallas import tpu
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel as ragged

from codellama_jax.generation import forward
from codellama_jax.kernels import paged_attention, portable_paged_attention


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interprets the kernel. It has no such argument, and JAX's interpreter for TPUs does not know all that it does."""

    def store(ref: jax.Array, value: jax.Array, *, mask: jax.Array) -> None:
        ref[...] = jnp.where(mask, value, ref[...])

    def changed(module: types.ModuleType, **names: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(**({name: getattr(module, name) for name in dir(module)} | names))

    monkeypatch.setattr(
        ragged, "pl", changed(pallas, pallas_call=functools.partial(pallas.pallas_call, interpret=True))
    )
    monkeypatch.setattr(ragged, "pltpu", changed(tpu, store=store))
    unconstrained = changed(tpu, with_memory_space_constraint=lambda x, space: x)
    monkeypatch.setattr(paged_attention, "pltpu", unconstrained)  # there is one memory


# three heads are two groups; 13B has five on each of 8 devices
@pytest.mark.parametrize(("kv_heads", "shared", "length", "dtype"), [(3, 1, 3, "float32"), (2, 4, 1, "int8")])
def test_the_kernel_agrees_with_portable_attention(
    interpreted: None, kv_heads: int, shared: int, length: int, dtype: str
):
    rng = np.random.default_rng(0)
    rows, pages, size, width = 3, 13, 16, 128
    new = rng.normal(size=(pages, size, 2 * kv_heads, width)) * (20 if dtype == "int8" else 1)
    q = jnp.asarray(rng.normal(size=(rows, length, kv_heads * shared, width)) / 20, jnp.float32)
    table = np.arange(12, 0, -1, np.int32).reshape(rows, 4)
    positions = np.array([[4], [29], [64 - length]], np.int32) + np.arange(length, dtype=np.int32)[None]
    # the cache is written by `write`, one page for each row
    groups = paged_attention.head_groups(kv_heads, dtype)
    places = np.arange(pages)[:, None], np.arange(size)[None], jnp.asarray(new)
    whole = portable_paged_attention.write(portable_paged_attention.empty(pages, size, kv_heads, width, dtype), *places)
    cut = paged_attention.write(tuple(jnp.zeros((pages, size, 2 * heads, width), dtype) for heads in groups), *places)
    assert forward.page_size(cut, width) == forward.page_size(whole, width) == size
    expected = portable_paged_attention.attend(q, whole, jnp.asarray(table), jnp.asarray(positions), jnp.int32(1))
    found = paged_attention.attend(q, cut, jnp.asarray(table), jnp.asarray(positions))
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("kv_heads", "dtype", "groups"),
    [
        (32, "bfloat16", (32,)),
        (5, "bfloat16", (4, 1)),
        (40, "bfloat16", (40,)),
        (1, "bfloat16", (1,)),
        (20, "float32", (20,)),
        (4, "int8", (4,)),
        (1, "int8", ()),
        (5, "int8", ()),
    ],
)
def test_heads_are_cut_into_groups_that_the_kernel_can_process(kv_heads: int, dtype: str, groups: tuple[int, ...]):
    assert paged_attention.head_groups(kv_heads, dtype) == groups
