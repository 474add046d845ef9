"""Models with one matrix for embedding and head: imported, grown, trained and exported as one."""

import dataclasses
import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from random_models import SIZES, Random, safetensors_content

from codellama_jax.config.training import AdamW, Checkpoints, Mesh, Stage
from codellama_jax.conversion import formats, hf, meta, native, verify
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.sharding import make_mesh
from codellama_jax.training import inheritance, lineage
from codellama_jax.training.checkpoints import StageCheckpoints
from codellama_jax.training.initialization import ParentCheckpoint, fresh_state
from codellama_jax.training.lineage import Lineage

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = dataclasses.replace(SIZES["7b"], tied=True)


@pytest.fixture
def imported(tmp_path, run):
    (tmp_path / "theirs").mkdir()
    hf.write(Random(SIZES["7b"], "float32", tied=True), tmp_path / "theirs")
    run("import", "--from", tmp_path / "theirs", "--to", tmp_path / "ours")
    return tmp_path / "ours"


def test_an_import_has_the_matrix_once_and_a_stage_loads_it(imported):
    assert not list((imported / "params").glob("head*"))
    parent = ParentCheckpoint.read(imported, TIED)
    params = parent.load_params(make_mesh(Mesh(fsdp=2, tensor=2), devices=jax.devices()[:4]))
    assert "head" not in params
    assert sum(x.size for x in jax.tree.leaves(params)) == TIED.parameters
    with pytest.raises(UserError, match=r"Llama\.tied=True, but this stage has False"):
        ParentCheckpoint.read(imported, SIZES["7b"])


def test_new_rows_are_added_to_the_matrix(imported, tmp_path, run):
    run("import", "--from", imported, "--to", tmp_path / "grown", "--vocab_size=336")
    run("export", "--from", tmp_path / "grown", "--to", tmp_path / "out", "--format=hf")
    content = safetensors_content(tmp_path / "out")
    assert content[EMBEDDING][1] == (336, 64) and HEAD not in content
    rows = np.frombuffer(content[EMBEDDING][2], np.float32).reshape(336, 64)
    np.testing.assert_allclose(rows[320:], np.tile(rows[:320].mean(0), (16, 1)), rtol=1e-5, atol=1e-8)


def test_a_trained_checkpoint_is_exported_tied_and_with_the_type_of_its_import(imported, tmp_path, run):
    mesh = make_mesh(Mesh(), devices=jax.devices()[:1])
    stage = Stage(name="code", size="local", parent=None, steps=2, batch_tokens=64, sequence_length=16)
    with jax.set_mesh(mesh):
        state = fresh_state(TIED, stage, AdamW(peak_learning_rate=1e-3), mesh, None)
        saves = StageCheckpoints(tmp_path / "code", Checkpoints())
        recorded = Lineage(16, model_type="mistral").json()
        metadata = {"step": 1, "stage": "code", "llama": dataclasses.asdict(TIED), "sequence_length": 16, "config": ""}
        saves.save(1, state, {}, metadata | {"parent": None, "lineage": recorded})
        saves.close()
    trained = tmp_path / "code/checkpoints/1"
    run("export", "--from", trained, "--to", tmp_path / "out", "--format=hf", "--dtype=float32")
    content = safetensors_content(tmp_path / "out")
    assert HEAD not in content
    assert content[EMBEDDING][2] == np.asarray(state.params["embedding"]).tobytes()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] and config["model_type"] == "mistral"
    assert config["architectures"] == ["MistralForCausalLM"] and config["sliding_window"] is None


def test_a_stage_keeps_the_type_of_its_import():
    imported = Lineage.of({"sequence_length": 64, "imported": {"notes": {"model_type": "mistral"}}})
    assert imported.model_type == "mistral" and Lineage.of({"sequence_length": 64}).model_type == "llama"
    assert lineage.Lineage.of({"lineage": imported.json()}) == imported


def test_an_import_of_an_earlier_version_is_exported_tied_and_trained_as_before(tmp_path, run):
    """Those have the matrix twice, and the word "tied" in their metadata."""
    source = Random(SIZES["7b"], "float32")
    source.arrays[Tensor("head")] = source.arrays[Tensor("embedding")]
    native.write(source, tmp_path / "old", "Hugging Face: theirs", {}, Lineage(512))
    metadata = json.loads((tmp_path / "old/metadata/metadata").read_text())
    metadata["imported"]["tied"] = True
    metadata["llama"] = {key: value for key, value in metadata["llama"].items() if key not in inheritance.LLAMA_ADDED}
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "old/metadata", args=ocp.args.JsonSave(metadata), force=True)
    (tmp_path / "old" / checksums.NAME).unlink()
    checksums.write(tmp_path / "old")
    run("export", "--from", tmp_path / "old", "--to", tmp_path / "out", "--format=hf")
    content = safetensors_content(tmp_path / "out")
    assert HEAD not in content and content[EMBEDDING][2] == source.arrays[Tensor("embedding")].tobytes()
    params = ParentCheckpoint.read(tmp_path / "old", SIZES["7b"]).load_params(make_mesh(Mesh()))
    np.testing.assert_array_equal(params["head"], np.asarray(params["embedding"]).T)


def test_formats_with_a_head_have_the_matrix_twice(imported, tmp_path, run):
    run("export", "--from", imported, "--to", tmp_path / "meta", "--format=meta")
    opened = formats.open_checkpoint(tmp_path / "meta").source
    assert not opened.model.llama.tied
    assert opened.rows(Tensor("head"), 0, 320).tobytes() == opened.rows(Tensor("embedding"), 0, 320).tobytes()
    assert json.loads(run("verify", "--a", tmp_path / "meta", "--b", imported, "--logits", "--json"))["equal"]
    assert verify.different_settings(opened.model.llama, TIED) == []
    assert meta.name_of(Tensor("head")) == "output.weight"
