"""Two statements for one fact are refused unless they agree. An export states each fact once."""

import dataclasses
import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from random_models import SIZES, Random, safetensors_content

from codellama_jax.conversion import formats, hf, hf_config, meta, safetensors
from codellama_jax.conversion.canonical import Tensor

LINEAR = {"type": "linear", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theirs") / "theirs"
    folder.mkdir()
    hf.write(Random(SIZES["7b"]), folder, 120_000)
    return folder


@pytest.fixture
def theirs(written, tmp_path):
    return shutil.copytree(written, tmp_path / "theirs")


def change(folder, **keys):
    config = json.loads((folder / "config.json").read_text())
    for key, value in keys.items():
        config.pop(key, None)
        if value != "absent":
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("keys, words", [
    ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
     "rope_scaling is linear with factor 4, but rope_parameters is no scaling"),
    ({"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"factor": 2}},
     "rope_scaling is linear with factor 4, but rope_parameters is linear with factor 2"),
    ({"rope_scaling": None, "rope_parameters": LINEAR}, "rope_scaling is no scaling, but rope_parameters is linear"),
    ({"rope_scaling": {}, "rope_parameters": LINEAR}, "rope_scaling is no scaling, but rope_parameters is linear"),
    ({"rope_scaling": YARN, "rope_parameters": YARN | {"beta_fast": 16}},
     "rope_scaling is yarn with factor 4, original_max_position_embeddings 128, but rope_parameters is yarn with factor"
     " 4, original_max_position_embeddings 128, beta_fast 16"),
    ({"rope_scaling": YARN, "rope_parameters": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0}}, "but rope_parameters is llama3 with factor 4"),
    ({"rope_scaling": {"type": "dynamic", "factor": 4.0}, "rope_parameters": LINEAR}, "rope_scaling is dynamic with"),
    ({"rope_scaling": YARN, "original_max_position_embeddings": 256}, "original_max_position_embeddings is 256, but"),
    ({"max_sequence_length": 2048}, "max_position_embeddings is 512, but max_sequence_length is 2048"),
    ({"n_positions": 1024}, "max_position_embeddings is 512, but n_positions is 1024"),
    ({"norm_eps": 1e-6}, "rms_norm_eps is 1e-05, but norm_eps is 1e-06"),
    ({"rope_parameters": {"rope_theta": 1e6}}, "rope_theta is 10000.0, but rope_parameters.rope_theta is 1000000.0"),
    ({"rope_scaling": LINEAR | {"rope_theta": 5e5}}, "rope_theta is 10000.0, but rope_scaling.rope_theta is 500000.0"),
    ({"rope_theta": "absent", "rope_scaling": LINEAR | {"rope_theta": 1e6},
      "rope_parameters": LINEAR | {"rope_theta": 1e4}}, "rope_scaling.rope_theta is 1000000.0"),
    ({"rope_scaling": LINEAR | {"rope_type": "default"}}, 'rope_scaling.rope_type is "default"'),
    ({"rope_theta": "absent", "rope_parameters": {"full_attention": {"rope_theta": 1e6},
      "sliding_attention": {"rope_theta": 1e4}}}, "rope_parameters.sliding_attention.rope_theta is 10000.0"),
    ({"rope_parameters": {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default"}}},
     "rope_parameters.sliding_attention is no scaling"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": None}},
     "rope_parameters.sliding_attention is null"),
    ({"rope_parameters": {"full_attention": LINEAR, "rope_theta": 1e6}}, "rope_parameters.rope_theta is 1000000.0"),
    ({"dtype": "float16"}, 'dtype is "float16", but torch_dtype is "bfloat16"'),
    ({"head_dim": 32}, "config.json says [128, 64]"),
    ({"num_key_value_heads": 2}, "config.json says [32, 64]"),
    ({"vocab_size": 336}, "model.embed_tokens.weight has shape [320, 64], but config.json says [336, 64]"),
])  # fmt: skip
def test_values_that_differ_are_refused(theirs, tmp_path, run, keys, words):
    output = run("import", "--from", change(theirs, **keys), "--to", tmp_path / "ours", code=1)
    assert words in output and str(theirs) in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("keys, theta, scale", [
    ({}, 1e4, 1),
    ({"rope_theta": "absent"}, 1e4, 1),
    ({"rope_scaling": LINEAR, "rope_parameters": {"rope_type": "linear", "factor": 4, "rope_theta": 1e4}}, 1e4, 0.25),
    ({"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 1e4, 1),
    ({"rope_theta": None, "rope_parameters": {"rope_theta": 1e6}}, 1e6, 1),
    ({"rope_theta": "absent", "rope_parameters": LINEAR | {"rope_theta": 1e6}}, 1e6, 0.25),
    ({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2}}, 1e6, 0.5),
    ({"rope_scaling": LINEAR, "rope_parameters": None}, 1e4, 0.25),
    ({"rope_scaling": YARN, "rope_parameters": YARN | {"beta_fast": 32, "beta_slow": None, "truncate": True}}, 1e4, 1),
    ({"rope_scaling": LINEAR, "rope_parameters": {}}, 1e4, 0.25),
    ({"max_sequence_length": 512, "norm_eps": 1e-5, "torch_dtype": "torch.bfloat16", "dtype": "bfloat16"}, 1e4, 1),
    ({"rope_scaling": {"type": "linear", "factor": 1.0}, "rope_parameters": {"rope_type": "default"}}, 1e4, 1),
    ({"rope_theta": "absent", "rope_parameters": {"full_attention": {"rope_theta": 1e6},
      "sliding_attention": {"rope_theta": 1e6}}, "layer_types": ["full_attention"] * 3}, 1e6, 1),
    ({"num_key_value_heads": None, "head_dim": 16, "dtype": "bfloat16", "sliding_window": None}, 1e4, 1),
])  # fmt: skip
def test_values_that_agree_are_accepted(theirs, keys, theta, scale):
    llama = formats.open_checkpoint(change(theirs, **keys)).source.model.llama
    assert (llama.rope_theta, llama.rope_scale) == (theta, scale)


def index_with(folder, **entries):
    index = json.loads((folder / hf.INDEX).read_text())
    index["weight_map"] |= entries
    (folder / hf.INDEX).write_text(
        json.dumps({**index, "weight_map": {k: v for k, v in index["weight_map"].items() if v}})
    )


def tensor_twice(folder):
    source = Random(SIZES["7b"])
    with (folder / "model-00009-of-00009.safetensors").open("wb") as file:
        safetensors.write(file, [("lm_head.weight", "bfloat16", (320, 64))], [source.arrays[Tensor("head")]])
    index_with(folder, extra="model-00009-of-00009.safetensors")


@pytest.mark.parametrize("damage, words", [
    (lambda folder: hf.write(Random(SIZES["7b"], "float16"), folder), "has model.safetensors, and model.safetensors."),
    (lambda folder: index_with(folder, **{"lm_head.weight": "model-00001-of-00005.safetensors"}),
     "says that lm_head.weight is in model-00001-of-00005.safetensors, but it is in model-00005-of-00005.safetensors"),
    (lambda folder: index_with(folder, **{"lm_head.weight": None}), "does not have lm_head.weight, which is in"),
    (lambda folder: index_with(folder, other="model-00001-of-00005.safetensors"), "says that other is in model-00001"),
    (lambda folder: index_with(folder, other="../model.safetensors"), 'the file of other is "../model.safetensors"'),
    (lambda folder: index_with(folder, other=3), "the file of other is 3"),
    (tensor_twice, "has lm_head.weight twice, in model-00005-of-00005.safetensors and model-00009-of-00009"),
    (lambda folder: (folder / hf.INDEX).unlink(), f"{hf.INDEX} is missing"),
])  # fmt: skip
def test_tensors_that_lie_elsewhere_are_refused(theirs, tmp_path, run, damage, words):
    assert len(list(theirs.glob("*.safetensors"))) == 5
    damage(theirs)
    assert words in run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)


def test_an_index_that_names_the_single_file_is_accepted(tmp_path, run):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    hf.write(Random(SIZES["7b"]), theirs)
    names = [hf.name_of(tensor) for tensor in Random(SIZES["7b"]).arrays]
    (theirs / hf.INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, hf.SINGLE)}))
    run("import", "--from", theirs, "--to", tmp_path / "ours")


