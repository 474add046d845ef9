"""Laws of the decoder."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codellama_jax.config.model import Llama
from codellama_jax.model.llama import Decoder, hidden_states, parameter_dims, rms_norm

TINY = Llama(dim=32, layers=3, heads=4, kv_heads=2, ffn_dim=48, vocab_size=40, compute_dtype="float32", remat="none")


@pytest.fixture(scope="module")
def model():
    # larger weights than at initialisation, so that attention is far from uniform
    decoder = Decoder(TINY, nnx.Rngs(params=0))
    state = jax.tree.map(lambda x: 8 * x if x.ndim > 2 else x, nnx.state(decoder))
    nnx.update(decoder, state)
    return decoder


@functools.partial(jax.jit, static_argnums=(0, 2))
def _jitted(graph, state, config, *arrays):
    return hidden_states(nnx.merge(graph, state), config, *arrays)


def jitted(model, *arguments):
    return _jitted(*nnx.split(model), *arguments)


def states(model, tokens, segments=None, positions=None, config=TINY):
    tokens = jnp.atleast_2d(jnp.asarray(tokens))
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    return jitted(model, config, tokens, jnp.asarray(positions), segments)


def test_causality(model):
    """A token changes nothing before it and something from it on."""
    tokens = np.random.default_rng(0).integers(0, 40, 20)
    before = states(model, tokens)
    for place in (0, 7, 19):
        changed = tokens.copy()
        changed[place] = (changed[place] + 1) % 40
        after = states(model, changed)
        np.testing.assert_array_equal(before[:, :place], after[:, :place])
        assert np.abs(before[0, place:] - after[0, place:]).max(-1).min() > 1e-6


def test_no_gradient_across_masked_documents(model):
    """The second document's states do not depend on the first one's embeddings, nor on its length."""
    first, second = np.arange(0, 9), np.arange(20, 33)
    tokens = np.concatenate([first, second])
    segments = jnp.asarray([[1] * 9 + [2] * 13])
    positions = np.concatenate([np.arange(9), np.arange(13)])[None]

    graph, state = nnx.split(model)

    def of_second(state):
        return jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, segments, positions)[:, 9:]))

    gradient = np.asarray(jax.grad(of_second)(state)["embedding"][...])
    assert np.all(gradient[first] == 0)
    assert np.abs(gradient[second]).min(-1).max() > 0
    np.testing.assert_allclose(states(model, tokens, segments, positions)[:, 9:], states(model, second), atol=1e-5)


def test_unmasked_documents_see_each_other(model):
    tokens = np.arange(22)
    packed = states(model, tokens)[:, 9:]
    assert np.abs(packed - states(model, tokens[9:])).max() > 1e-3


POLICIES = [
    ("full", ""),
    ("attention", ""),
    ("q+k+v+attention+middle+gate+up", ""),
    ("full", "input"),
    ("attention", "q+k+v"),
]


@pytest.mark.parametrize("remat, offload", POLICIES)
def test_rematerialisation_changes_no_gradient(model, remat, offload):
    tokens = np.arange(12)

    def loss(state, config):
        return jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, config=config)))

    graph, state = nnx.split(model)
    plain = jax.grad(loss)(state, TINY)
    again = jax.grad(loss)(state, dataclasses.replace(TINY, remat=remat, offload=offload, ffn_parts=1))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        # elements reach 500, and what is computed again may be rounded otherwise: to the rounding of the whole
        assert np.linalg.norm(a - b) <= 5e-7 * np.linalg.norm(a)


def test_the_feed_forward_layer_in_parts_is_the_layer(model):
    """Going through its width in parts changes the order of sums, nothing else; nor does it compute more."""
    graph, state = nnx.split(model)
    tokens = np.arange(12)

    def compiled(parts):
        config = dataclasses.replace(TINY, remat="full", ffn_parts=parts)
        loss = jax.grad(lambda state: jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, config=config))))
        return jax.jit(loss).lower(state).compile()

    whole, in_parts = compiled(1), compiled(4)
    for one, four in zip(jax.tree.leaves(whole(state)), jax.tree.leaves(in_parts(state)), strict=True):
        assert np.linalg.norm(one - four) <= 1e-6 * np.linalg.norm(one)
    flops = [program.cost_analysis()["flops"] for program in (whole, in_parts)]
    assert flops[1] < 1.02 * flops[0]


def test_what_is_kept_is_not_computed_again(model):
    """FLOPs of forward and backward fall with every activation that is kept, down to those of keeping everything."""
    graph, state = nnx.split(model)

    def flops(remat):
        config = dataclasses.replace(TINY, remat=remat)
        compiled = jax.jit(
            lambda state: jax.grad(lambda s: jnp.sum(states(nnx.merge(graph, s), np.arange(16), config=config)))(state)
        ).lower(state)
        return compiled.compile().cost_analysis()["flops"]

    policies = ["full", "attention", "q+k+v+attention", "q+k+v+attention+middle", "q+k+v+attention+middle+gate+up"]
    counted = [flops(remat) for remat in policies]
    assert counted == sorted(counted, reverse=True) and len(set(counted)) == len(counted)
    np.testing.assert_allclose(counted[-1], flops("none"), rtol=0.02)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"remat": "q+w"}, r"Llama.remat='q\+w': 'w' is unknown; it must be 'none', 'full' or names joined by '\+'"),
        ({"offload": "full"}, "Llama.offload='full': 'full' is unknown; it must be names joined by"),
        ({"remat": "none", "offload": "q"}, "with Llama.remat='none' bind it to ''"),
    ],
)
def test_policies_that_do_not_exist(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


def test_bfloat16_is_near_float32(model):
    tokens = np.arange(16)
    exact = np.asarray(states(model, tokens))
    rough = states(model, tokens, config=dataclasses.replace(TINY, compute_dtype="bfloat16"))
    assert rough.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(rough, np.float32) - exact) / np.linalg.norm(exact) < 0.05


def test_the_embeddings_gradient_sums_over_tokens_in_float32():
    """A token that stands everywhere, as the newline does in code, gets the sum of its gradients, not 256 of them."""
    tokens = jnp.full((4, 512), 7)

    def gradient(dtype):
        config = dataclasses.replace(TINY, compute_dtype=dtype, layers=1)
        decoder = Decoder(config, nnx.Rngs(params=0))
        graph, state = nnx.split(decoder)
        direction = jnp.linspace(0.5, 1.5, config.dim)[None, None, :]

        def loss(state):
            x = states(nnx.merge(graph, state), tokens, config=config).astype(jnp.float32)
            return jnp.sum(x * direction)

        return np.asarray(jax.grad(loss)(state)["embedding"][...])[7]

    exact = gradient("float32")
    assert np.linalg.norm(gradient("bfloat16") - exact) / np.linalg.norm(exact) < 0.03


def test_rms_norm_is_that_of_llama():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)) * 5
    scale = np.random.default_rng(1).normal(size=8)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    out = rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32), 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_parameters_are_as_many_as_the_config_says_and_all_have_dims(model):
    state = nnx.state(model)
    assert sum(x.size for x in jax.tree.leaves(state)) == TINY.parameters
    dims = parameter_dims(state)
    for name, array in nnx.to_pure_dict(state)["blocks"].items():
        assert len(dims["blocks"][name]) == array.ndim
        assert dims["blocks"][name][0] == "layers" and array.shape[0] == TINY.layers
    assert dims["embedding"] == ("vocab", "dim") and dims["head"] == ("dim", "vocab")


def test_the_model_imports_neither_tensorflow_nor_gin_nor_orbax():
    code = (
        "import sys, codellama_jax.model.llama;"
        "print([m for m in ('tensorflow', 'seqio', 'gin', 'orbax.checkpoint', 'tensorstore') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"heads": 5}, "even multiple"),
        ({"kv_heads": 3}, "multiple of Llama.kv_heads"),
        ({"compute_dtype": "float16"}, "must be 'bfloat16' or 'float32'"),
        ({"remat": "some"}, "must be 'none'"),
    ],
)
def test_impossible_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
