"""The convert command: imports that a stage starts from, exports, comparison, and errors that leave no files."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import SIZES, Random, safetensors_content

from codellama_jax import convert, sharding
from codellama_jax.config.training import AdamW, Checkpoints, Mesh
from codellama_jax.conversion import formats, hf, verify
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.errors import UserError
from codellama_jax.runtime import checksums
from codellama_jax.training.checkpoints import StageCheckpoints, load_params, read_metadata
from codellama_jax.training.initialization import ParentCheckpoint, grow_vocabulary
from codellama_jax.training.optimizer import make_optimizer
from codellama_jax.training.step import TrainState, abstract_params, init_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def theirs(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    hf.write(Random(SIZES["7b"]), folder, 100_000)
    return folder


def test_an_import_can_be_loaded_on_any_mesh(tmp_path, theirs, run):
    """A stage loads exact values as float32, with the same result for any sharding over eight devices."""
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert f"--gin.INITIAL_CHECKPOINT={tmp_path / 'ours'}" in output
    checksums.verify(tmp_path / "ours")
    metadata = read_metadata(tmp_path / "ours")
    assert (metadata["step"], metadata["sequence_length"]) == (0, 512)
    expected = verify.load(Random(SIZES["7b"]))
    for shape in (Mesh(fsdp=8), Mesh(fsdp=2, tensor=4)):
        origin = ParentCheckpoint.read(tmp_path / "ours", SIZES["7b"])
        params = origin.load_params(sharding.make_mesh(shape))
        assert len(params["blocks"]["w1"].sharding.device_set) == 8
        jax.tree.map(np.testing.assert_array_equal, params, expected)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("new_rows", ["mean", "zero"])
def test_vocabulary_grows_as_in_training(tmp_path, theirs, run, new_rows):
    run("import", "--from", theirs, "--to", tmp_path / "ours", "--vocab_size=336", f"--new_rows={new_rows}")
    llama = dataclasses.replace(SIZES["7b"], vocab_size=336)
    params = load_params(tmp_path / "ours", abstract_params(llama))
    grown = grow_vocabulary(jax.tree.map(jnp.asarray, verify.load(Random(SIZES["7b"]))), 336)
    if new_rows == "zero":
        assert not params["embedding"][320:].any() and not params["head"][:, 320:].any()
    else:  # stored in bfloat16 like the existing rows
        as_stored = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), grown)
        for name in ("embedding", "head"):
            np.testing.assert_allclose(params[name], as_stored[name], rtol=1 / 128, atol=1e-9)
    np.testing.assert_array_equal(params["embedding"][:320], grown["embedding"][:320])
    np.testing.assert_array_equal(params["head"][:, :320], grown["head"][:, :320])
    jax.tree.map(np.testing.assert_array_equal, params["blocks"], grown["blocks"])
    output = run("import", "--from", theirs, "--to", tmp_path / "no", "--vocab_size=8", code=1)
    assert "rows cannot be removed" in output


def test_an_existing_folder_is_not_overwritten(tmp_path, theirs, run):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("mine")
    for argv in (("import",), ("export", "--format=hf"), ("export", "--format=meta")):
        assert f"{kept} exists" in run(*argv, "--from", theirs, "--to", kept, code=1)
    assert [path.name for path in kept.iterdir()] == ["mine"]


def test_an_interrupted_conversion_leaves_no_files(tmp_path, theirs, monkeypatch, capsys):
    rows = hf.HuggingFace.rows

    def interrupted(self, tensor, start, stop):
        if tensor == Tensor("w2", 1):
            raise KeyboardInterrupt
        return rows(self, tensor, start, stop)

    monkeypatch.setattr(hf.HuggingFace, "rows", interrupted)
    for argv in (["import"], ["export", "--format=hf"], ["export", "--format=meta"]):
        assert convert.main([*argv, f"--from={theirs}", f"--to={tmp_path / 'ours'}"]) == 1
        assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
        assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_the_rest_of_a_killed_conversion_is_reported(tmp_path, theirs, run):
    rest = tmp_path / ".ours.abcdefgh"
    (rest / "ours").mkdir(parents=True)
    output = run("import", "--from", theirs, "--to", tmp_path / "ours")
    assert f"warning: {rest} is the rest of a killed conversion, unless one is running" in output
    assert rest.exists() and "rest of a killed" not in run("import", "--from", theirs, "--to", tmp_path / "other")


def test_a_damaged_file_of_an_import_is_named(tmp_path, theirs, run):
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    largest = max((tmp_path / "ours/params").rglob("d/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    output = run("export", "--from", tmp_path / "ours", "--to", tmp_path / "out", "--format=hf", code=1)
    assert f"{largest.name} has changed" in output


def test_verify_detects_one_changed_bit(tmp_path, theirs, run):
    run("import", "--from", theirs, "--to", tmp_path / "ours")
    result = json.loads(run("verify", "--a", tmp_path / "ours", "--b", theirs, "--logits", "--json"))
    assert result["equal"] and result["same_dtypes"] and result["tensors"] == 30
    assert result["max_tensor_difference"] == result["max_logit_difference"] == 0
    shard = sorted(theirs.glob("*.safetensors"))[0]
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    output = run("verify", "--a", tmp_path / "ours", "--b", theirs, "--logits", "--json", code=1)
    result = json.loads(output)
    assert not result["equal"] and result["max_tensor_difference"] > 0 and result["worst_tensor"]
    tolerance = 2 * max(result["max_tensor_difference"], result["max_logit_difference"])
    assert run("verify", "--a", tmp_path / "ours", "--b", theirs, f"--tolerance={tolerance}").startswith("equal")


def test_verify_reports_different_shapes_and_rotary_bases(tmp_path, theirs, run):
    other = tmp_path / "other"
    other.mkdir()
    hf.write(Random(SIZES["70b"]), other)
    output = run("verify", "--a", theirs, "--b", other, "--logits", code=1)
    assert output.startswith("different")
    assert "rope_theta: 10000.0 and 1000000.0" in output and "dim: 64 and 128" in output
    config = json.loads((theirs / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in theirs.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config["rope_theta"] = 1e6
    (copy / "config.json").write_text(json.dumps(config))
    result = json.loads(run("verify", "--a", theirs, "--b", copy, "--json", code=1))
    assert result["unlike"] == ["rope_theta: 10000.0 and 1000000.0"] and result["max_tensor_difference"] == 0


def test_a_trained_checkpoint_is_exported_in_bfloat16_by_default(tmp_path, run):
    """Training writes float32, with all layers in one chunk."""
    llama = SIZES["70b"]
    params = init_params(llama, 0)
    opt_state = make_optimizer(AdamW(peak_learning_rate=1e-3), 10).init(params)
    state = TrainState(params, opt_state, jnp.asarray(7, jnp.int32))
    saves = StageCheckpoints(tmp_path / "run/stage", Checkpoints())
    metadata = {"step": 7, "llama": dataclasses.asdict(llama), "sequence_length": 64, "config": ""}
    saves.save(7, state, {}, metadata)
    saves.close()
    stage = tmp_path / "run/stage"
    run("export", "--from", stage, "--to", tmp_path / "full", "--format=hf", "--dtype=float32")
    assert json.loads(run("verify", "--a", stage, "--b", tmp_path / "full", "--json"))["same_dtypes"]
    run("export", "--from", stage / "checkpoints/7", "--to", tmp_path / "half", "--format=hf")
    half = safetensors_content(tmp_path / "half")
    assert {dtype for dtype, _, _ in half.values()} == {"BF16"}
    head = np.asarray(params["head"].T.astype(jnp.bfloat16))
    assert half["lm_head.weight"] == ("BF16", head.shape, head.tobytes())


# Simulates a full disk: no file may grow beyond a limit.
LIMITED = """
import resource, signal, sys
from codellama_jax import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
sys.exit(convert.main(sys.argv[1:]))
"""


def test_a_failed_write_is_reported_in_one_line_and_leaves_no_files(tmp_path, theirs):
    for argv in (["import"], ["export", "--format=hf"], ["export", "--format=meta"]):
        command = [sys.executable, "-c", LIMITED, *argv, f"--from={theirs}", f"--to={tmp_path / 'ours'}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 1 and "too large" in done.stderr, done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_conversion_imports_no_data_libraries():
    program = "import sys; from codellama_jax.conversion import formats, tokenizer_files, verify, vocabulary;"
    program += "import codellama_jax.training.step;"  # for logits
    program += "print(sorted({'tensorflow', 'seqio', 'gin', 'torch', 'transformers'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("argv", [
    ["--gin.Stage.steps=3"],
    ["--gin_file=gin/code.gin"],
    ["--vocab_size=many"],
    ["--format=hf"],
])  # fmt: skip
def test_wrong_usage_exits_with_2_and_writes_nothing(tmp_path, theirs, run, argv):
    run("import", "--from", theirs, "--to", tmp_path / "ours", *argv, code=2)
    assert not (tmp_path / "ours").exists()


def test_folders_without_a_checkpoint_are_refused(tmp_path, run):
    assert "there is no such file or folder" in run("import", "--from", tmp_path / "a", "--to", tmp_path / "b", code=1)
    assert "is not a checkpoint of a known format" in run("import", "--from", tmp_path, "--to", tmp_path / "b", code=1)
    with pytest.raises(UserError, match="is not a checkpoint"):
        formats.open_checkpoint(tmp_path)


@pytest.mark.usefixtures("processes_compile_fast")
def test_a_stage_starts_from_an_import_and_is_exported(tmp_path, shared_data, run):
    """stories260K -> two steps of code training -> Hugging Face, with the tokenizer of the run and infilling rows."""
    stories = shared_data / "stories260K"
    run("import", "--from", stories, "--to", tmp_path / "stories")
    size = {"dim": 64, "layers": 5, "heads": 8, "kv_heads": 4, "ffn_dim": 172, "tied": True}
    settings = [f"--gin.Llama.{field}={value}" for field, value in size.items()]
    settings += [f"--gin.INITIAL_CHECKPOINT={tmp_path / 'stories'}", f"--gin.TOKENIZER={stories / 'tok512.model'}"]
    settings += ["--gin.CODE_STEPS=2", "--gin.CODE_WARMUP=1", "--gin.CODE_LENGTH=64", "--gin.CODE_BATCH_TOKENS=256"]
    settings += ["--gin.Evaluation.batches=1", "--gin.Evaluation.context_windows=1", "--gin.Evaluation.samples=0"]
    settings += ["--gin.Evaluation.final_benchmarks=()"]
    command = [sys.executable, str(ROOT / "xm_launch.py"), "--gin_file=gin/code.gin", f"--run_dir={tmp_path / 'runs'}"]
    done = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"starts from the parameters of {tmp_path / 'stories'}" in done.stdout + done.stderr
    stage = tmp_path / "runs/local/code"
    output = run("export", "--from", stage, "--to", tmp_path / "out", "--format=hf")
    assert "tokenizer" not in output
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vocab_size"] == 528 and config["tie_word_embeddings"]
    names = {"tokenizer.model", "tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    result = json.loads(run("verify", "--a", stage, "--b", tmp_path / "out", "--json", "--tolerance=0.05"))
    assert result["equal"] and 0 < result["max_tensor_difference"] < 0.05
