"""Training of models with biases and with one matrix for embedding and head: sharded, resumed, padded, with Muon."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import AdamW, Checkpoints, Mesh, Stage
from codellama_jax.errors import UserError
from codellama_jax.training.checkpoints import StageCheckpoints
from codellama_jax.training.initialization import fresh_state, grow_vocabulary, restored_state
from codellama_jax.training.loss import weighted_loss
from codellama_jax.training.step import init_params, make_loss, make_train_step

QWEN = Llama(
    dim=32,
    layers=2,
    heads=4,
    kv_heads=2,
    ffn_dim=48,
    vocab_size=64,
    head_width=12,
    qkv_bias=True,
    tied=True,
    padding_rows=8,
    compute_dtype="float32",
    remat="none",
)
STAGE = Stage(name="code", size="local", parent=None, steps=10, batch_tokens=128, sequence_length=16)
SETTINGS = AdamW(peak_learning_rate=1e-2, warmup_steps=1)


def batch(seed):
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, 56, (2, 8, 16)).astype(np.int32)
    return {
        "tokens": tokens,
        "targets": targets,
        "positions": np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16)),
        "segment_ids": np.ones((8, 16), np.int32),
        "loss_weights": rng.integers(0, 2, (8, 16)).astype(np.float32),
        "stream_ids": np.zeros((8, 16), np.int32),
    }


def random_params(llama=QWEN):
    """Parameters whose biases are not 0."""
    params = init_params(llama, 0)
    rng = np.random.default_rng(0)
    biases = {
        name: 0.3 * rng.normal(size=x.shape).astype(np.float32)
        for name, x in params["blocks"].items()
        if name[0] == "b"
    }
    return params | {"blocks": params["blocks"] | jax.tree.map(jnp.asarray, biases)}


def mesh_of(**sizes):
    return sharding.make_mesh(Mesh(**sizes), devices=jax.devices()[: int(np.prod(list(sizes.values())))])


def trained(mesh, steps, state=None, llama=QWEN, settings=SETTINGS, first=0):
    with jax.set_mesh(mesh):
        if state is None:
            state = fresh_state(llama, STAGE, settings, mesh, random_params(llama))
        step = jax.jit(make_train_step(llama, STAGE, settings, False, 1, mesh))
        losses = []
        for seed in range(first, first + steps):
            state, metrics = step(state, sharding.put_batch(mesh, batch(seed)))
            losses.append(float(metrics["loss"]))
    return state, losses


ONE, EIGHT = {"fsdp": 1}, {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("change, settings", [
    ({}, {}),
    ({"compute_dtype": "bfloat16", "product_dtype": "int8"}, {}),
    ({"tied": False}, {"matrices": "muon"}),
    ({}, {"matrices": "muon", "first_moment_dtype": "bfloat16", "second_moment_dtype": "int8"}),
])  # fmt: skip
def test_sharded_training_equals_that_on_one_device(change, settings):
    llama, settings = dataclasses.replace(QWEN, **change), dataclasses.replace(SETTINGS, **settings)
    (one, losses), (eight, sharded) = (trained(mesh_of(**m), 3, None, llama, settings) for m in (ONE, EIGHT))
    low = "int8" in (llama.product_dtype, settings.second_moment_dtype)
    np.testing.assert_allclose(sharded, losses, rtol=2e-3 if low else 1e-5)
    assert eight.params["blocks"]["bq"].sharding.spec[1] == "tensor"
    if not low:
        for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)


def test_a_tied_matrix_is_one_parameter_with_one_moment_and_both_gradients():
    params = random_params()
    assert "head" not in params
    assert sum(x.size for x in jax.tree.leaves(params)) == QWEN.parameters
    state, _ = trained(mesh_of(**ONE), 1)
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == (64, 32)]
    assert len(moments) == 2, "the first and the second moment of one matrix"
    # the gradient is the sum of those of an untied model with equal matrices
    untied = dataclasses.replace(QWEN, tied=False)
    mesh = mesh_of(**ONE)
    with jax.set_mesh(mesh):
        inputs = jax.tree.map(jnp.asarray, batch(0))
        tied = jax.grad(make_loss(QWEN, False, mesh), has_aux=True)(params, inputs)[0]["embedding"]
        both = jax.grad(make_loss(untied, False, mesh), has_aux=True)(params | {"head": params["embedding"].T}, inputs)[
            0
        ]
    np.testing.assert_allclose(tied, both["embedding"] + both["head"].T, atol=1e-5)
    assert np.abs(both["embedding"]).max() > 1e-3 and np.abs(both["head"]).max() > 1e-3


def test_padding_rows_of_a_tied_matrix_are_neither_predicted_nor_trained():
    before = np.asarray(random_params()["embedding"])
    after = np.asarray(trained(mesh_of(**EIGHT), 2)[0].params["embedding"])
    np.testing.assert_array_equal(after[56:], before[56:])
    assert np.abs(after[:56] - before[:56]).max() > 1e-3


def test_weight_decay_leaves_biases_alone():
    """With a learning rate at which only the decay counts, and gradients of 0."""
    settings = dataclasses.replace(SETTINGS, weight_decay=0.5)
    mesh = mesh_of(**ONE)
    with jax.set_mesh(mesh):
        state = fresh_state(QWEN, STAGE, settings, mesh, random_params())
        nothing = batch(0) | {"loss_weights": np.zeros((8, 16), np.float32)}
        step = jax.jit(make_train_step(QWEN, STAGE, settings, False, 1, mesh))
        after, _ = step(state, sharding.put_batch(mesh, nothing))
    before = random_params()
    for name in ("bq", "bk", "bv", "attention_norm"):
        np.testing.assert_array_equal(after.params["blocks"][name], before["blocks"][name])
    np.testing.assert_allclose(after.params["blocks"]["wq"], before["blocks"]["wq"] * (1 - 0.5 * 1e-2), rtol=1e-5)


def test_resumed_equals_uninterrupted(tmp_path):
    mesh = mesh_of(**EIGHT)
    expected, _ = trained(mesh, 4)
    half, _ = trained(mesh, 2)
    saves = StageCheckpoints(tmp_path, Checkpoints())
    saves.save(2, half, {}, {"step": 2, "llama": dataclasses.asdict(QWEN), "sequence_length": 16, "config": ""})
    saves.close()
    saves = StageCheckpoints(tmp_path, Checkpoints())
    restored = restored_state(saves, 2, QWEN, STAGE, SETTINGS, mesh)
    saves.close()
    resumed, _ = trained(mesh, 2, restored.state, first=2)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(expected))


def test_the_vocabulary_of_a_tied_model_grows_once():
    params = random_params()
    grown = grow_vocabulary(params, 80)
    assert grown.keys() == params.keys() and grown["embedding"].shape == (80, 32)
    np.testing.assert_array_equal(grown["embedding"][:64], params["embedding"])
    np.testing.assert_allclose(grown["embedding"][79], params["embedding"].mean(0), rtol=1e-5)


def test_the_loss_over_152064_rows_equals_that_of_all_logits():
    """Qwen2.5-Coder 7B's vocabulary, the largest of the families."""
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(2, 8, 16)), rng.normal(size=(16, 152_064))
    targets = rng.integers(0, 152_064, (2, 8))
    arrays = (jnp.asarray(x, jnp.float32), jnp.asarray(head, jnp.float32), jnp.asarray(targets), jnp.ones((2, 8)))
    _, losses = weighted_loss(*arrays, 4, None, 399)
    logits = (x @ head)[..., : 152_064 - 399]
    expected = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(x @ head, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def test_windows_beyond_what_dynamic_scaling_defines_are_refused():
    llama = dataclasses.replace(QWEN, rope_type="dynamic", rope_factor=2.0, rope_original_positions=16)
    mesh = mesh_of(**ONE)
    with jax.set_mesh(mesh):
        loss = make_loss(llama, False, mesh)
        jax.eval_shape(loss, random_params(), batch(0))  # 16 tokens
        longer = {name: np.concatenate([array, array], 1) for name, array in batch(0).items()}
        with pytest.raises(UserError, match=r"with 32 tokens: beyond Llama\.rope_original_positions=16"):
            jax.eval_shape(loss, random_params(), longer)
