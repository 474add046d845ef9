"""A trained Llama, stories260K (grouped queries, tied head, adjacent rotary pairs): reference text and logits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.conversion import formats, verify
from codellama_jax.model.llama import hidden_states, output_head
from codellama_jax.training.step import merged


@pytest.fixture(scope="module")
def stories(shared_data):
    folder = shared_data / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.fixture
def imported(stories, tmp_path, run):
    run("import", "--from", stories, "--to", tmp_path / "ours")
    return formats.open_checkpoint(tmp_path / "ours").source


def test_logits_equal_the_reference(stories, imported):
    with np.load(stories / "golden_logits.npz") as golden:
        logits = verify.logits_of(imported, golden["tokens"])
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-4, rtol=0)


def test_greedy_text_equals_the_reference(stories, imported):
    golden = json.loads((stories / "golden_greedy.json").read_text())
    ids = golden["greedy_ids"]
    assert len(ids) >= 200
    llama = dataclasses.replace(imported.model.llama, compute_dtype="float32", remat="none")
    positions = jnp.arange(len(ids))[None]

    @jax.jit
    def best(params, tokens, last):
        model = merged(llama, params)
        return jnp.argmax(hidden_states(model, llama, tokens[None], positions)[0, last] @ output_head(model, llama))

    params = jax.tree.map(jnp.asarray, verify.load(imported))
    tokens = jnp.zeros(len(ids), jnp.int32).at[0].set(ids[0])
    for last in range(len(ids) - 1):
        tokens = tokens.at[last + 1].set(best(params, tokens, last))
    assert tokens.tolist() == ids


def test_the_model_is_the_same_in_all_formats(stories, imported, tmp_path, run):
    for format in ("hf", "meta"):
        run("export", "--from", tmp_path / "ours", "--to", tmp_path / format, f"--format={format}")
        output = run("verify", "--a", stories / "stories260K.bin", "--b", tmp_path / format, "--logits", "--json")
        result = json.loads(output)
        assert result["equal"] and result["max_tensor_difference"] == result["max_logit_difference"] == 0


def test_an_untied_head_is_read_from_the_end_of_the_file(stories, tmp_path, run):
    raw = bytearray((stories / "stories260K.bin").read_bytes())
    raw[20:24] = (-512).to_bytes(4, "little", signed=True)
    head = np.arange(512 * 64, dtype="<f4").reshape(512, 64)
    (tmp_path / "untied.bin").write_bytes(bytes(raw) + head.tobytes())
    run("import", "--from", tmp_path / "untied.bin", "--to", tmp_path / "ours")
    np.testing.assert_array_equal(verify.load(formats.open_checkpoint(tmp_path / "ours").source)["head"], head.T)


@pytest.mark.parametrize("change, words", [
    (lambda raw: raw[:-4], "but its header says 1,056,540: fetch it again"),
    (lambda raw: raw[:20], "is not a checkpoint of llama2.c"),
    (lambda raw: bytes(28) + raw[28:], "is not a checkpoint of llama2.c"),
    (lambda raw: (0x616B3432).to_bytes(4, "little") + raw[4:], "export it with --version 0"),
])  # fmt: skip
def test_files_of_other_formats_and_truncated_files_are_refused(stories, tmp_path, run, change, words):
    path = tmp_path / "model.bin"
    path.write_bytes(change((stories / "stories260K.bin").read_bytes()))
    assert words in run("import", "--from", path, "--to", tmp_path / "ours", code=1)
    if path.stat().st_size > 28 and "not a checkpoint" not in words:  # a folder names its damaged file
        assert words in run("import", "--from", tmp_path, "--to", tmp_path / "ours", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]
