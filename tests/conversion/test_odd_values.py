"""Null and impossible values in config.json and params.json are reported in one line that names the key."""

import json
import shutil

import pytest
from random_models import SIZES, Random

from codellama_jax.conversion import hf, meta


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for name in ("hf", "meta"):
        (folder / name).mkdir()
    hf.write(Random(SIZES["7b"]), folder / "hf")
    meta.write(Random(SIZES["70b"]), folder / "meta", 4)
    return folder


@pytest.mark.parametrize("keys, words", [
    ({"rope_theta": None}, "rope_theta is null, not a number above 1"),
    ({"rope_theta": "1e6"}, 'rope_theta is "1e6", not a number'),
    ({"rope_theta": 0}, "rope_theta is 0, not a number above 1"),
    ({"rope_theta": -1e4}, "rope_theta is -10000.0, not a number above 1"),
    ({"rope_theta": True}, "rope_theta is true"),
    ({"rope_theta": 10**400}, "rope_theta is 1000"),
    ({"rope_parameters": {"rope_theta": None}}, "rope_parameters.rope_theta is null"),
    ({"rope_scaling": "linear"}, 'rope_scaling is "linear": it must be an object such as'),
    ({"rope_scaling": ["linear", 4]}, "rope_scaling is ["),
    ({"rope_parameters": 4}, "rope_parameters is 4: it must be an object"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor is 0, not a number of at least 1"),
    ({"rope_scaling": {"type": "linear", "factor": -4}}, "rope_scaling.factor is -4, not a number of at least 1"),
    ({"rope_scaling": {"type": "linear", "factor": 0.25}}, "rope_scaling.factor is 0.25, not a number of at least 1"),
    ({"rope_scaling": {"type": "linear", "factor": None}}, "rope_scaling.factor is null"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling is linear, but has no factor"),
    ({"rope_scaling": {"factor": 4}}, "rope_scaling has a factor of 4, but not its type"),
    ({"rope_scaling": {"type": None, "factor": 4}}, "type None is not supported"),
    ({"rope_scaling": {"type": "dynamic"}}, "rope_scaling is dynamic, but has no factor"),
    ({"rope_scaling": {"type": "dynamic", "factor": 0.5}}, "rope_scaling.factor is 0.5, not a number of at least 1"),
    ({"rope_scaling": {"type": "dynamic", "factor": 4, "original_max_position_embeddings": 64}},
     "max_position_embeddings is 512, but rope_scaling.original_max_position_embeddings is 64"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, 'rope_scaling.factor is "4", not a number'),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": -1}}, "rope_scaling.beta_fast is -1"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "beta_fast": 0.5}}, "rope_beta_slow=1.0 must be above 0 and"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": 1}}, "rope_scaling.truncate is 1, not true"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 0}}, "rope_scaling.attention_factor is 0"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 1.5}},
     "rope_scaling.original_max_position_embeddings is 1.5"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 128},
      "original_max_position_embeddings": 256}, "original_max_position_embeddings is 256, but rope_scaling.original"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}},
     "rope_low_freq_factor=4.0 must be above 0 and below"),
    ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
     "'longrope' is not supported ('default', 'linear', 'dynamic', 'yarn' and 'llama3' are supported)"),
    ({"rope_scaling": {"type": ["yarn"], "factor": 4}}, "type ['yarn'] is not supported"),
    ({"rope_scaling": {"type": "linear", "factor": 4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ({"max_position_embeddings": None}, "max_position_embeddings is null, not a whole number above 0"),
    ({"max_position_embeddings": 0}, "max_position_embeddings is 0"),
    ({"max_position_embeddings": 4096.5}, "max_position_embeddings is 4096.5"),
    ({"rms_norm_eps": None}, "rms_norm_eps is null, not a number above 0"),
    ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
    ({"rms_norm_eps": -1e-5}, "rms_norm_eps is -1e-05"),
    ({"rms_norm_eps": 2}, "norm_eps=2.0 must be above 0 and below 1"),
    ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ({"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    ({"num_key_value_heads": "4"}, 'num_key_value_heads is "4"'),
    ({"num_hidden_layers": 10**9}, "it has 1000000000 layers"),
    ({"vocab_size": []}, "vocab_size is []"),
    ({"intermediate_size": True}, "intermediate_size is true"),
    ({"head_dim": "16"}, 'head_dim is "16", not a whole number above 0'),
    ({"tie_word_embeddings": "false"}, 'tie_word_embeddings is "false", not true or false'),
    ({"eos_token_id": "2"}, 'eos_token_id is "2", not the id of a token'),
    ({"bos_token_id": [1, None]}, "bos_token_id is [1, null], not the id of a token"),
    ({"pad_token_id": 1.5}, "pad_token_id is 1.5, not the id of a token"),
    ({"hidden_act": None}, "hidden_act is None"),
    ({"sliding_window": 4096}, "sliding_window is 4096"),
    ({"layer_types": ["sliding_attention"] * 3}, "layer_types is ['sliding_attention'"),
    ({"num_local_experts": 8}, "num_local_experts is 8"),
    ({"mlp_bias": True}, "mlp_bias is True"),
    ({"model_type": None}, "model_type is None"),
])  # fmt: skip
def test_odd_values_of_config_json_give_one_line(written, tmp_path, run, keys, words):
    theirs = shutil.copytree(written / "hf", tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text()) | keys
    (theirs / "config.json").write_text(json.dumps(config))
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert words in output and "config.json" in output
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("keys, words", [
    ({"torch_dtype": "float16"}, "torch_dtype is float16, but the tensors are bfloat16, which they stay"),
    ({"eos_token_id": [2, 320]}, "eos_token_id is 320, but the vocabulary has 320 rows: no row has this id"),
    ({"pad_token_id": 32000}, "pad_token_id is 32000, but the vocabulary has 320 rows"),
])  # fmt: skip
def test_values_that_no_tensor_confirms_are_reported_and_carried(written, tmp_path, run, keys, words):
    theirs = shutil.copytree(written / "hf", tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text()) | keys
    (theirs / "config.json").write_text(json.dumps(config))
    assert f"warning: {theirs / 'config.json'}: {words}" in run("import", "--from", theirs, "--to", tmp_path / "ours")
    run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf")
    exported = json.loads((tmp_path / "out/config.json").read_text())
    assert exported == config | {"torch_dtype": "bfloat16"}


@pytest.mark.parametrize("scaling, unread", [
    ({"rope_type": "linear", "factor": 4.0, "beta_fast": 8}, "rope_scaling.beta_fast"),
    ({"rope_type": "yarn", "factor": 4.0, "finetuned": True, "mscale": None}, "rope_scaling.finetuned"),
])  # fmt: skip
def test_values_that_the_type_of_scaling_does_not_have_are_reported(written, tmp_path, run, scaling, unread):
    theirs = shutil.copytree(written / "hf", tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text()) | {"rope_scaling": scaling}
    (theirs / "config.json").write_text(json.dumps(config))
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert f"{unread} is not read: this type of rotary scaling has no such value" in output
    assert output.count("is not read") == 1


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "generation_config.json", "model.safetensors"])
def test_git_lfs_pointers_are_named(written, tmp_path, run, name):
    theirs = shutil.copytree(written / "hf", tmp_path / "theirs")
    (theirs / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    assert "is a Git LFS pointer" in run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)


def test_a_folder_in_place_of_a_file_is_named(written, tmp_path, run):
    theirs = shutil.copytree(written / "hf", tmp_path / "theirs")
    (theirs / "model.safetensors").unlink()
    (theirs / "model.safetensors").mkdir()
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert f"{theirs / 'model.safetensors'} is not a file" in output


@pytest.mark.parametrize("text, words", [
    ("[]", "it is not a JSON object"),
    ("null", "it is not a JSON object"),
    ("", "is damaged"),
    ('{"rms_norm_eps": NaN}', "NaN is not a JSON value"),
    ('{"rope_theta": Infinity}', "Infinity is not a JSON value"),
    ('{"rope_theta": 1e4, "rope_theta": 1e6}', 'the key "rope_theta" occurs twice'),
    ('{"rope_scaling": {"factor": 2, "factor": 4}}', 'the key "factor" occurs twice'),
    ("[" * 10_000, "nested too deeply"),
    ("{}", "model_type is None"),
])  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "params.json"])
def test_files_that_are_not_json_objects_give_one_line(written, tmp_path, run, text, words, name):
    theirs = shutil.copytree(written / ("hf" if name == "config.json" else "meta"), tmp_path / "theirs")
    (theirs / name).write_text(text)
    words = "'dim' is missing" if text == "{}" and name == "params.json" else words
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert words in output and str(theirs / name) in output


