"""Each family of models computes what transformers computes: logits, gradients, greedy tokens, and after an export."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, model, save

from codellama_jax import convert
from codellama_jax.config.training import Mesh
from codellama_jax.conversion import canonical, formats, hf, verify
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.generation import forward
from codellama_jax.sharding import make_mesh
from codellama_jax.training.step import make_loss

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LOGITS = 2e-5  # absolute
GRADIENTS = 1e-4  # for each parameter, relative to the norm of its gradient
LENGTH, PROMPT = 160, 60


@functools.cache
def theirs(name):
    """The model, ids [S + 1], its logits [S, V], and the gradients of the mean loss."""
    made = model(name)
    ids = np.random.default_rng(1).integers(0, made.config.vocab_size, LENGTH + 1)
    logits = made(torch.tensor(ids[:-1])[None]).logits[0]
    torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).backward()
    gradients = {key: parameter.grad.numpy() for key, parameter in made.named_parameters()}
    return made, ids, logits.detach().numpy(), gradients


@pytest.fixture(scope="module", params=FAMILIES)
def imported(request, tmp_path_factory):
    """The name of a family, the folder of an import, and its Source."""
    folder = tmp_path_factory.mktemp(request.param)
    save(theirs(request.param)[0], folder / "theirs", 5)
    assert convert.main(["import", f"--from={folder / 'theirs'}", f"--to={folder / 'ours'}"]) == 0
    return request.param, folder / "ours", formats.open_checkpoint(folder / "ours").source


def gradients(source, ids):
    """The gradients of the mean loss, under Hugging Face's names."""
    llama = dataclasses.replace(source.model.llama, compute_dtype="float32", loss_chunk=64)
    row = np.arange(LENGTH, dtype=np.int32)[None]
    batch = {"tokens": ids[None, :-1], "targets": ids[None, 1:], "positions": row, "segment_ids": np.ones_like(row)}
    batch |= {"loss_weights": np.full(row.shape, 1 / LENGTH, np.float32)}
    mesh = make_mesh(Mesh(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        loss = make_loss(llama, False, mesh)
        found, _ = jax.jit(jax.grad(loss, has_aux=True))(verify.load(source), jax.tree.map(jnp.asarray, batch))
    by_name = {}
    for tensor in canonical.tensors(llama):
        stacked = found[tensor.name] if tensor.layer is None else found["blocks"][tensor.name][tensor.layer]
        by_name[hf.name_of(tensor)] = canonical.from_native(llama, tensor.name, np.asarray(stacked))
    return by_name


def test_logits_and_gradients_equal_those_of_transformers(imported):
    name, _, source = imported
    _, ids, logits, their_gradients = theirs(name)
    np.testing.assert_allclose(verify.logits_of(source, ids[:-1]), logits, atol=LOGITS, rtol=0)
    ours = gradients(source, ids)
    assert ours.keys() == their_gradients.keys()
    errors = {key: np.linalg.norm(ours[key] - g) / np.linalg.norm(g) for key, g in their_gradients.items()}
    assert max(errors.values()) <= GRADIENTS, errors


def test_greedy_tokens_equal_those_of_transformers(imported):
    name, _, source = imported
    made, ids, _, _ = theirs(name)
    llama = dataclasses.replace(source.model.llama, compute_dtype="float32")

    def read(tensor, layer):
        rows = source.rows(Tensor(tensor, layer), 0, canonical.shape(llama, tensor)[0])
        return canonical.to_native(llama, tensor, rows)

    prompt, weights = ids[None, :PROMPT].astype(np.int32), forward.weights_of(read, llama)
    table = np.arange(1, 1 + -(-LENGTH // forward.BLOCK), dtype=np.int32)[None]

    def following(cache, tokens, start):
        positions = start + jnp.arange(tokens.shape[1])[None]
        x, cache = forward.forward(weights, llama, cache, tokens, positions, jnp.ones(tokens.shape, bool), table)
        return cache, jnp.argmax(forward.logits(weights, x[:, -1]), -1).astype(jnp.int32)

    @jax.jit
    def greedy(cache, prompt):
        def step(carry, position):
            cache, token = following(*carry[:1], carry[1][:, None], position)
            return (cache, token), token

        cache, first = following(cache, prompt, 0)
        _, rest = jax.lax.scan(step, (cache, first), jnp.arange(PROMPT, LENGTH - 1))
        return jnp.concatenate([first, rest[:, 0]])

    ours = greedy(forward.new_cache(llama, table.size, forward.BLOCK), prompt)
    with torch.no_grad():
        expected = made.generate(torch.tensor(prompt), max_new_tokens=LENGTH - PROMPT, do_sample=False)[0].tolist()
    assert ours.tolist() == expected[PROMPT:]


def test_an_export_is_the_model_of_transformers_again(imported, tmp_path, run):
    name, ours, _ = imported
    made, ids, logits, _ = theirs(name)
    run("export", "--from", ours, "--to", tmp_path / "out", "--format=hf")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(loaded) is type(made)
    assert loaded.config.tie_word_embeddings == made.config.tie_word_embeddings
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(torch.tensor(ids[:-1])[None]).logits[0].numpy(), logits)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["model_type"] == made.config.model_type
    # and the other way round: config.json with the keys of each version describes the same model
    for version in (4, 5):
        save(loaded, tmp_path / str(version), version)
        result = run("verify", "--a", tmp_path / str(version), "--b", ours, "--json").splitlines()[0]
        assert json.loads(result)["equal"]
