"""Hugging Face import and export: the same bits, the same logits, and only models that it can compute are accepted."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from random_models import SIZES, Random, safetensors_content

from codellama_jax.conversion import formats, hf, verify


def written(folder, source, **options):
    folder.mkdir()
    hf.write(source, folder, **options)
    return folder


@pytest.mark.parametrize("size, dtype, norms, tied, shard_bytes", [
    ("7b", "bfloat16", None, False, hf.SHARD_BYTES),
    ("7b", "float16", None, False, 100_000),
    ("7b", "float32", None, True, 100_000),
    ("70b", "bfloat16", "float32", False, 300_000),
    ("70b", "float32", None, False, hf.SHARD_BYTES),
    ("70b", "float16", None, True, hf.SHARD_BYTES),
])  # fmt: skip
def test_export_of_import_is_the_identity(tmp_path, run, size, dtype, norms, tied, shard_bytes):
    theirs = written(tmp_path / "theirs", Random(SIZES[size], dtype, tied, norms), shard_bytes=shard_bytes)
    assert (len(list(theirs.glob("*.safetensors"))) > 1) == (shard_bytes < hf.SHARD_BYTES)
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back", "--format=hf", "--shard_size=250000")
    assert safetensors_content(tmp_path / "back") == safetensors_content(theirs)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads((theirs / "config.json").read_text())


def test_layers_keep_their_different_dtypes(tmp_path, run):
    source = Random(SIZES["7b"], "bfloat16")
    for layer, dtype in ((1, "float16"), (2, "float32")):
        source.model.dtypes[f"blocks.w1.{layer}"] = dtype
    arrays = {str(tensor): tensor for tensor in source.arrays}
    for name in ("blocks.w1.1", "blocks.w1.2"):
        source.arrays[arrays[name]] = source.arrays[arrays[name]].astype(source.model.dtypes[name])
    theirs = written(tmp_path / "theirs", source)
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back", "--format=hf")
    assert safetensors_content(tmp_path / "back") == safetensors_content(theirs)


@pytest.mark.parametrize("size, theta, scale", [("7b", 1e4, 1.0), ("70b", 1e6, 1.0), ("7b", 1e4, 0.25)])
def test_transformers_computes_the_same_logits(tmp_path, run, size, theta, scale):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    llama = dataclasses.replace(SIZES[size], rope_theta=theta, rope_scale=scale)
    theirs = written(tmp_path / "theirs", Random(llama, "float32"))
    run("import", "--from", theirs, "--to", tmp_path / "ours", "--vocab_size", llama.vocab_size + 16)
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf", "--shard_size=300000")
    model, loading = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert model.config.max_position_embeddings == 512
    ids = np.random.default_rng(1).integers(0, llama.vocab_size + 16, 200)
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0].numpy()
    ours = verify.logits_of(formats.open_checkpoint(tmp_path / "ours").source, ids)
    np.testing.assert_allclose(ours, logits, atol=2e-5, rtol=0)


def test_the_safetensors_library_reads_and_writes_the_same_files(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    source = Random(SIZES["7b"], "float16")
    theirs = written(tmp_path / "theirs", source)
    loaded = library.load_file(theirs / "model.safetensors")
    assert {hf.name_of(tensor): array.tobytes() for tensor, array in source.arrays.items()} == {
        name: array.tobytes() for name, array in loaded.items()
    }
    library.save_file(loaded, theirs / "model.safetensors")
    assert verify.tensors(formats.open_checkpoint(theirs).source, source)["max_tensor_difference"] == 0


def test_imports_a_checkpoint_of_transformers(tmp_path, run):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=96,
        vocab_size=128,
        rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5},
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    run("import", "--from", tmp_path / "theirs", "--to", tmp_path / "ours")
    source = formats.open_checkpoint(tmp_path / "ours").source
    assert (source.model.llama.rope_theta, source.model.llama.rope_scale) == (5e5, 0.25)
    ids = np.random.default_rng(1).integers(0, 128, 100)
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(verify.logits_of(source, ids), logits, atol=2e-5, rtol=0)
    # and in the older format
    (tmp_path / "old").mkdir()
    shutil.move(tmp_path / "pytorch_model.bin", tmp_path / "old/pytorch_model.bin")
    shutil.copy(tmp_path / "theirs/config.json", tmp_path / "old")
    assert json.loads(run("verify", "--a", tmp_path / "old", "--b", tmp_path / "theirs", "--json"))["equal"]


@pytest.mark.parametrize("change, words", [
    ({"model_type": "mistral"}, "model_type is 'mistral'"),
    ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
    ({"attention_bias": True}, "attention_bias is True"),
    ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ({"head_dim": 8}, "config.json says [32, 64]"),
    ({"hidden_size": None}, "does not describe a Llama"),
    ({"num_attention_heads": 7}, "does not describe a Llama"),
    ({"rope_parameters": None, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "no low_freq_factor"),
    ({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}, "sliding_window is missing, so it is 4096"),
    ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 9}, "sliding_window is 9"),
    ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}, "has no model.layers.0.self_attn.k_proj.bias"),
    ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True}, "use_sliding_window"),
    ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}, "model_type is 'qwen3'"),
    ({"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "model_type is 'mixtral'"),
    ({"qk_norm": True}, "qk_norm is True"),
    ({"mlp_bias": True}, "mlp_bias is True"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ({"num_local_experts": 8}, "num_local_experts is 8"),
    ({"intermediate_size": 300}, "config.json says [300, 64]"),
    ({"num_hidden_layers": 4}, "has no model.layers.3.input_layernorm.weight"),
    ({"num_hidden_layers": 2}, "has an unknown tensor, model.layers.2."),
])  # fmt: skip
def test_unsupported_models_are_refused(tmp_path, run, change, words):
    theirs = written(tmp_path / "theirs", Random(SIZES["7b"]))
    config = json.loads((theirs / "config.json").read_text()) | change
    (theirs / "config.json").write_text(json.dumps(config))
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert words in output and "theirs" in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("name, damage, words", [
    ("model-00002-of-*", lambda path: path.unlink(), "is missing"),
    ("model-00003-of-*", lambda path: cut(path, 0.5), "is truncated"),
    ("model-00001-of-*", lambda path: cut(path, 1e-3), "is truncated"),
    ("model-00001-of-*", lambda path: scribble(path), "is damaged"),
    (hf.INDEX, lambda path: cut(path, 0.5), "is damaged"),
    ("config.json", lambda path: cut(path, 0.5), "is damaged"),
])  # fmt: skip
def test_damaged_files_are_named(tmp_path, run, name, damage, words):
    theirs = written(tmp_path / "theirs", Random(SIZES["7b"]), shard_bytes=120_000)
    (path,) = theirs.glob(name)
    damage(path)
    assert f"{path} {words}" in run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def scribble(path):
    raw = bytearray(path.read_bytes())
    raw[20:24] = b"\xff\xfe\0{"
    path.write_bytes(raw)