@pytest.mark.parametrize("keys, words", [
    ({"rope_theta": None}, "rope_theta is null, not a number above 1"),
    ({"rope_theta": "1e6"}, 'rope_theta is "1e6"'),
    ({"norm_eps": 0}, "norm_eps is 0, not a number above 0"),
    ({"norm_eps": None}, "norm_eps is null"),
    ({"n_heads": 0}, "n_heads is 0"),
    ({"dim": None}, "dim is null"),
    ({"n_layers": 2.5}, "n_layers is 2.5"),
    ({"n_kv_heads": "8"}, 'n_kv_heads is "8"'),
    ({"vocab_size": "all"}, 'vocab_size is "all"'),
    ({"vocab_size": 0}, "vocab_size is 0"),
    ({"multiple_of": 0}, "multiple_of is 0"),
    ({"ffn_dim_multiplier": -1}, "ffn_dim_multiplier is -1"),
    ({"use_scaled_rope": True}, "use_scaled_rope is True"),
    ({"quantization_args": {"group_size": 32}}, "quantization_args is"),
])  # fmt: skip
def test_odd_values_of_params_json_give_one_line(written, tmp_path, run, keys, words):
    theirs = shutil.copytree(written / "meta", tmp_path / "theirs")
    params = json.loads((theirs / "params.json").read_text()) | keys
    (theirs / "params.json").write_text(json.dumps(params))
    output = run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)
    assert words in output and str(theirs / "params.json") in output