def test_other_files_with_tensors_are_named(theirs, tmp_path, run):
    for name in ("pytorch_model.bin", "consolidated.safetensors", "adapter_model.safetensors", "adapter_config.json"):
        (theirs / name).write_bytes(b"")
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert (
        "not read, because model-00001-of-00005.safetensors has the tensors: consolidated.safetensors, pytorch"
        in output
    )
    assert "adapter_config.json and adapter_model.safetensors belongs to an adapter" in output and "merge it" in output
    for path in (*theirs.glob("*model*.*"), theirs / "consolidated.safetensors"):
        if not path.name.startswith("adapter"):
            path.unlink()
    for _ in range(2):
        output = run("import", "--from", theirs, "--to", tmp_path / "no", code=1)
        assert (
            "adapter_model.safetensors is an adapter, not a model: import it with its model" in output
            and "merge it" in output
        )
        (theirs / "config.json").unlink(missing_ok=True)


def test_two_formats_in_one_folder_must_describe_the_same_model(theirs, tmp_path, run):
    meta.write(Random(SIZES["7b"]), theirs, 1)
    change(theirs, rms_norm_eps=1e-5)
    output = run("import", "--from", theirs, "--to", tmp_path / "a")
    assert "not read, because model-00001-of-00005.safetensors has the tensors: consolidated.00.pth" in output
    change(theirs, rope_theta=1e6)
    output = run("import", "--from", theirs, "--to", tmp_path / "b", code=1)
    assert "describe different models (rope_theta: 1000000.0 and 10000.0)" in output
    for path in theirs.glob("model*"):
        path.unlink()
    assert "describe different models" in run("import", "--from", theirs, "--to", tmp_path / "b", code=1)
    change(theirs, rope_theta=1e4)
    assert run("import", "--from", theirs, "--to", tmp_path / "b").startswith("Meta")


