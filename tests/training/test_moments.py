"""Moments in 8 bits: unbiased codes within a level of their value, and the laws of the optimizer; Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import MOMENT_BLOCK, AdamW, Checkpoints, Mesh
from codellama_jax.training import moments
from codellama_jax.training.checkpoints import StageCheckpoints
from codellama_jax.training.moments import POSITIVE, SIGNED, Codes
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, init_params, state_shardings

TINY = Llama(dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=200, vocab_size=96, compute_dtype="float32")

INT8 = AdamW(1e-2, warmup_steps=2, first_moment_dtype="int8", second_moment_dtype="int8")
MUON = AdamW(1e-2, warmup_steps=2, matrices="muon")


def values(shape, levels, octaves=6.0, seed=0):
    """Random moments whose magnitudes span some octaves."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 2.0 ** rng.uniform(-octaves, 0, size=shape)
    return jnp.asarray(x if levels is SIGNED else x * x, jnp.float32)


def bits(shape, seed):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 2**16, shape), jnp.uint32)


@jax.jit
def _signed(x, bits):
    return moments.loaded(moments.stored(x, "int8", SIGNED, bits), SIGNED)


@jax.jit
def _positive(x, bits):
    return moments.loaded(moments.stored(x, "int8", POSITIVE, bits), POSITIVE)


def round_trip(x, levels, seed=0):
    return np.asarray((_signed if levels is SIGNED else _positive)(x, bits(x.shape, seed)))


@pytest.mark.parametrize("shape", [(7,), (3, 64), (5, 192), (2, 3, 130), (4, 97), (1, 1)])
@pytest.mark.parametrize("levels", [SIGNED, POSITIVE])
def test_a_code_is_within_a_level_of_its_value(shape, levels):
    x = np.asarray(values(shape, levels))
    held = np.abs(x) > np.abs(x).max() * 2.0 ** ((1 - levels.top) / levels.per_octave)
    ratio = round_trip(jnp.asarray(x), levels)[held] / x[held]
    step = 2 ** (1 / levels.per_octave)
    assert held.mean() > 0.9 and np.all((ratio > 1 / step - 1e-4) & (ratio < step + 1e-4))


@pytest.mark.parametrize("levels", [SIGNED, POSITIVE])
def test_codes_are_right_on_average_even_far_below_the_scale(levels):
    x = values((4, 64), levels, octaves=14 if levels is SIGNED else 10)
    mean = round_trip(jnp.broadcast_to(x, (4000, *x.shape)), levels).mean(0)
    np.testing.assert_allclose(mean, x, rtol=0.01, atol=float(jnp.abs(x).max()) * 2**-15)


@pytest.mark.parametrize("levels", [SIGNED, POSITIVE])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1.0, 1e12])
def test_zeros_and_values_of_any_size(levels, scale):
    x = scale * values((2, 128), levels)
    x = x.at[0].set(0).at[1, 5].set(0)
    found = round_trip(x, levels)
    assert np.isfinite(found).all() and not found[0].any() and found[1, 5] == 0
    largest = np.abs(np.asarray(x)).reshape(2, 2, 64).max(-1)
    np.testing.assert_allclose(np.abs(found).reshape(2, 2, 64).max(-1), largest, rtol=1e-6)


def test_a_second_moment_is_not_rounded_to_zero():
    x = jnp.full((1, 64), 1e-20, jnp.float32).at[0, 0].set(1.0)
    assert np.all(round_trip(x, POSITIVE) > 0)


def test_values_that_are_levels_stay_as_they_are():
    for levels in (SIGNED, POSITIVE):
        x = round_trip(values((3, 64), levels), levels)
        np.testing.assert_allclose(round_trip(jnp.asarray(x), levels, seed=1), x, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 96, 127, 128, 4096, 11_008, 32_016, 32_017])
def test_blocks_divide_the_axis(length):
    size = moments.block_size(length)
    assert 1 <= size <= MOMENT_BLOCK and length % size == 0
    assert size == MOMENT_BLOCK or length % MOMENT_BLOCK


# --- the optimizer


def gradients(params, step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.02, jnp.float32), params)