@pytest.mark.parametrize("missing, words", [
    ([3], "consolidated.03.pth is missing: fetch"),
    ([2, 3], "consolidated.02.pth is missing, and so are 1 more parts"),
    ([1, 2, 3], "consolidated.01.pth is missing, and so are 2 more parts"),
    ([1], "consolidated.01.pth is missing"),
    ([0], "consolidated.00.pth is missing"),
    ([0, 1, 2, 3], "consolidated.00.pth is missing"),
])  # fmt: skip
def test_missing_parts_are_named_as_missing(written, tmp_path, run, missing, words):
    theirs = shutil.copytree(written / "meta", tmp_path / "theirs")
    for part in missing:
        (theirs / f"consolidated.{part:02d}.pth").unlink()
    assert words in run("import", "--from", theirs, "--to", tmp_path / "ours", code=1)


def test_parts_that_do_not_belong_together_are_named(written, tmp_path, run):
    def theirs(number):
        return shutil.copytree(written / "meta", tmp_path / f"theirs{number}")

    twice = theirs(0)
    shutil.copy(twice / "consolidated.00.pth", twice / "consolidated.0.pth")
    assert "has two files for one part" in run("import", "--from", twice, "--to", tmp_path / "ours", code=1)
    same = theirs(1)
    shutil.copy(same / "consolidated.00.pth", same / "consolidated.03.pth")
    output = run("import", "--from", same, "--to", tmp_path / "ours", code=1)
    assert "consolidated.00.pth and consolidated.03.pth have the same tensors" in output
    mixed, other = theirs(2), Random(SIZES["70b"])
    for tensor in other.arrays:
        other.arrays[tensor] = other.arrays[tensor] + other.arrays[tensor]
    (tmp_path / "other").mkdir()
    meta.write(other, tmp_path / "other", 4)
    shutil.copy(tmp_path / "other/consolidated.02.pth", mixed / "consolidated.02.pth")
    params = json.loads((mixed / "params.json").read_text()) | {"max_seq_len": 4096, "rope_scale": 4}
    (mixed / "params.json").write_text(json.dumps(params))
    output = run("import", "--from", mixed, "--to", tmp_path / "ours")
    assert "consolidated.02.pth: layers.0.attention_norm.weight differs from that in consolidated.00.pth" in output
    assert f"{mixed / 'params.json'}: not read: max_seq_len, rope_scale" in output
