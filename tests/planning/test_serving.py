"""Plans of generation: figures from the analyses of programs, and a program compiled by the real TPU compiler."""

import dataclasses
import importlib.util
import json

import pytest
from fake_compiler import load

from codellama_jax import plan
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE
from codellama_jax.planning import serving
from codellama_jax.planning.aot_compile import Compiler
from codellama_jax.planning.chips import GiB, topology
from codellama_jax.planning.serving_config import ServingProgram

SLICE = topology("v5e:2x4")
MiB = 2**20


class FakeCompiler:
    """Weights of `weights` bytes, and programs that need more memory than RESERVES[0] leaves."""

    def __init__(self, progress=None, weights=8 * GiB):
        self.weights, self.programs = weights, []

    def analyze(self, config, slice_, *, estimate, serving):
        self.programs.append(serving)
        peak = self.weights + serving.cache_tokens * 2 * MiB + 3 * GiB // 4 * (serving.slots != 1)
        memory = STEPS * (self.weights / slice_.hbm_bandwidth + serving.slots * 1e-6)
        return {
            "fits": peak <= slice_.chip.hbm_bytes,
            "peak_bytes": peak,
            "hbm_bytes": slice_.chip.hbm_bytes,
            "mesh": {"tensor": 8},
            "parameter_bytes": self.weights,
            "embedding_bytes": 0,
            "token_bytes": 2 * MiB,
            "blocks": [[256, 2 * MiB]],
            "bound": {"memory": memory, "compute": 1e-6, "interconnect": 1e-6},
        }


STEPS = serving.STEPS


def test_the_cache_is_the_largest_with_which_all_programs_fit():
    compiler = FakeCompiler()
    result = serving.plan_serving(load(), SLICE, compiler)
    free = SLICE.chip.hbm_bytes - 8 * GiB - 1 * GiB  # half a GiB less did not fit
    assert result["fits"] and result["cache_tokens"] == free // (2 * MiB) // 128 * 128
    assert {program.slots for program in compiler.programs} == {0, 1, 256}


def test_a_step_moves_the_weights_and_the_pages_of_every_request():
    rows = serving.plan_serving(load(), SLICE, FakeCompiler())["decode"]
    (row,) = [row for row in rows if (row["batch"], row["context"]) == (4, 512)]
    # four requests of two blocks of keys each, and a microsecond for each slot
    moved = 8 * GiB + 4 * 512 * 2 * MiB + 4e-6 * SLICE.hbm_bandwidth
    assert row["moved_bytes"] == pytest.approx(moved)
    assert row["moved_ratio"] == pytest.approx(moved / (8 * GiB + 4 * GiB))
    assert row["bound_tokens_per_second"] == pytest.approx(4 * SLICE.hbm_bandwidth / moved)
    assert not [row for row in rows if row["batch"] * row["context"] > 3456], "the cache holds no more"


def test_weights_that_do_not_fit_are_reported():
    result = serving.plan_serving(load(), SLICE, FakeCompiler(weights=17 * GiB))
    assert not result["fits"] and "decode" not in result
    assert "DOES NOT FIT: 17.25 GiB are needed" in serving.serving_table(result)


def test_flags_that_do_not_go_together_are_refused_before_a_compiler_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(plan, "require_compiler", lambda: pytest.fail("it was asked for"))
    assert plan.main(["--topology=v5e:2x4", "--cache_dtype=int8"]) == EXIT_USAGE
    assert plan.main(["--topology=v5e:2x4", "--serve", "--slices=2"]) == EXIT_USAGE
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error"] * 2


def test_the_command_needs_no_stage_file(monkeypatch, capsys):
    monkeypatch.setattr(plan, "Compiler", FakeCompiler)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)
    flags = ["--serve", "--gin_file=gin/models/34b.gin", "--topology=v5e:2x4"]
    assert plan.main([*flags, "--json"]) == EXIT_DONE
    result = json.loads(capsys.readouterr().out)
    assert (result["size"], result["chips"], result["cache_dtype"]) == ("34b", 8, "bfloat16")
    assert plan.main(flags) == EXIT_DONE
    assert "FITS, with a cache of 3,456 tokens" in capsys.readouterr().out
    assert plan.main([*flags[1:], "--gin_file=gin/code.gin", "--cache_dtype=int8"]) == EXIT_USAGE
    assert "--cache_dtype needs --serve" in capsys.readouterr().err


def test_a_compiled_step_moves_little_more_than_weights_and_cache(tmp_path, monkeypatch):
    """With five heads on each device, as 13B has on eight: a group of four and one of one."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed (requirements-tpu.txt)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    config = load()
    llama = dataclasses.replace(config.llama, dim=2560, heads=20, kv_heads=20, layers=2, vocab_size=512, ffn_dim=16_384)
    config = dataclasses.replace(config, llama=llama)
    program = ServingProgram(slots=4, tokens=2, context=4096, cache_tokens=65_536)
    analysis = Compiler().analyze(config, topology("v5e:2x2"), estimate=False, serving=program)
    assert analysis["fits"] and analysis["mesh"]["tensor"] == 4 and not analysis["unknown_loops"]
    assert [keys for keys, _ in analysis["blocks"]] == [512, 512]
    assert sum(size for _, size in analysis["blocks"]) == pytest.approx(analysis["token_bytes"]) == 2 * 2 * 5 * 128 * 2
    weights = analysis["parameter_bytes"] - analysis["embedding_bytes"]
    assert weights <= analysis["memory_bytes"] / 2 < 1.15 * weights, "the cache is not copied"
    assert analysis["collective_bytes"]["all-reduce"]["tensor"] > 0
