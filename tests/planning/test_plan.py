"""The plan command: its output, and the input that it rejects."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from fake_compiler import FLAGS, SLICE, FakeCompiler, SearchCompiler, load

from codellama_jax import plan
from codellama_jax.config import gin_files
from codellama_jax.config.gin_files import ROOT
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE
from codellama_jax.planning import planner

KEYS = {
    *(
        "fits",
        "chips",
        "mesh",
        "peak_bytes",
        "hbm_bytes",
        "argument_bytes",
        "temp_bytes",
        "model_flops",
        "compiled_flops",
    ),
    *("collective_bytes", "bound_seconds", "bound_by", "bound_mfu", "estimated_seconds", "estimated_mfu", "steps"),
    "chip_hours",
}


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(planner, "Compiler", FakeCompiler)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)


def run(capsys, *arguments):
    code = plan.main([*FLAGS, *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# ---------------------------------------------------------------- output


def test_json_has_all_documented_keys(fake, capsys):
    code, out, _ = run(capsys, "--topology=v5p:4x4x4", "--json", "--gin.Stage.micro_batches=2")
    result = json.loads(out)
    assert code == EXIT_DONE and result.keys() >= KEYS
    assert result["fits"] and result["chips"] == 64 and result["steps"] == 119_209
    # for each of 4 M tokens: 6 per parameter of a product (6.6e9), and 6 N D S for attention
    assert result["model_flops"] == pytest.approx(1.798e17, rel=1e-3)
    assert result["compiled_flops"] == pytest.approx(4.2e15 * 64)
    assert (result["bound_by"], result["bound_seconds"]) == ("compute", 9.0)
    assert result["bound_mfu"] == pytest.approx(1.798e17 / (9 * 64 * 459e12), rel=1e-3)
    assert result["estimated_mfu"] == pytest.approx(result["bound_mfu"] * 9 / 12)
    assert result["chip_hours"] == pytest.approx(12 * 119_209 * 64 / 3600)
    assert result["peak_bytes"] == result["argument_bytes"] + result["temp_bytes"]


def test_the_table_labels_bound_and_estimate(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2")
    for text in (
        "64 chips",
        "fsdp 64",
        "BOUND",
        "ESTIMATE",
        "of their estimated speed",
        "not measured",
        "119,209 steps",
    ):
        assert text in out
    assert "None" not in out and max(map(len, out.splitlines())) <= 120


def test_no_estimate_prints_only_the_bound(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2", "--no_estimate", "--json")
    result = json.loads(out)
    assert result["estimated_seconds"] is None and result["chip_hours"] is None and result["bound_mfu"] > 0
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2", "--no_estimate")
    assert "BOUND" in out and "ESTIMATE" not in out


def test_plan_that_does_not_fit_names_a_remedy(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p:4x4x4", "--json")
    result = json.loads(out)
    assert not result["fits"] and result.keys() >= KEYS
    assert result["missing_bytes"] == result["peak_bytes"] - result["hbm_bytes"] > 0
    assert result["remedy"]["bindings"] == ["Stage.micro_batches=2"]
    _, out, _ = run(capsys, "--topology=v5p:4x4x4")
    assert "DOES NOT FIT" in out and "--gin.Stage.micro_batches=2 --topology=v5p:4x4x4" in out


def test_search_prints_a_ranking(monkeypatch, capsys):
    monkeypatch.setattr(planner, "Compiler", SearchCompiler)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)
    code, out, _ = run(capsys, "--topology=v5p:4x4x4", "--search")
    lines = out.splitlines()
    assert code == EXIT_DONE and "not measured" in lines[0]
    assert lines[2].split() == ["6.00", "s", *lines[2].split()[2:5], "GiB", "Llama.remat=none", "Stage.micro_batches=4"]
    _, out, _ = run(capsys, "--topology=v5p:4x4x4", "--search", "--json")
    first = json.loads(out)[0]
    assert first["bindings"] == ["Llama.remat=none", "Stage.micro_batches=4"] and first["bound_seconds"] > 6
    monkeypatch.setattr(SearchCompiler, "analyze", lambda *_, **__: FakeCompiler().analyze(load(), SLICE))
    assert "none of the settings fits" in run(capsys, "--topology=v5p:4x4x4", "--search")[1]
    assert run(capsys, "--topology=v5p:4x4x4", "--search", "--forward")[0] == EXIT_USAGE


def test_forward_plan_has_a_third_of_the_flops_and_no_duration(fake, capsys):
    small = ("--topology=v5p:4x4x4", "--gin.Stage.micro_batches=2")
    train = json.loads(run(capsys, *small, "--json")[1])
    evaluation = json.loads(run(capsys, *small, "--json", "--forward")[1])
    assert evaluation["model_flops"] == pytest.approx(train["model_flops"] / 3)
    assert (evaluation["pass"], evaluation["steps"]) == ("forward", 1)
    out = run(capsys, *small, "--forward")[1]
    assert "evaluation" in out and "one batch" in out and "days" not in out


def test_plan_for_several_slices(fake, capsys):
    result = json.loads(run(capsys, "--topology=v5p:4x4x4", "--slices=2", "--json", "--gin.Stage.micro_batches=2")[1])
    assert (result["slices"], result["chips"], result["topology"]) == (2, 128, "2 x v5p:4x4x4")
    assert run(capsys, "--topology=v5p:4x4x4", "--slices=0")[0] == EXIT_USAGE


# ---------------------------------------------------------------- rejected input


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--topology=h100:8"], EXIT_USAGE, "v5p:4x4x4"),
        (["--topology=v5p:4x4x4", "--gin.CODE_STEP=3"], EXIT_USAGE, "CODE_STEPS"),
        (["--topology=v5p:4x4x4", "--gin_file=gin/nowhere.gin"], EXIT_USAGE, "does not exist"),
        (["--topology=v5p:4x4x4", "--gin.Llama.splash_block=many"], EXIT_USAGE, "expected an integer"),
        (["--topology=v5p:4x4x4", "--gin.Llama.product_dtype=int4"], EXIT_USAGE, "must be 'int8', 'float8' or ''"),
        (["--topology=v5p:4x4x4", "--libtpu_bundle=overlap"], EXIT_USAGE, "v5p has fast, none"),
        (["--topology=v5p:2x2x2", "--serve", "--libtpu_bundle=none"], EXIT_USAGE, "leave it out with --serve"),
        (["--topology=v5p:2x2x2", "--gin.Stage.steps=0", "--gin.Stage.epochs=3.0"], EXIT_USAGE, "--gin.Stage.steps=N"),
    ],
)
def test_bad_input_gives_one_error_line(capsys, arguments, code, message):
    result, out, err = run(capsys, *arguments)
    assert (result, out) == (code, "") and message in err
    assert re.fullmatch(r"error: .*\n", err)


def test_missing_compiler_is_reported_with_the_install_command(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "--topology=v5p:4x4x4")
    assert code == EXIT_FAILED
    assert re.fullmatch(r"error: .*pip install 'libtpu==[\d.*]+'\n", err), "the version that this JAX requires"


def test_missing_topology_or_stage_is_a_usage_error(capsys):
    assert plan.main(FLAGS) == EXIT_USAGE
    assert re.fullmatch(r"error: .* --topology; .*--help explains the flags\n", capsys.readouterr().err)
    assert plan.main(["--topology=v5p:4x4x4"]) == EXIT_USAGE
    assert "--gin_file=gin/code.gin" in capsys.readouterr().err


def test_planning_every_stage_and_size_needs_no_data():
    for size in ("local", "7b", "13b", "34b", "70b"):
        for stage in gin_files.shipped_stages():
            if (stage, size) not in {("python_code", "70b"), ("python_lcft", "70b")}:
                assert load(stage=stage, size=size).llama.vocab_size in (1_024, 1_040, 32_000, 32_016)


def test_importing_plan_loads_neither_jax_nor_tensorflow():
    code = "import sys, codellama_jax.plan; print(sorted({'jax', 'flax', 'tensorflow', 'seqio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
