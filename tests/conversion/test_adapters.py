"""Adapters in and out: peft computes the same logits, and base + adapter is a model for every command."""

import dataclasses
import json

import numpy as np
import pytest
from random_models import SIZES, Random

from codellama_jax import sharding
from codellama_jax.config.lora import Lora
from codellama_jax.config.training import Mesh
from codellama_jax.conversion import adapters, canonical, formats, hf, safetensors, verify
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.runtime import checksums, filesystem
from codellama_jax.training.adapter_record import AdapterRecord
from codellama_jax.training.checkpoints import read_metadata
from codellama_jax.training.initialization import ParentCheckpoint

LLAMA = SIZES["70b"]
ALL = "wq+wk+wv+wo+w1+w2+w3"


def factors_of(lora, llama=LLAMA, seed=0):
    """Random adapters, none of which is 0."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in lora.names:
        outs, ins = canonical.shape(llama, name)
        a, b = ((llama.layers, ins, lora.rank), (llama.layers, lora.rank, outs))
        found[name] = adapters.Factors(*(0.1 * rng.normal(size=shape).astype(np.float32) for shape in (a, b)))
    return found


@pytest.fixture
def base(tmp_path, run):
    """A model of Hugging Face, and its import."""
    (tmp_path / "theirs").mkdir()
    hf.write(Random(LLAMA, "float32"), tmp_path / "theirs")
    run("import", "--from", tmp_path / "theirs", "--to", tmp_path / "base")
    return tmp_path / "base"


def adapted(base, to, lora, seed=0):
    """Writes a checkpoint of random adapters of a model."""
    opened = formats.open_base(base)
    adapters.write(to, lora, factors_of(lora, seed=seed), opened, base, "test")
    opened.source.close()
    return to


def logits_of(path, ids):
    source = formats.open_checkpoint(path).source
    found = verify.logits_of(source, ids)
    source.close()
    return found


IDS = np.random.default_rng(1).integers(0, LLAMA.vocab_size, 100)


@pytest.mark.parametrize("targets, rslora", [(ALL, False), ("wq+wo+w2", True), ("wv", False)])
def test_peft_computes_the_logits_of_an_export_and_the_merged_export_has_them(tmp_path, run, base, targets, rslora):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    lora = Lora(rank=4, alpha=6.0, dropout=0.1, targets=targets, rslora=rslora)
    ours = adapted(base, tmp_path / "ours", lora)
    output = run("export", "--from", ours, "--to", tmp_path / "out", "--format=peft")
    assert str(tmp_path / "theirs") in output
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    assert len(model.peft_config["default"].target_modules) == len(lora.names)
    with torch.no_grad():
        logits = model(torch.tensor(IDS)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits_of(ours, IDS), logits, atol=2e-5, rtol=0)
    assert np.abs(logits_of(base, IDS) - logits).max() > 0.1, "the adapters matter"
    run("export", "--from", ours, "--to", tmp_path / "merged", "--format=hf", "--dtype=float32")
    merged = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(merged(torch.tensor(IDS)[None]).logits[0].numpy(), logits, atol=2e-5, rtol=0)


@pytest.mark.parametrize("origin", ["theirs", "base"])
def test_an_adapter_that_peft_saved_is_imported(tmp_path, run, base, origin):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    plain = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    names = ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=8, lora_alpha=4, target_modules=names, use_rslora=True, task_type="CAUSAL_LM")
    model = peft.get_peft_model(plain, config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        logits = model(torch.tensor(IDS)[None]).logits[0].numpy()
    model.save_pretrained(tmp_path / "adapter")
    run("import", "--from", tmp_path / "adapter", "--base", tmp_path / origin, "--to", tmp_path / "ours")
    np.testing.assert_allclose(logits_of(tmp_path / "ours", IDS), logits, atol=2e-5, rtol=0)
    record = AdapterRecord.of(read_metadata(tmp_path / "ours"))
    assert record.lora == Lora(8, 4.0, targets="wq+wv+w2", rslora=True)


def test_export_of_import_is_the_identity(tmp_path, run, base):
    lora = Lora(rank=4, alpha=6.0, dropout=0.1, targets="wk+w1")
    ours = adapted(base, tmp_path / "ours", lora)
    run("export", "--from", ours, "--to", tmp_path / "out", "--format=peft")
    run("import", "--from", tmp_path / "out", "--base", base, "--to", tmp_path / "again")
    run("export", "--from", tmp_path / "again", "--to", tmp_path / "back", "--format=peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()
    assert AdapterRecord.of(read_metadata(tmp_path / "again")).lora == lora


def test_a_stage_loads_the_sum_on_any_mesh(tmp_path, base):
    ours = adapted(base, tmp_path / "ours", Lora(rank=4))
    expected = verify.load(formats.open_checkpoint(ours).source)
    plain = verify.load(formats.open_checkpoint(base).source)
    assert np.abs(expected["blocks"]["wo"] - plain["blocks"]["wo"]).max() > 0.1
    for shape in (Mesh(fsdp=8), Mesh(fsdp=2, tensor=4)):
        found = ParentCheckpoint.read(ours, LLAMA).load_params(sharding.make_mesh(shape))
        for name, array in expected["blocks"].items():
            np.testing.assert_allclose(found["blocks"][name], array, atol=1e-6)
        np.testing.assert_array_equal(found["embedding"], expected["embedding"])


def test_adapters_of_adapters_add_up(tmp_path, run, base):
    """A stage can train adapters of a model that has adapters."""
    first = adapted(base, tmp_path / "first", Lora(rank=2), seed=1)
    second = adapted(first, tmp_path / "second", Lora(rank=4, targets="wq"), seed=2)
    one, two = (formats.open_checkpoint(path).source for path in (first, second))
    for name in dict.fromkeys(tensor.name for tensor in canonical.tensors(LLAMA) if tensor.layer is not None):
        rows = canonical.shape(LLAMA, name)[0]
        changed = np.abs(one.rows(Tensor(name, 1), 0, rows) - two.rows(Tensor(name, 1), 0, rows)).max()
        assert (changed > 0.01) == (name == "wq")
    found = ParentCheckpoint.read(second, LLAMA).load_params(sharding.make_mesh(Mesh(fsdp=8)))
    np.testing.assert_allclose(found["blocks"]["wq"], verify.load(two)["blocks"]["wq"], atol=1e-6)


def test_a_width_of_heads_that_is_stated_is_that_of_the_model(tmp_path, base):
    """The model records head_width 0, from which the same width follows as a stage may state."""
    ours = adapted(base, tmp_path / "ours", Lora(rank=2, targets="wq"))
    file = ours / "metadata" / "metadata"
    metadata = json.loads(file.read_text())
    metadata["llama"]["head_width"] = LLAMA.head_dim
    file.write_text(json.dumps(metadata))
    checksums.write(ours)
    assert formats.open_checkpoint(ours).source.model.llama.head_dim == LLAMA.head_dim
    assert adapters.read_factors(ours, base, LLAMA)[0].rank == 2


def test_rows_do_not_depend_on_the_block_that_is_read(tmp_path, base):
    source = formats.open_checkpoint(adapted(base, tmp_path / "ours", Lora(rank=4))).source
    whole = source.rows(Tensor("w1", 1), 0, LLAMA.ffn_dim)
    np.testing.assert_allclose(source.rows(Tensor("w1", 1), 100, 140), whole[100:140], atol=1e-6)


def test_a_missing_and_a_changed_model_are_refused_in_one_line(tmp_path, run, base):
    ours = adapted(base, tmp_path / "ours", Lora(rank=4))
    export = ("export", "--from", ours, "--to", tmp_path / "out", "--format=hf")
    base.rename(tmp_path / "elsewhere")
    assert f"{ours} has adapters of the model {base}, which does not exist: put it back there" in run(*export, code=1)
    run("import", "--from", tmp_path / "theirs", "--to", base, "--sequence_length=99")
    assert f"{base} has changed since the adapters in {ours} were trained on it" in run(*export, code=1)


def test_damaged_adapters_are_named(tmp_path, run, base):
    ours = adapted(base, tmp_path / "ours", Lora(rank=4))
    largest = max((ours / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 1
    largest.write_bytes(raw)
    assert f"{largest.name} has changed" in run(
        "export", "--from", ours, "--to", tmp_path / "o", "--format=peft", code=1
    )


def test_another_rope_base_than_the_models_cannot_be_stated_to_peft(tmp_path, run, base):
    ours = adapted(base, tmp_path / "ours", Lora(rank=4))
    file = ours / "metadata/metadata"
    metadata = json.loads(file.read_text())
    metadata["llama"]["rope_theta"] = 5e6
    file.write_text(json.dumps(metadata))
    checksums.write(ours)
    output = run("export", "--from", ours, "--to", tmp_path / "out", "--format=peft", code=1)
    assert "(rope_theta: 1000000.0 and 5000000.0), which peft cannot state: use --format=hf" in output
    run("export", "--from", ours, "--to", tmp_path / "out", "--format=hf")
    assert formats.open_checkpoint(tmp_path / "out").source.model.llama.rope_theta == 5e6


@pytest.mark.parametrize("key, value", [
    ("use_dora", True), ("modules_to_save", ["lm_head"]), ("rank_pattern", {"q_proj": 2}), ("lora_bias", True),
    ("layers_to_transform", [0]), ("peft_type", "IA3"), ("bias", "all"), ("init_lora_weights", "pissa"), ("r", 0),
    ("lora_alpha", None), ("use_qalora", True), ("something_new", 3), ("r", 5), ("lora_dropout", 2.0),
])  # fmt: skip
def test_unknown_kinds_of_adapters_are_refused_by_name(tmp_path, run, base, key, value):
    run("export", "--from", adapted(base, tmp_path / "ours", Lora(rank=4)), "--to", tmp_path / "out", "--format=peft")
    config = tmp_path / "out/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    output = run("import", "--from", tmp_path / "out", "--base", base, "--to", tmp_path / "no", code=1)
    assert (("rank 5" if value == 5 else "dropout" if value == 2.0 else key) in output) and "adapter" in output
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("change, message", [
    (lambda tensors: tensors.pop("base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"), "has no model.layers.1"),
    (lambda tensors: tensors.update({"base_model.model.lm_head.lora_A.weight": np.ones((4, 128), np.float32)}),
     "lm_head.lora_A, which is not a matrix of the blocks"),
    (lambda tensors: tensors.update({"base_model.model.lm_head.weight": np.ones((4, 4), np.float32)}), "not a factor"),
    (lambda tensors: tensors.clear(), "has no adapters"),
])  # fmt: skip
def test_other_tensors_in_an_adapter_are_refused_by_name(tmp_path, run, base, change, message):
    run("export", "--from", adapted(base, tmp_path / "ours", Lora(rank=4)), "--to", tmp_path / "out", "--format=peft")
    file = tmp_path / "out/adapter_model.safetensors"
    opened = safetensors.InputFile(file)
    tensors = {name: stored.rows(0, stored.shape[0]) for name, stored in safetensors.read(opened).items()}
    opened.close()
    change(tensors)
    with file.open("wb") as out:
        safetensors.write(out, [(name, "float32", x.shape) for name, x in tensors.items()], tensors.values())
    assert message in run("import", "--from", tmp_path / "out", "--base", base, "--to", tmp_path / "no", code=1)


def test_an_adapter_of_another_model_is_refused(tmp_path, run, base):
    run("export", "--from", adapted(base, tmp_path / "ours", Lora(rank=4)), "--to", tmp_path / "out", "--format=peft")
    (tmp_path / "small").mkdir()
    hf.write(Random(dataclasses.replace(LLAMA, ffn_dim=256)), tmp_path / "small")
    output = run("import", "--from", tmp_path / "out", "--base", tmp_path / "small", "--to", tmp_path / "no", code=1)
    assert "gate_proj.lora_B has shape [512, 4]" in output and "--base" in output


def test_flags_without_effect_are_refused(tmp_path, run, base):
    ours = adapted(base, tmp_path / "ours", Lora(rank=4))
    export = ("export", "--from", ours, "--to", tmp_path / "out", "--format=peft")
    assert "--shards has no effect with --format=peft" in run(*export, "--shards=2", code=2)
    assert "use --format=hf" in run("export", "--from", base, "--to", tmp_path / "out", "--format=peft", code=1)
    imported = ("import", "--from", base, "--base", base, "--to", tmp_path / "out")
    assert "has no adapter_config.json" in run(*imported, code=1)
    assert "--vocab_size has no effect with --base" in run(*imported, "--vocab_size=9", code=2)


def test_a_run_that_was_moved_finds_its_model(tmp_path):
    run_dir = tmp_path / "runs/mine"
    parent = run_dir / "code/checkpoints/8"
    parent.mkdir(parents=True)
    checksums.write(parent)
    record = AdapterRecord.new(Lora(rank=2), parent, run_dir)
    run_dir.rename(tmp_path / "moved")
    here = tmp_path / "moved/adapted/checkpoints/4"
    assert record.find_base(here) == filesystem.absolute(tmp_path / "moved/code/checkpoints/8")
    assert AdapterRecord.of({"adapter": json.loads(json.dumps(record.json()))}) == record
