"""benchmarks/train_step.py, which is meant for a GPU, at a tiny size on a CPU and without PyTorch."""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent.parent / "benchmarks" / "train_step.py"


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("train_step", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("processes_compile_fast")
def test_tiny_step_is_measured_with_only_jax_flax_and_optax(tmp_path, benchmark):
    for package in ("gin", "tensorflow", "seqio", "sentencepiece"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not installed')\n")
    flags = ["--shape=tiny", "--lengths=32", "--batch_tokens=64", "--steps=3", "--warmup_steps=1", "--rounds=1"]
    files = [f"--json={tmp_path / 'measured.json'}", f"--out={tmp_path / 'result.md'}"]
    subprocess.run(
        [sys.executable, PROGRAM, *flags, *files, "--no_torch", "--peak_flops=1e12"],
        check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    (result,) = json.loads((tmp_path / "measured.json").read_text())
    tiny = benchmark.SHAPES["tiny"]
    assert (result["length"], result["layers"], result["platform"]) == (32, tiny.layers, "cpu")
    ours = result["programs"]["jax"]
    (measured,) = ours["rounds"]
    assert result["parameters"] == measured["parameters"] == tiny.parameters
    assert len(measured["seconds"]) == 3 and min(measured["seconds"]) > 0
    assert ours["tokens_per_second"] == pytest.approx(64 / statistics.median(measured["seconds"]))
    assert ours["mfu"] == pytest.approx(ours["tokens_per_second"] * tiny.train_flops_per_token(32) / 1e12)
    assert 2**20 < ours["peak_memory"] < 2**34
    # one batch repeatedly: the loss starts at that of a uniform prediction and decreases with every step
    assert abs(measured["losses"][0] - 5.55) < 0.1  # log 256
    assert sorted(measured["losses"], reverse=True) == measured["losses"] and len(measured["losses"]) == 4
    assert f"| 32 | 2 | codellama_jax | {ours['tokens_per_second']:,.0f} |" in (tmp_path / "result.md").read_text()


@pytest.mark.parametrize("limits, expected", [((99, 99), 32), ((20, 99), 20), ((99, 9), 9), ((20, 9), 9)])
def test_number_of_layers_is_reduced_until_both_programs_fit(monkeypatch, benchmark, limits, expected):
    """Ours reports the memory it needs; PyTorch only that it does not fit, so an eighth of the layers is removed."""

    def run(program, options, llama, length, cache):
        if llama.layers <= limits[program == "torch"]:
            common = {"device": "NVIDIA H100 80GB HBM3", "platform": "gpu", "version": ""}
            return common | {"fits": True, "seconds": [1.0, 2.0, 9.0], "losses": [1.0], "peak_memory": 1}
        if program == "torch":
            return {"fits": False}
        needed = [16 * benchmark.dataclasses.replace(llama, layers=n).parameters for n in (llama.layers, limits[0])]
        return {"fits": False, "needed": needed[0], "limit": needed[1]}

    monkeypatch.setattr(benchmark, "run", run)
    options = argparse.Namespace(
        shape="7b",
        layers=None,
        remat="full",
        attention="auto",
        loss_chunk=2048,
        batch_tokens=16384,
        torch_python="python",
        no_torch=False,
        rounds=2,
        peak_flops=None,
    )
    result = benchmark.compare(options, 4096)
    assert result["layers"] == expected
    assert result["programs"]["jax"]["tokens_per_second_of_rounds"] == [8192.0, 8192.0]
    mfu = 8192 * result["flops_per_token"] / 989.5e12
    assert result["programs"]["torch"]["mfu"] == pytest.approx(mfu)
