"""Padding of the vocabulary: rows without a token are never predicted and never trained."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax import sharding
from codellama_jax.config.data import Chat
from codellama_jax.config.data import Tokenizer as TokenizerSettings
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import AdamW, Checkpoints, Mesh, Stage
from codellama_jax.errors import UserError
from codellama_jax.model.llama import hidden_states
from codellama_jax.training import assets
from codellama_jax.training.infilling_samples import greedy
from codellama_jax.training.initialization import fresh_state, stage_model, with_vocabulary
from codellama_jax.training.loss import weighted_loss
from codellama_jax.training.step import TrainState, init_params, make_train_step, merged, param_shardings

PLAIN = Llama(dim=32, layers=1, heads=4, kv_heads=4, ffn_dim=64, vocab_size=40, compute_dtype="float32", remat="none")
PADDED = dataclasses.replace(PLAIN, vocab_size=64, padding_rows=24)
STAGE = Stage(name="code", size="local", parent=None, steps=10, batch_tokens=128, sequence_length=16)
SETTINGS = AdamW(peak_learning_rate=1e-2, warmup_steps=1)


def batch(seed=0):
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, PLAIN.vocab_size, (2, 8, 16)).astype(np.int32)
    return {
        "tokens": tokens,
        "targets": targets,
        "positions": np.broadcast_to(np.arange(16, dtype=np.int32), (8, 16)),
        "segment_ids": np.ones((8, 16), np.int32),
        "loss_weights": rng.integers(0, 2, (8, 16)).astype(np.float32),
        "stream_ids": np.zeros((8, 16), np.int32),
    }


@pytest.fixture(scope="module")
def params():
    """Parameters without padding, and the same ones with 24 rows that would be predicted most."""
    plain = init_params(PLAIN, 0)
    rows = jnp.full((24, PLAIN.dim), 3.0)
    padded = plain | {
        "embedding": jnp.concatenate([plain["embedding"], rows]),
        "head": jnp.concatenate([plain["head"], rows.T], axis=1),
    }
    return plain, padded


def trained(llama, params, mesh, steps=2):
    params = jax.tree.map(jnp.copy, params)  # donated
    with jax.set_mesh(mesh):
        state = fresh_state(llama, STAGE, SETTINGS, mesh, params)
        step = jax.jit(make_train_step(llama, STAGE, SETTINGS, False, 1, mesh))
        losses = []
        for seed in range(steps):
            state, metrics = step(state, sharding.put_batch(mesh, batch(seed)))
            losses.append(float(metrics["loss"]))
    return TrainState(*jax.device_get(state)), losses


def test_padding_changes_neither_losses_nor_parameters_and_is_not_trained(params):
    plain, padded = params
    one = sharding.make_mesh(Mesh(), devices=jax.devices()[:1])
    expected, losses = trained(PLAIN, plain, one)
    for mesh in (one, sharding.make_mesh(Mesh(fsdp=2, tensor=4))):
        actual, padded_losses = trained(PADDED, padded, mesh)
        np.testing.assert_allclose(padded_losses, losses, rtol=1e-6)
        for name, axis in (("embedding", 0), ("head", 1)):
            rows, rest = np.split(actual.params[name], [40], axis)
            np.testing.assert_allclose(rows, expected.params[name], rtol=2e-4, atol=1e-6)
            np.testing.assert_array_equal(rest, 3.0)  # also not by weight decay
        for name, values in expected.params["blocks"].items():
            np.testing.assert_allclose(actual.params["blocks"][name], values, rtol=2e-4, atol=1e-6)


def test_the_gradients_of_padding_are_zero(params):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 32)), jnp.float32)
    targets, weights = jnp.asarray(batch()["targets"][:2, :8]), jnp.ones((2, 8))

    def loss(x, head, padding):
        return weighted_loss(x, head, targets, weights, 4, None, padding)[0]

    value, (dx, dhead) = jax.value_and_grad(loss, (0, 1))(x, params[1]["head"], 24)
    plain, (plain_dx, plain_dhead) = jax.value_and_grad(loss, (0, 1))(x, params[0]["head"], 0)
    assert value == pytest.approx(float(plain), rel=1e-6)
    np.testing.assert_allclose(dx, plain_dx, atol=1e-6)
    np.testing.assert_allclose(dhead[:, :40], plain_dhead, atol=1e-6)
    assert not np.any(dhead[:, 40:])


def test_padding_is_not_generated(params):
    """Also on several devices: the tokens are the most likely ones of the model without padding."""
    mesh = sharding.make_mesh(Mesh(fsdp=2, tensor=2), devices=jax.devices()[:4])
    prompt = list(range(3, 9))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params[1], param_shardings(PADDED, mesh))
        (generated,) = greedy(PADDED, mesh, placed, [prompt], 5, stop=-1)
    decoder, ids = merged(PLAIN, params[0]), jnp.array([prompt + generated])
    logits = hidden_states(decoder, PLAIN, ids, jnp.arange(ids.size)[None]) @ decoder.head[...]
    assert len(generated) == 5 and generated == logits[0, 5:-1].argmax(axis=-1).tolist()


# --- the number of rows of a stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound, origin, named, rows, padding", [
    (0, 0, 0, 528, 0),  # random parameters
    (0, 512, 512, 528, 0),  # rows are added for infilling
    (0, 576, 512, 576, 48),  # a padded import
    (0, 576, 530, 576, 46),  # with added tokens
    (576, 512, 512, 576, 48),  # padding is added by the stage
    (576, 576, 528, 576, 48),
])  # fmt: skip
def test_rows_are_those_of_tokenizer_and_checkpoint(small_tokenizer, bound, origin, named, rows, padding):
    llama = with_vocabulary(dataclasses.replace(PLAIN, vocab_size=bound), small_tokenizer, origin, named)
    assert (llama.vocab_size, llama.padding_rows) == (rows, padding)


@pytest.mark.parametrize("bound, origin, named, words", [
    (520, 0, 0, "needs 528 rows .* but Llama.vocab_size=520: bind TOKENIZER"),
    (32_016, 0, 0, "needs 528 rows .* but Llama.vocab_size=32016: bind TOKENIZER"),
    (0, 32_016, 0, "needs 528 rows .* but the checkpoint has 32016: bind TOKENIZER"),
    (528, 576, 528, "has 576 vocabulary rows, but Llama.vocab_size=528: rows cannot be removed; bind VOCAB_SIZE=576"),
])  # fmt: skip
def test_rows_that_do_not_belong_to_the_tokenizer_are_refused(small_tokenizer, bound, origin, named, words):
    with pytest.raises(UserError, match=words):
        with_vocabulary(dataclasses.replace(PLAIN, vocab_size=bound), small_tokenizer, origin, named)


def test_a_checkpoint_with_another_tokenizer_is_refused(tmp_path, small_tokenizer):
    """Its rows mean other tokens than those that the stage reads."""
    (tmp_path / "metadata").mkdir()
    llama = dataclasses.asdict(dataclasses.replace(PLAIN, vocab_size=528))
    metadata = {"llama": llama, "sequence_length": 8, "imported": {}}
    (tmp_path / "metadata/metadata").write_text(json.dumps(metadata))
    config = Config(
        stage=STAGE,
        llama=dataclasses.replace(PLAIN, vocab_size=0),
        tokenizer=TokenizerSettings(),
        chat=Chat(),
        checkpoints=Checkpoints(initial=str(tmp_path)),
    )

    def of_stage():
        return stage_model(config, tmp_path / "run", small_tokenizer, dialogues=False)

    own = tmp_path / "tokenizer.model"
    own.write_bytes(small_tokenizer.model)
    assert of_stage().llama.vocab_size == 528 and of_stage().files == {assets.MODEL: small_tokenizer.model}
    other = model_pb2.ModelProto.FromString(small_tokenizer.model)
    other.pieces[300].piece, other.pieces[301].piece = other.pieces[301].piece, other.pieces[300].piece
    own.write_bytes(other.SerializeToString())
    with pytest.raises(UserError, match=f"the tokenizer of code differs from {own}, .* from id 300 on: bind"):
        of_stage()
    allowed = dataclasses.replace(config, checkpoints=Checkpoints(initial=str(tmp_path), allowed_changes="tokenizer"))
    changed = stage_model(allowed, tmp_path / "run", small_tokenizer, dialogues=False)
    assert changed.files == {assets.MODEL: small_tokenizer.model}
    fewer = model_pb2.ModelProto.FromString(small_tokenizer.model)
    del fewer.pieces[500:]
    own.write_bytes(fewer.SerializeToString())
    assert of_stage().files == {assets.MODEL: small_tokenizer.model}  # of the run, which has more pieces
    own.write_bytes(small_tokenizer.model)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/added_tokens.json").write_text('{"<pad>": 512}')
    with pytest.raises(UserError, match=r"the added token '<pad>' with id 512, which Tokenizer\.infilling=True uses"):
        of_stage()