@pytest.mark.parametrize("equal", [True, False])
def test_a_tied_flag_beside_another_head(tmp_path, run, equal):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    source = Random(SIZES["7b"], tied=False)
    if equal:
        source.arrays[Tensor("head")] = source.arrays[Tensor("embedding")]
    hf.write(source, theirs)
    change(theirs, tie_word_embeddings=True)
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert ("lm_head.weight differs from model.embed_tokens.weight" in output) == (not equal)
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf")
    content, config = safetensors_content(tmp_path / "out"), json.loads((tmp_path / "out/config.json").read_text())
    assert config["tie_word_embeddings"] == equal == ("lm_head.weight" not in content)
    assert run("verify", "--a", theirs, "--b", tmp_path / "out").startswith("equal")


def test_an_export_states_each_fact_once(tmp_path):
    source = Random(dataclasses.replace(SIZES["7b"], rope_theta=1e6, rope_scale=0.25))
    hf.write(source, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["rope_theta"] == 1e6 and config["rope_scaling"] == {"type": "linear", "factor": 4}
    assert config["torch_dtype"] == "bfloat16"
    assert not config.keys() & {"rope_parameters", "dtype", "head_dim"}
    plain = json.dumps(hf_config.config_json(Random(SIZES["7b"]).model))
    assert "rope_scaling" not in plain and "rope_parameters" not in plain


@pytest.mark.parametrize("keys", [
    {"rope_theta": 5e5},
    {"rope_scaling": {"type": "linear", "factor": 8.0}},
    {"rope_scaling": "absent"},
    {"torch_dtype": "float32"},
])  # fmt: skip
def test_one_edit_of_an_export_reaches_transformers_and_this_project(tmp_path, keys):
    transformers = pytest.importorskip("transformers")
    hf.write(Random(dataclasses.replace(SIZES["7b"], rope_theta=1e6, rope_scale=0.25)), tmp_path)
    change(tmp_path, **keys)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    llama = formats.open_checkpoint(tmp_path).source.model.llama
    assert theirs.rope_parameters["rope_theta"] == llama.rope_theta
    assert theirs.rope_parameters.get("factor", 1.0) == 1 / llama.rope_scale
    assert str(theirs.dtype).removeprefix("torch.") == keys.get("torch_dtype", "bfloat16")


def test_a_value_beyond_the_range_of_the_dtype_is_refused(tmp_path, run):
    source = Random(SIZES["7b"], "float32")
    source.arrays[Tensor("w2", 1)][3, 5] = -70_000
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    hf.write(source, theirs)
    name = "model.layers.1.mlp.down_proj.weight"
    for argv in (("--format=hf",), ("--format=meta",)):
        argv = ("export", "--from", theirs, "--to", tmp_path / "out", *argv)
        output = run(*argv, "--dtype=float16", code=1)
        assert f"{name} has the value -70000, beyond the range of float16 (±65504): use --dtype=bfloat16" in output
        assert [path.name for path in tmp_path.iterdir()] == ["theirs"]
    run("export", "--from", theirs, "--to", tmp_path / "out", "--format=hf", "--dtype=bfloat16")
    array = np.frombuffer(safetensors_content(tmp_path / "out")[name][2], ml_dtypes.bfloat16)
    np.testing.assert_array_equal(array, source.arrays[Tensor("w2", 1)].astype(ml_dtypes.bfloat16).ravel())
    source.arrays[Tensor("norm")][0] = 65_519  # rounds to the largest value
    source.arrays[Tensor("w2", 1)][3, 5] = 65_504
    hf.write(source, theirs)
    run("export", "--from", theirs, "--to", tmp_path / "edge", "--format=hf", "--dtype=float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_values_that_are_not_finite_are_reported(tmp_path, run, dtype):
    source = Random(SIZES["7b"], dtype)
    source.arrays[Tensor("wq", 2)][:2, 0] = np.nan
    source.arrays[Tensor("norm")][3] = -np.inf
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    hf.write(source, theirs)
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert "warning: model.layers.2.self_attn.q_proj.weight has values that are not finite (2 NaN)" in output
    assert "warning: model.norm.weight has values that are not finite (1 infinite)" in output
    output = run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf", "--dtype=float16")
    assert "blocks.wq.2 has values that are not finite (2 NaN)" in output
    assert json.loads(run("verify", "--a", theirs, "--b", tmp_path / "ours", "--json"))["equal"]


@pytest.mark.parametrize("format", ["hf", "meta"])
def test_an_export_of_another_format_converts_the_values(tmp_path, run, format):
    """Without an import between: the bytes must be those of the dtype that the file names."""
    source = Random(SIZES["7b"], "bfloat16")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    hf.write(source, theirs) if format == "hf" else meta.write(source, theirs, 2)
    run("export", "--from", theirs, "--to", tmp_path / "out", "--format=hf", "--dtype=float16")
    result = json.loads(run("verify", "--a", theirs, "--b", tmp_path / "out", "--json", "--tolerance=1e-6"))
    assert result["equal"] and not result["same_dtypes"]
