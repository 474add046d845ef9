"""Adapters beside a frozen model: what is trained, on any mesh, and that nothing else changes the result."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.lora import OFF, Lora
from codellama_jax.config.training import AdamW, Mesh
from codellama_jax.kernels.frozen_products import Int8Weight, from_int8
from codellama_jax.model import lora as adapters
from codellama_jax.training.frozen_base import abstract_base, base_shardings
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, init_params, make_loss, make_train_step, state_shardings
from tests.training.test_step import MESHES, ONE, SETTINGS, STAGE, STREAMS, TINY, batch

ALONE = Mesh()
LORA = Lora(rank=4, alpha=8.0, base_dtype="float32")


@functools.cache
def model():
    """Parameters of the frozen model, on the host."""
    return jax.device_get(jax.jit(lambda: init_params(TINY, 0))())


@functools.cache
def frozen(lora):
    params = model()
    blocks = {name: adapters.freeze(name, jnp.asarray(x), lora.base_dtype) for name, x in params["blocks"].items()}
    rest = {
        name: adapters.freeze(name, jnp.asarray(x), lora.base_dtype) for name, x in params.items() if name != "blocks"
    }
    return jax.device_get(rest | {"blocks": blocks})


def initial_state(lora, settings=SETTINGS):
    def make():
        params = init_params(TINY, STAGE.seed, lora)
        return TrainState(params, make_optimizer(settings, STAGE.steps).init(params), jnp.zeros((), jnp.int32))

    return jax.device_get(jax.jit(make)())


def trained_adapters(lora, seed=3):
    """Adapters none of which is 0."""
    params = initial_state(lora).params
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(0, 0.05, x.shape).astype(np.float32), params)


@functools.cache
def train(mesh_shape=ALONE, devices=ONE, lora=LORA, stage=STAGE, llama=TINY, settings=SETTINGS, steps=3):
    """Metrics of some steps, and the adapters after them on the host; cached."""
    mesh = sharding.make_mesh(mesh_shape, devices=devices)
    with jax.set_mesh(mesh):
        shardings = state_shardings(llama, make_optimizer(settings, stage.steps), mesh, lora)
        state = jax.device_put(initial_state(lora, settings), shardings)
        base = jax.device_put(frozen(lora), base_shardings(llama, lora, mesh))
        step = jax.jit(
            make_train_step(llama, stage, settings, True, STREAMS, mesh, lora),
            donate_argnums=0,
            out_shardings=(shardings, None),
        )
        logged = []
        for seed in range(steps):
            on_devices = sharding.put_batch(mesh, batch(seed))
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, on_devices, base)
            logged.append(jax.device_get(metrics))
        return logged, jax.device_get(state.params)


def loss_of(params, llama=TINY):
    mesh = sharding.make_mesh(Mesh(), devices=ONE)
    with jax.set_mesh(mesh):
        return jax.device_get(jax.jit(make_loss(llama, True, mesh))(params, sharding.put_batch(mesh, batch(0))))


def equal_trees(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_the_first_loss_is_that_of_the_model():
    summed, _ = loss_of(model())
    for lora in (LORA, Lora(rank=4, targets="wq+w2", base_dtype="float32")):
        first = train(lora=lora)[0][0]
        assert float(first["loss"]) == float(np.float32(summed) / batch(0)["loss_weights"].sum())


def test_every_adapter_is_trained_and_nothing_else():
    logged, params = train()
    start = initial_state(LORA).params
    assert jax.tree.structure(params) == jax.tree.structure(start)
    assert sorted(params["blocks"]) == sorted(f"{name}_{factor}" for name in LORA.names for factor in "ab")
    for name, x in params["blocks"].items():
        assert np.any(x != start["blocks"][name], axis=tuple(range(1, x.ndim))).all(), f"{name} of every block"
    assert logged[2]["grad_norm"] > 0


def test_gradients_equal_those_of_merged_weights():
    """The gradient of A B for its factors follows from that of the complete matrix."""
    found = trained_adapters(LORA)
    base = jax.tree.map(jnp.asarray, frozen(LORA))
    mesh = sharding.make_mesh(Mesh(), devices=ONE)
    loss = make_loss(TINY, True, mesh)

    def merged(found, base):
        return adapters.merge_all(adapters.combine(base, found, LORA))

    with jax.set_mesh(mesh):
        arrays = sharding.put_batch(mesh, batch(0))
        factored = jax.jit(jax.grad(lambda f: loss(adapters.combine(base, f, LORA), arrays)[0]))(found)
        complete = jax.jit(jax.grad(lambda f: loss(merged(f, base), arrays)[0]))(found)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), factored, complete
    )


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8"])
def test_merged_weights_give_the_same_losses(base_dtype):
    lora = dataclasses.replace(LORA, base_dtype=base_dtype, rslora=True)
    params = adapters.combine(jax.tree.map(jnp.asarray, frozen(lora)), trained_adapters(lora), lora)
    merged = jax.jit(adapters.merge_all)(params)
    assert jax.tree.structure(merged) == jax.tree.structure(model())
    np.testing.assert_allclose(loss_of(params)[1], loss_of(merged)[1], atol=2e-5)


@pytest.mark.parametrize("name", MESHES)
def test_sharded_equals_unsharded(name):
    lora = dataclasses.replace(LORA, dropout=0.2)
    one, here = train(lora=lora), train(MESHES[name], None, lora)
    for a, b in zip(here[0], one[0], strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], atol=1e-6)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=1e-5)
    equal_trees(here[1], one[1], atol=2e-5)


@pytest.mark.parametrize("base_dtype", ["bfloat16", "int8"])
def test_a_small_base_is_sharded_like_a_large_one(base_dtype):
    lora = dataclasses.replace(LORA, base_dtype=base_dtype)
    one, here = train(lora=lora), train(MESHES["all"], None, lora)
    np.testing.assert_allclose(here[0][-1]["loss"], one[0][-1]["loss"], rtol=1e-6)
    equal_trees(here[1], one[1], atol=2e-5)


@pytest.mark.parametrize("mesh", [Mesh(), MESHES["tensor"]], ids=["one device", "mesh"])
def test_dropout_does_not_depend_on_micro_batches(mesh):
    lora, devices = dataclasses.replace(LORA, dropout=0.3), ONE if mesh == Mesh() else None
    one, parts = train(lora=lora), train(mesh, devices, lora, dataclasses.replace(STAGE, micro_batches=2))
    np.testing.assert_allclose(parts[0][-1]["loss"], one[0][-1]["loss"], atol=1e-6)
    equal_trees(parts[1], one[1], atol=2e-5)


@pytest.mark.parametrize(
    "changes", [{"remat": "full", "ffn_parts": 4}, {"remat": "q+attention", "ffn_parts": 2}, {"unroll": 2}]
)
def test_what_is_recomputed_changes_nothing(changes):
    lora = dataclasses.replace(LORA, dropout=0.3, base_dtype="int8")
    one, here = train(lora=lora), train(lora=lora, llama=dataclasses.replace(TINY, **changes))
    np.testing.assert_allclose(here[0][-1]["loss"], one[0][-1]["loss"], atol=1e-6)
    equal_trees(here[1], one[1], atol=2e-5)


def test_dropout_differs_by_step_row_block_and_matrix():
    lora = dataclasses.replace(LORA, dropout=0.5)
    base, found = jax.tree.map(jnp.asarray, frozen(lora)), trained_adapters(lora)
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in (0, 1)]
    blocks = [adapters.combine(base, found, lora, key, jnp.arange(3))["blocks"] for key in keys]
    drawn = np.concatenate([np.asarray(each[name].keys).reshape(-1, 2) for each in blocks for name in lora.names])
    assert len(np.unique(drawn, axis=0)) == len(drawn) == 2 * len(lora.names) * TINY.layers * 3
    assert all(blocks[0][name].dropout == 0.5 for name in lora.names)
    without = adapters.combine(base, found, lora)["blocks"]
    assert all(without[name].keys is None for name in lora.names), "evaluations have no dropout"


def test_dropout_keeps_the_mean():
    weight = adapters.AdaptedWeight(
        jnp.zeros((8, 4)), jnp.eye(8), jnp.eye(8, 4), jnp.arange(2000, dtype=jnp.uint32).reshape(1000, 2), dropout=0.25
    )
    x = jnp.ones((1000, 2, 8))
    out = np.asarray(adapters.make_product(jnp.einsum)("bsd,df->bsf", x, weight))
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(out.mean(), 1, atol=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"matrices": "muon"},
        {"first_moment_dtype": "int8", "second_moment_dtype": "int8"},
        {"first_moment_dtype": "bfloat16"},
    ],
)
def test_every_optimizer_trains_adapters_on_a_mesh(settings):
    settings = AdamW(peak_learning_rate=1e-2, warmup_steps=2, **settings)
    one, here = train(settings=settings), train(MESHES["all"], None, settings=settings)
    np.testing.assert_allclose(here[0][-1]["loss"], one[0][-1]["loss"], atol=1e-4)
    assert here[0][-1]["loss"] < here[0][0]["loss"] + 0.2 and np.isfinite(here[0][-1]["grad_norm"])


def test_the_optimizer_has_moments_of_the_adapters_only():
    state = initial_state(LORA)
    size = sum(x.size for x in jax.tree.leaves(state.params))
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) <= 2 * size + 8


def test_bfloat16_computes_the_first_loss_of_the_model_with_a_bfloat16_base():
    llama = dataclasses.replace(TINY, compute_dtype="bfloat16")
    lora = Lora(rank=4)
    params = adapters.combine(jax.tree.map(jnp.asarray, frozen(lora)), initial_state(lora).params, lora)
    np.testing.assert_array_equal(loss_of(params, llama)[1], loss_of(model(), llama)[1])


def test_int8_has_a_scale_for_each_output_channel():
    base = frozen(Lora(rank=4, base_dtype="int8"))
    for name, (inputs, outputs) in adapters.DIMS.items():
        weight, original = base["blocks"][name], model()["blocks"][name]
        assert isinstance(weight, Int8Weight) and weight.values.dtype == np.int8
        axes = tuple(range(1, 1 + len(inputs)))
        assert weight.scale.shape == tuple(1 if axis in axes else n for axis, n in enumerate(original.shape))
        assert len(outputs) + len(inputs) + 1 == original.ndim
        largest = np.abs(original).max(axes, keepdims=True)
        assert (np.abs(from_int8(weight) - original) <= largest / 254 * 1.001).all()
    abstract = abstract_base(TINY, Lora(rank=4, base_dtype="int8"))
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), abstract, base)


def test_no_gradient_of_the_base_is_computed():
    """Products in the compiled step: forward, gradient of inputs, and those of the narrow factors."""
    mesh = sharding.make_mesh(Mesh(), devices=ONE)
    with jax.set_mesh(mesh):
        step = jax.jit(make_train_step(TINY, STAGE, SETTINGS, True, STREAMS, mesh, LORA))
        base = jax.tree.map(jnp.asarray, frozen(LORA))
        text = step.lower(initial_state(LORA), batch(0), base).compile().as_text()
    widths = [
        f"f32[{TINY.dim},{TINY.ffn_dim}]",
        f"f32[{TINY.ffn_dim},{TINY.dim}]",
        f"f32[{TINY.dim},{TINY.vocab_size}]",
    ]
    products = [line for line in text.splitlines() if " dot(" in line or "custom-call(" in line]
    assert products
    for line in products:
        assert not any(line.split("=")[1].strip().startswith(width) for width in widths), line


def test_without_rank_nothing_is_adapted():
    assert OFF.names == () and OFF.rank == 0
    assert "wq" in init_params(TINY, 0, OFF)["blocks"]


def test_peft_and_rank_stabilised_scales():
    assert Lora(rank=16, alpha=8).scale == 0.5
    assert Lora(rank=16, alpha=8, rslora=True).scale == 2.0


def test_a_is_uniform_by_the_number_of_inputs_and_b_is_zero():
    found = initial_state(LORA).params["blocks"]
    for name, inputs in (("wq_a", TINY.dim), ("w2_a", TINY.ffn_dim), ("wo_a", TINY.dim)):
        bound = inputs**-0.5
        assert np.abs(found[name]).max() <= bound and np.abs(found[name]).max() > 0.9 * bound
        assert abs(found[name].mean()) < 0.1 * bound
    assert all((found[f"{name}_b"] == 0).all() for name in LORA.names)
