"""Steps compiled by the real TPU compiler; skipped if it is not installed."""

import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from fake_compiler import FLAGS, SLICE, load, shipped

from codellama_jax.config.gin_files import ROOT
from codellama_jax.errors import EXIT_FAILED, UserError
from codellama_jax.planning import aot_compile
from codellama_jax.planning.chips import topology
from codellama_jax.planning.hlo import Program
from codellama_jax.planning.summary import summarize

TINY = [
    *("Llama.dim=256", "Llama.heads=2", "Llama.kv_heads=1", "Llama.ffn_dim=512", "Llama.layers=3", "VOCAB_SIZE=512"),
    *("Llama.compute_dtype='bfloat16'", "Llama.remat='full'", "CODE_LENGTH=512", "CODE_BATCH_TOKENS=8_192"),
    *("Llama.splash_block=256", "Llama.loss_chunk=256", "Llama.unroll=1"),
]


@pytest.fixture(scope="module")
def tiny_analysis(tmp_path_factory):
    """A step of three small layers, compiled for four chips of v5e."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed (requirements-tpu.txt)")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.delenv("XLA_FLAGS", raising=False)
        messages = []
        analysis = aot_compile.Compiler(messages.append).analyze(load(*TINY, size="local"), topology("v5e:2x2"))
        assert any("generating code" in message for message in messages) and messages[-1] == ""
        yield analysis, cache


def test_analysis_of_a_small_step(tiny_analysis):
    analysis, _ = tiny_analysis
    assert analysis["fits"] and analysis["mesh"] == {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}
    assert 0 < analysis["argument_bytes"] < analysis["peak_bytes"] < analysis["hbm_bytes"]
    # float32 parameters and two moments each, sharded over four devices
    parameters = load(*TINY, size="local").llama.parameters
    assert analysis["parameter_bytes"] == parameters * 4 // 4
    assert analysis["optimizer_bytes"] == pytest.approx(parameters * 8 / 4, abs=16)
    assert not analysis["unknown_loops"]
    assert sum(analysis["collective_bytes"].get(kind, {}).get("fsdp", 0) for kind in ("all-gather", "all-reduce")) > 0
    assert analysis["estimate"]["total"] > max(analysis["bound"].values()) > 0


def test_flops_equal_those_counted_by_hand(tiny_analysis):
    """Per weight and token: forward 2, backward 4, recomputation 2. Two products are not recomputed: w2, whose output
    the backward pass does not need, and the head, whose gradient is computed with the loss. The rotation of queries and
    keys is a product with a permutation of the head's channels, once in each of three passes."""
    llama, tokens = load(*TINY, size="local").llama, 8_192
    attention = 2 * llama.dim * llama.head_dim * (llama.heads + llama.kv_heads)
    layer = 8 * (attention + 2 * llama.dim * llama.ffn_dim) + 6 * llama.dim * llama.ffn_dim
    layer += 3 * 2 * llama.head_dim**2 * (llama.heads + llama.kv_heads)
    flops = tokens * (llama.layers * layer + 6 * llama.dim * llama.vocab_size) / 4
    assert tiny_analysis[0]["product_flops"] == pytest.approx(flops, rel=1e-3)
    # two products in each of two forward passes, and seven in the backward pass, over half of the scores
    squares = 8_192 * 512 * llama.dim * llama.layers / 4
    assert tiny_analysis[0]["attention_flops"] == pytest.approx((2 + 2 + 7) * squares)