def trained(settings, steps=30, mesh=None):
    """The state after some updates with random gradients, which have a mean."""
    optimizer = make_optimizer(settings, steps)
    params = init_params(TINY, 0)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    mean = gradients(params, 1000)
    if mesh is not None:
        where = state_shardings(TINY, optimizer, mesh)
        params, state, mean = (
            jax.device_put(*pair) for pair in ((params, where.params), (state, where.opt_state), (mean, where.params))
        )
        update = jax.jit(optimizer.update, out_shardings=(where.params, where.opt_state))
    for step in range(steps):
        gradient = jax.tree.map(jnp.add, mean, gradients(params, step))
        updates, state = update(gradient, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return TrainState(params, state, jnp.asarray(steps, jnp.int32))


def moved(settings):
    start = init_params(TINY, 0)
    return jax.tree.map(lambda x, y: np.asarray(x - y), trained(settings).params, start)


def test_8_bit_moments_take_two_bytes_a_parameter_and_are_close():
    exact, near = moved(AdamW(1e-2, warmup_steps=2)), moved(INT8)
    for x, y in zip(jax.tree.leaves(exact), jax.tree.leaves(near), strict=True):
        assert 0 < np.linalg.norm(x - y) < 0.06 * np.linalg.norm(x)
    state = make_optimizer(INT8, 10).init(init_params(TINY, 0))
    parameters = sum(x.size for x in jax.tree.leaves(exact))
    assert sum(x.nbytes for x in jax.tree.leaves(state)) < 2.3 * parameters
    assert {x.dtype for x in jax.tree.leaves(state) if x.size > 1000} == {jnp.dtype("int8"), jnp.dtype("uint8")}


@pytest.mark.parametrize("settings", [INT8, MUON], ids=["int8", "muon"])
def test_the_same_bits_on_any_mesh_and_in_a_checkpoint(tmp_path, settings):
    optimizer, steps = make_optimizer(settings, 30), 3
    alone, state = trained(settings, steps), trained(settings, steps, sharding.make_mesh(Mesh(fsdp=4, tensor=2)))
    for x, y in zip(jax.tree.leaves(alone), jax.tree.leaves(state), strict=True):
        # sums are in another order on a mesh; a value can be on the other side of its random border then
        codes = jnp.issubdtype(x.dtype, jnp.integer)
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        np.testing.assert_allclose(x, y, atol=1 if codes else np.abs(x).max() * 2e-2)
        assert not codes or np.mean(x != y) < 0.01
    saves = StageCheckpoints(tmp_path, Checkpoints())
    saves.save(3, state, {"batch": 3}, {"step": 3})
    for mesh in (Mesh(fsdp=8), Mesh(fsdp=4, tensor=2), Mesh(data=8, fsdp=1)):
        where = state_shardings(TINY, optimizer, sharding.make_mesh(mesh))
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, where)
        restored = saves.restore(3, abstract).state
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), restored, state)
        assert jax.tree.structure(restored) == jax.tree.structure(state)
    saves.close()


def test_scales_are_cut_where_their_axis_allows_it():
    mesh = sharding.make_mesh(Mesh(fsdp=8))
    wide = Llama(dim=512, layers=1, heads=4, kv_heads=4, ffn_dim=96, vocab_size=64)
    adam = state_shardings(wide, make_optimizer(INT8, 10), mesh).opt_state[1]
    assert isinstance(adam.mu, Codes)
    assert adam.mu.scales["blocks"]["w2"].spec == adam.mu.codes["blocks"]["w2"].spec  # 8 blocks on 8 devices
    narrow = state_shardings(TINY, make_optimizer(INT8, 10), mesh).opt_state[1]
    assert narrow.mu.scales["blocks"]["w2"].spec[2:] in ((), (None,))  # one block


def test_muon_makes_updates_of_equal_singular_values_with_the_size_of_adams():
    optimizer = make_optimizer(MUON, 10)
    params = init_params(TINY, 0)
    gradient = gradients(params, 0)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    updates = jax.tree.map(lambda u, p: u, updates, params)
    rate = 0.5e-2  # of the first step
    decay = {name: rate * 0.1 * np.asarray(p) for name, p in params["blocks"].items()}
    shapes = {"wq": (32, 32), "wk": (32, 16), "wo": (32, 32), "w1": (32, 200), "w2": (200, 32)}
    for name, (inputs, outputs) in shapes.items():
        for layer in range(2):
            update = (np.asarray(updates["blocks"][name]) + decay[name])[layer].reshape(inputs, outputs)
            singular = np.linalg.svd(update, compute_uv=False) / (rate * 0.2 * np.sqrt(max(inputs, outputs)))
            # Newton-Schulz of five steps is rough, and a random square matrix can have a value next to 0
            assert np.sort(singular)[2] > 0.5 and singular.max() < 1.3, name
    plain, _ = make_optimizer(AdamW(1e-2, warmup_steps=2), 10).update(
        gradient, make_optimizer(AdamW(1e-2, warmup_steps=2), 10).init(params), params
    )
    for name in ("embedding", "head", "norm"):
        np.testing.assert_allclose(updates[name], plain[name], rtol=1e-5)


def test_muon_has_no_second_moment_for_matrices():
    params = init_params(TINY, 0)
    state = make_optimizer(MUON, 10).init(params)
    matrices = sum(x.size for name, x in params["blocks"].items() if name.startswith("w"))
    others = sum(x.size for x in jax.tree.leaves(params)) - matrices
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim > 0) == matrices + 2 * others + 3  # its coefficients


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"matrices": "sgd"}, "AdamW.matrices='sgd' must be 'adam' or 'muon'"),
        ({"matrices": "muon", "first_moment_dtype": "int8"}, "needs AdamW.matrices='adam'"),
        ({"second_moment_dtype": "int4"}, "must be 'float32', 'bfloat16' or 'int8'"),
    ],
)
def test_settings_that_do_not_exist_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        AdamW(1e-2, **flags)
