"""A model in the form of a download is adapted to a repository with low-rank adapters, infills, and is exported."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizer_families as families

from codellama_jax import convert, train
from codellama_jax.conversion import hf
from codellama_jax.training import assets
from tests.conversion.random_models import SIZES, Random

pytest.importorskip("tokenizers")


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A folder as of Qwen2.5-Coder: biases, one matrix for embedding and head, a tokenizer.json with infilling."""
    folder = tmp_path / "download"
    folder.mkdir()
    llama = dataclasses.replace(SIZES["7b"], vocab_size=1_536, qkv_bias=True, rope_theta=1e6)
    hf.write(Random(llama, dtype="bfloat16", tied=True), folder)
    files = families.files("qwen")
    assets.write(files, folder)
    config, ends = json.loads((folder / "config.json").read_text()), json.loads(files["generation_config.json"])
    del config["bos_token_id"]
    (folder / "config.json").write_text(json.dumps(config | ends))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    for number in range(24):
        lines = [f"def area_{number}_{i}(width, height):\n    return width * height + {i}\n\n\n" for i in range(6)]
        (folder / f"shapes_{number}.py").write_text("".join(lines) + "# <|fim_prefix|> stays text\n")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("processes_compile_fast")
def test_a_download_is_adapted_and_exported(download: Path, repository: Path, tmp_path: Path, capsys):
    base, stage = tmp_path / "base", tmp_path / "runs" / "x" / "adapt"
    assert convert.main(["import", f"--from={download}", f"--to={base}"]) == 0
    llama = SIZES["7b"]
    flags = [
        "--gin_file=gin/adapt.gin",
        "--gin_file=gin/models/qwen2.5-coder-0.5b.gin",
        f"--run_dir={tmp_path}/runs",
        "--name=x",
        f"--gin.INITIAL_CHECKPOINT={base}",
        f"--gin.CODE_CORPUS={repository}",
        *(f"--gin.Llama.{name}={getattr(llama, name)}" for name in ("dim", "layers", "heads", "kv_heads", "ffn_dim")),
        f"--gin.Llama.norm_eps={llama.norm_eps}",
        "--gin.VOCAB_SIZE=1536",
        "--gin.Llama.compute_dtype=float32",
        "--gin.ADAPT_LENGTH=256",
        "--gin.ADAPT_BATCH_TOKENS=1024",
        "--gin.Stage.least_steps=6",
        "--gin.ADAPT_EPOCHS=0.5",
        "--gin.Lora.base_dtype=int8",
        "--gin.Evaluation.infilling_cases=4",
        "--gin.Evaluation.infilling_context=128",
        "--gin.Evaluation.general_corpus=()",
    ]
    assert train.main(flags) == 0
    printed = capsys.readouterr()
    assert "exact" in printed.out + printed.err
    newest = max((stage / "checkpoints").iterdir(), key=lambda path: int(path.name))
    size = sum(file.stat().st_size for file in (newest / "params").rglob("*") if file.is_file())
    assert size < 0.5 * sum(file.stat().st_size for file in (base / "params").rglob("*") if file.is_file())
    assert json.loads((newest / "metadata" / "metadata").read_text())["adapter"]["base"] == str(base)
    for format, file in (("peft", "adapter_model.safetensors"), ("hf", "model.safetensors")):
        out = tmp_path / format
        assert convert.main(["export", f"--from={stage}", f"--to={out}", f"--format={format}"]) == 0
        assert (out / file).is_file()
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["model_type"] == "qwen2" and config["tie_word_embeddings"]
    assert (tmp_path / "hf" / "tokenizer.json").read_bytes() == (download / "tokenizer.json").read_bytes()
    draft = tmp_path / "draft.py"
    draft.write_text("def area(width, height):\n    return <FILL_ME>\n")
    command = [sys.executable, "-m", "codellama_jax.generate", "infill", f"--checkpoint={stage}", f"--file={draft}"]
    done = subprocess.run([*command, "--max_tokens=4", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holes"][0]["finish_reason"] in ("stop", "length")