def test_analyses_are_cached(tiny_analysis, monkeypatch):
    analysis, cache = tiny_analysis
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(aot_compile.Compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    slice_, config = topology("v5e:2x2"), load(*TINY, size="local")
    for estimate in (True, False):
        assert aot_compile.Compiler().analyze(config, slice_, estimate=estimate) == analysis
    other = dataclasses.replace(config, llama=dataclasses.replace(config.llama, layers=4))
    with pytest.raises(pytest.fail.Exception):
        aot_compile.Compiler().analyze(other, slice_)


def test_step_that_is_too_large_is_reported_with_its_size(tiny_analysis, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load(*TINY, "Llama.layers=12_000", size="local")
    analysis = aot_compile.Compiler().analyze(config, topology("v5e:2x2"), estimate=False)
    assert not analysis["fits"] and analysis["peak_bytes"] > analysis["hbm_bytes"] > 15 * 2**30


@pytest.mark.parametrize("bindings, message", [(["Mesh.fsdp=3"], "4 devices"), (["Mesh.tensor=4"], "Llama.kv_heads")])
def test_mesh_that_does_not_divide_the_model_is_an_error(tiny_analysis, tmp_path, monkeypatch, bindings, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=re.escape(message)):
        aot_compile.Compiler().analyze(load(*TINY, *bindings, size="local"), topology("v5e:2x2"), estimate=False)
    assert not list(tmp_path.rglob("*.json")), "errors are not cached"


# The slices named in gin/models/*.gin.
SLICE_OF_SIZE = {"7b": "v5p-128", "13b": "v5p-128", "34b": "v5p-128", "70b": "v5p-512"}


@pytest.mark.parametrize("size", SLICE_OF_SIZE)
def test_real_sizes_fit_the_slices_named_in_their_files(tiny_analysis, size):
    """Compiled without code generation, which takes minutes. With full remat, each product is computed four times,
    except the head and w2 of each layer, which are computed three times, like the rotation of queries and keys."""
    assert SLICE_OF_SIZE[size] in (ROOT / f"gin/models/{size}.gin").read_text()
    slice_ = topology(SLICE_OF_SIZE[size])
    analysis = aot_compile.Compiler().analyze(shipped(size=size), slice_, estimate=False)
    assert analysis["fits"] and not analysis["unknown_loops"]
    assert _ratio(shipped(size=size), slice_, analysis) < 1.10, "with the policy of the size file"
    config = load(size=size)
    analysis = aot_compile.Compiler().analyze(config, slice_, estimate=False)
    llama, tokens = config.llama, config.stage.batch_tokens
    products = llama.parameters - llama.dim * (llama.vocab_size + 2 * llama.layers + 1)
    by_hand = tokens * (8 * products - 2 * llama.dim * (llama.layers * llama.ffn_dim + llama.vocab_size))
    by_hand += tokens * 3 * 2 * llama.layers * llama.head_dim**2 * (llama.heads + llama.kv_heads)
    assert analysis["product_flops"] * slice_.devices == pytest.approx(by_hand, rel=1e-3)
    assert _ratio(config, slice_, analysis) < 1.35, "with full remat"


def _ratio(config, slice_, analysis):
    result = summarize(config, slice_, analysis)
    return result["compiled_flops"] / result["model_flops"]


def test_offloaded_activations_are_in_the_memory_of_the_host(tiny_analysis):
    without = aot_compile.Compiler().analyze(load(), SLICE, estimate=False)
    config = load("Llama.offload=input")
    analysis = aot_compile.Compiler().analyze(config, SLICE, estimate=False)
    stage, llama = config.stage, config.llama
    inputs = stage.batch_tokens / SLICE.devices * llama.dim * 2 * llama.layers
    assert without["peak_bytes"] - analysis["peak_bytes"] > 0.8 * inputs / stage.micro_batches
    assert analysis["bound"]["host"] == pytest.approx(2 * inputs / SLICE.host_bandwidth, rel=1e-3), "out and back"
    assert without["bound"]["host"] == 0


def test_evaluation_of_a_hundred_thousand_tokens_fits(tiny_analysis):
    """A single window of 102,400 tokens on four chips is sharded over the context axis."""
    # large blocks, because evaluating the mask block by block takes most of the time
    config = load("LCFT_LENGTH=102_400", "LCFT_BATCH_TOKENS=102_400", "Llama.splash_block=2048", stage="lcft")
    analysis = aot_compile.Compiler().analyze(config, topology("v5p:2x2x1"), estimate=False, forward=True)
    assert analysis["fits"] and analysis["mesh"]["context"] == 4 and analysis["optimizer_bytes"] == 0


def test_slices_reduce_gradients_over_the_network(tiny_analysis):
    slices = topology("v5p:4x4x4", 2)
    analysis = aot_compile.Compiler().analyze(load(), slices, estimate=False)
    assert analysis["fits"] and (analysis["mesh"]["data"], analysis["mesh"]["fsdp"]) == (2, 64)
    # each device all-reduces a 64th of the gradients between two slices: in bfloat16, embedding and head in float32
    llama = load().llama
    gradients = llama.parameters * 2 + 2 * llama.vocab_size * llama.dim * 2
    assert analysis["collective_bytes"]["all-reduce"]["data"] == pytest.approx(gradients / 64, rel=0.05)


def test_mesh_axis_may_split_a_dimension_of_the_interconnect(tiny_analysis):
    analysis = aot_compile.Compiler().analyze(load("Mesh.data=2"), SLICE, estimate=False)
    assert analysis["fits"] and analysis["mesh"]["fsdp"] == 32
    assert analysis["collective_bytes"]["all-reduce"].keys() & {"data", "data+fsdp"}, "gradients are summed over data"


def test_program_that_cannot_be_parsed_is_a_user_error(tiny_analysis, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(aot_compile, "Program", lambda text: Program("HloModule other").executions)
    with pytest.raises(UserError, match=r"requirements-tpu\.txt"):
        aot_compile.Compiler().analyze(load(*TINY, size="local"), topology("v5e:2x2"), estimate=False)


def test_interrupted_plan_stops_its_compiler(tiny_analysis, tmp_path):
    command = [sys.executable, "-m", "codellama_jax.plan", *FLAGS, "--topology=v5p:4x4x4"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*jit_planned*.before_optimizations.txt")):  # the compiler has started
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == EXIT_FAILED
    assert process.stderr.read().endswith("error: interrupted\n")
    assert not list(tmp_path.glob("*")), "no dumps or cached plans remain"
