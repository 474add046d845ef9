"""Properties of the decoder."""

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


def test_tokens_affect_only_their_own_and_later_states(model):
    tokens = np.random.default_rng(0).integers(0, 40, 20)
    before = states(model, tokens)
    for position in (0, 7, 19):
        changed = tokens.copy()
        changed[position] = (changed[position] + 1) % 40
        after = states(model, changed)
        np.testing.assert_array_equal(before[:, :position], after[:, :position])
        assert np.abs(before[0, position:] - after[0, position:]).max(-1).min() > 1e-6


def test_no_gradient_across_masked_documents(model):
    """The states of the second document depend neither on the embeddings nor on the length of the first."""
    first, second = np.arange(0, 9), np.arange(20, 33)
    tokens = np.concatenate([first, second])
    segments = jnp.asarray([[1] * 9 + [2] * 13])
    positions = np.concatenate([np.arange(9), np.arange(13)])[None]

    graph, state = nnx.split(model)

    def loss_of_second(state):
        return jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, segments, positions)[:, 9:]))

    gradient = np.asarray(jax.grad(loss_of_second)(state)["embedding"][...])
    assert np.all(gradient[first] == 0)
    assert np.abs(gradient[second]).min(-1).max() > 0
    np.testing.assert_allclose(states(model, tokens, segments, positions)[:, 9:], states(model, second), atol=1e-5)


def test_unmasked_documents_attend_to_each_other(model):
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
def test_remat_does_not_change_gradients(model, remat, offload):
    tokens = np.arange(12)

    def loss(state, config):
        return jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, config=config)))

    graph, state = nnx.split(model)
    plain = jax.grad(loss)(state, TINY)
    rematerialised = jax.grad(loss)(state, dataclasses.replace(TINY, remat=remat, offload=offload, ffn_parts=1))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(rematerialised), strict=True):
        # elements reach 500, and recomputed values may be rounded differently: compare relative to the norm
        assert np.linalg.norm(a - b) <= 5e-7 * np.linalg.norm(a)


def test_splitting_the_feed_forward_layer_does_not_change_it(model):
    """Splitting it along its width changes only the order of sums, and adds no FLOPs."""
    graph, state = nnx.split(model)
    tokens = np.arange(12)

    def compiled(parts):
        config = dataclasses.replace(TINY, remat="full", ffn_parts=parts)
        loss = jax.grad(lambda state: jnp.sum(jnp.sin(states(nnx.merge(graph, state), tokens, config=config))))
        return jax.jit(loss).lower(state).compile()

    unsplit, split = compiled(1), compiled(4)
    for one, four in zip(jax.tree.leaves(unsplit(state)), jax.tree.leaves(split(state)), strict=True):
        assert np.linalg.norm(one - four) <= 1e-6 * np.linalg.norm(one)
    flops = [program.cost_analysis()["flops"] for program in (unsplit, split)]
    assert flops[1] < 1.02 * flops[0]


def test_saved_activations_are_not_recomputed(model):
    """FLOPs decrease with every activation that is saved, down to the number without remat."""
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
        ({"remat": "none", "offload": "q"}, "Llama.offload='q' needs rematerialisation: bind it to ''"),
    ],
)
def test_unknown_policies_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **settings)


def test_bfloat16_is_close_to_float32(model):
    tokens = np.arange(16)
    exact = np.asarray(states(model, tokens))
    rough = states(model, tokens, config=dataclasses.replace(TINY, compute_dtype="bfloat16"))
    assert rough.dtype == jnp.bfloat16
    assert np.linalg.norm(np.asarray(rough, np.float32) - exact) / np.linalg.norm(exact) < 0.05


def test_gradient_of_the_embedding_accumulates_in_float32():
    """The gradient of a very frequent token, such as the newline in code, is the sum over all its positions."""
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


def test_rms_norm_equals_its_formula():
    x = np.random.default_rng(0).normal(size=(2, 3, 8)) * 5
    scale = np.random.default_rng(1).normal(size=8)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
    out = rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32), 1e-5)
    np.testing.assert_allclose(out, expected, rtol=1e-5)


def test_parameters_have_the_expected_count_and_dims(model):
    state = nnx.state(model)
    assert sum(x.size for x in jax.tree.leaves(state)) == TINY.parameters
    dims = parameter_dims(state)
    for name, array in nnx.to_pure_dict(state)["blocks"].items():
        assert len(dims["blocks"][name]) == array.ndim
        assert dims["blocks"][name][0] == "layers" and array.shape[0] == TINY.layers
    assert dims["embedding"] == ("vocab", "dim") and dims["head"] == ("dim", "vocab")


def test_importing_the_model_loads_no_tensorflow_gin_seqio_or_orbax():
    code = (
        "import sys; from codellama_jax.model import Llama, Decoder, hidden_states;"
        "packages = ('tensorflow', 'tensorflow_datasets', 'seqio', 'gin', 'orbax', 'tensorstore', 'sentencepiece');"
        "print([name for name in sys.modules if name.split('.')[0] in packages])"
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
        ({"head_width": 7}, "must be an even number, or 0 for dim / heads"),
        ({"rope_type": "linear"}, "must be one of 'default', 'dynamic', 'yarn', 'llama3'"),
        ({"rope_factor": 4.0}, "Llama.rope_factor=4.0 has no effect with Llama.rope_type='default'"),
        ({"rope_type": "yarn"}, "needs Llama.rope_original_positions"),
        ({"rope_type": "yarn", "rope_original_positions": 8, "rope_factor": 0.5}, "rope_factor=0.5 must be at least 1"),
        (
            {"rope_type": "yarn", "rope_original_positions": 8, "rope_low_freq_factor": 2.0},
            "has no effect with .*'yarn'",
        ),
        ({"rope_type": "yarn", "rope_original_positions": 8, "rope_scale": 0.5}, "both change the positions"),
        ({"rope_type": "yarn", "rope_original_positions": 8, "rope_beta_slow": 40.0}, "rope_beta_slow=40.0 must be"),
        ({"rope_type": "yarn", "rope_original_positions": 8, "rope_mscale": -1.0}, "rope_mscale=-1.0 must not"),
        (
            {"rope_type": "llama3", "rope_original_positions": 8, "rope_low_freq_factor": 4.0},
            "must be above 0 and below",
        ),
    ],
)
def test_invalid_settings_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)
