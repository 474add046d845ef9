"""The plan of a stage: what is printed, what is refused, and a step compiled for real TPUs where their compiler is."""

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from codellama_jax import plan
from codellama_jax.config import gin_files
from codellama_jax.config.gin_files import ROOT
from codellama_jax.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, UserError
from codellama_jax.planning import aot_compile, roofline, search
from codellama_jax.planning.chips import topology
from codellama_jax.planning.collectives import Collectives
from codellama_jax.planning.hlo import Program

PLAIN = ("Llama.remat=full", "Stage.micro_batches=1")  # whatever the size files have found to be better
REAL = ["--gin_file=gin/code.gin", "--gin_file=gin/models/7b.gin", *(f"--gin.{binding}" for binding in PLAIN)]
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
SLICE = topology("v5p:4x4x4")


def shipped(*bindings, stage="code", size="7b"):
    """As the gin files have it."""
    return plan.shaping_config(gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], bindings))


def load(*bindings, stage="code", size="7b"):
    return shipped(*PLAIN, *bindings, stage=stage, size=size)


class FakeCompiler:
    """A compiler in whose eyes a step needs 160 GiB on a v5p of 64 chips, and less with more of what helps."""

    def __init__(self, progress=None):
        self.asked = []

    def facts(self, config, slice_, *, estimate=True, forward=False):
        self.asked.append((config.stage.micro_batches, config.llama.remat, slice_.name, estimate))
        peak = int(160 * 2**30 * 64 / slice_.chips / config.stage.micro_batches)
        peak *= 4 if config.llama.remat != "full" else 1
        facts = {
            "fits": peak <= slice_.chip.hbm_bytes,
            "peak_bytes": peak,
            "hbm_bytes": slice_.chip.hbm_bytes,
            "mesh": {"data": 1, "fsdp": slice_.devices, "context": 1, "tensor": 1},
            **dict.fromkeys(("argument_bytes", "parameter_bytes", "optimizer_bytes", "batch_bytes"), 2**30),
            "seconds": 1.0,
        }
        return facts | {
            "product_flops": 4e15,
            "attention_flops": 2e14,
            "memory_bytes": 1e12,
            "collective_bytes": {"all-gather": {"fsdp": 1e10}},
            "bound": {"compute": 9.0, "memory": 1.0, "interconnect": 2.0},
            "estimate": {"total": 12.0, "instructions": 9.0, "attention": 2.0, "collectives": 1.0}
            if estimate
            else None,
            "program_bytes": 1,
            "unknown_loops": [],
            "recomputed": 0,
        }


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(plan, "Compiler", FakeCompiler)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)


def run(capsys, *arguments):
    code = plan.main([*REAL, *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# ---------------------------------------------------------------- what is printed


def test_json_has_the_keys_of_the_contract(fake, capsys):
    code, out, _ = run(capsys, "--topology=v5p:4x4x4", "--json", "--gin.Stage.micro_batches=2")
    result = json.loads(out)
    assert code == EXIT_DONE and result.keys() >= KEYS
    assert result["fits"] and result["chips"] == 64 and result["steps"] == 119_209
    # 6 for each of the 6.6e9 parameters of a product, and 6 N D S for attention, for each of 4 M tokens
    assert result["model_flops"] == pytest.approx(1.798e17, rel=1e-3)
    assert result["compiled_flops"] == pytest.approx(4.2e15 * 64)
    assert (result["bound_by"], result["bound_seconds"]) == ("compute", 9.0)
    assert result["bound_mfu"] == pytest.approx(1.798e17 / (9 * 64 * 459e12), rel=1e-3)
    assert result["estimated_mfu"] == pytest.approx(result["bound_mfu"] * 9 / 12)
    assert result["chip_hours"] == pytest.approx(12 * 119_209 * 64 / 3600)
    assert result["peak_bytes"] == result["argument_bytes"] + result["temp_bytes"]


def test_the_table_labels_bound_and_estimate(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2")
    for words in (
        "64 chips",
        "fsdp 64",
        "BOUND",
        "ESTIMATE",
        "65% to 70%",
        "nothing here is measured",
        "119,209 steps",
    ):
        assert words in out
    assert "None" not in out and max(map(len, out.splitlines())) <= 120


def test_without_an_estimate(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2", "--no_estimate", "--json")
    result = json.loads(out)
    assert result["estimated_seconds"] is None and result["chip_hours"] is None and result["bound_mfu"] > 0
    _, out, _ = run(capsys, "--topology=v5p-128", "--gin.Stage.micro_batches=2", "--no_estimate")
    assert "BOUND" in out and "ESTIMATE" not in out


def test_what_does_not_fit_says_what_would(fake, capsys):
    _, out, _ = run(capsys, "--topology=v5p:4x4x4", "--json")
    result = json.loads(out)
    assert not result["fits"] and result.keys() >= KEYS
    assert result["missing_bytes"] == result["peak_bytes"] - result["hbm_bytes"] > 0
    assert result["remedy"]["bindings"] == ["Stage.micro_batches=2"]
    _, out, _ = run(capsys, "--topology=v5p:4x4x4")
    assert "DOES NOT FIT" in out and "--gin.Stage.micro_batches=2 --topology=v5p:4x4x4" in out


def test_the_cheapest_change_is_tried_first():
    config, compiler, said = load("Llama.remat=gate+up"), FakeCompiler(), []
    found = search.remedy(config, SLICE, compiler, said.append)
    # 640 GiB; with micro-batches 320, 160, and at 8 80
    assert found and found["bindings"] == ["Stage.micro_batches=8"] and found["chips"] == 64
    assert [asked[0] for asked in compiler.asked] == [2, 4, 8]
    assert not any(asked[3] for asked in compiler.asked), "the estimate takes minutes and is not asked for"
    assert said == [f"does not fit; with Stage.micro_batches={count} v5p:4x4x4" for count in (2, 4, 8)]

    short = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=262_144")  # a window for each device: two may share one
    found = search.remedy(short, SLICE, compiler, said.append)
    assert found and found["bindings"] == ["Llama.remat=full", "Stage.micro_batches=2"] and found["chips"] == 64
    bound = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=262_144", "Mesh.context=1")  # and here they may not
    found = search.remedy(bound, SLICE, compiler, said.append)
    assert found and found["bindings"] == ["Llama.remat=full"] and found["chips"] == 128
    some = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=524_288")
    found = search.remedy(some, SLICE, compiler, said.append)
    assert found and found["bindings"] == ["Llama.remat=full", "Stage.micro_batches=2"] and found["chips"] == 64


def test_changes_keep_a_window_for_every_device():
    for config in (load(), load("Mesh.context=4", stage="lcft"), load("Mesh.tensor=4")):
        for change in search.changes(config, SLICE):
            stage, mesh = change.config.stage, config.mesh
            rows = change.slice_.devices // ((mesh.context or search.SHARING) * mesh.tensor)
            assert stage.batch_size // stage.micro_batches % rows == 0


# ---------------------------------------------------------------- what is fastest


class Searched(FakeCompiler):
    """What is kept takes memory and saves time; a tensor axis of 4 does not go; a host far away makes offload slow."""

    def facts(self, config, slice_, *, estimate=True, forward=False):
        if config.mesh.tensor == 4:
            raise UserError("cannot be cut")
        facts = super().facts(config, slice_, estimate=estimate)
        kept = len(config.llama.kept) if config.llama.remat != "none" else 8
        peak = int((20 + 30 * kept) * 2**30 / config.stage.micro_batches)
        compute = 10.0 - kept / 2 + 0.001 * config.stage.micro_batches
        bound = {"compute": compute, "memory": 1.0, "host": 12.0 * bool(config.llama.offload)}
        return facts | {"peak_bytes": peak, "fits": peak <= facts["hbm_bytes"], "bound": bound}


def test_search_ranks_what_fits_by_its_bound():
    compiler, said = Searched(), []
    found = search.search(load(), SLICE, compiler, said.append)
    bounds = [max(facts["bound"].values()) for _, facts in found]
    assert all(facts["fits"] for _, facts in found)
    assert found[0][0].bindings == ("Llama.remat=none", "Stage.micro_batches=4"), "(20 + 240) / 4 GiB fit, / 2 do not"
    assert bounds[0] == pytest.approx(10 - 4 + 0.004) and bounds[-1] == 12.0, "what waits for the host comes last"
    assert all(later > earlier / search.AS_FAST for earlier, later in itertools.pairwise(bounds))
    remats = {change.config.llama.remat for change, _ in found}
    assert remats == {remat for remat, _ in search.POLICIES}
    meshes = {change.config.mesh.tensor for change, _ in found}
    assert meshes == {1, 2}, "a mesh that cannot be is passed over"
    assert said[0].startswith("0 found; trying") and len(said) == len(compiler.asked) + 1


def test_ties_go_to_fewer_micro_batches_then_to_less_memory():
    def entry(bound, micro_batches, peak):
        change = search.changed(load(), SLICE, micro_batches=micro_batches)
        return change, {"bound": {"compute": bound}, "peak_bytes": peak}

    found = [entry(9.0, 1, 1), entry(8.0, 4, 5), entry(8.01, 2, 50), entry(8.02, 2, 40)]
    assert [facts["peak_bytes"] for _, facts in search.ranked(found)] == [40, 50, 5, 1]


def test_what_the_compiler_computes_again_is_no_fit_of_a_policy():
    class Recomputing(Searched):
        def facts(self, config, slice_, **options):
            return super().facts(config, slice_, **options) | {"recomputed": int(config.stage.micro_batches == 1)}

    found = search.search(load(), SLICE, Recomputing(), lambda words: None)
    tried = {
        c.config.stage.micro_batches for c, _ in found if (c.config.llama.remat, c.config.llama.offload) == ("full", "")
    }
    assert tried == {1, 2}


def test_the_ranking_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(plan, "Compiler", Searched)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)
    code, out, _ = run(capsys, "--topology=v5p:4x4x4", "--search")
    lines = out.splitlines()
    assert code == EXIT_DONE and "not measured" in lines[0]
    assert lines[2].split() == ["6.00", "s", *lines[2].split()[2:5], "GiB", "Llama.remat=none", "Stage.micro_batches=4"]
    _, out, _ = run(capsys, "--topology=v5p:4x4x4", "--search", "--json")
    first = json.loads(out)[0]
    assert first["bindings"] == ["Llama.remat=none", "Stage.micro_batches=4"] and first["bound_seconds"] > 6
    monkeypatch.setattr(Searched, "facts", lambda *_, **__: FakeCompiler().facts(load(), SLICE))
    assert "nothing that was tried fits" in run(capsys, "--topology=v5p:4x4x4", "--search")[1]
    with pytest.raises(SystemExit):
        run(capsys, "--topology=v5p:4x4x4", "--search", "--forward")


def test_an_evaluation_has_a_third_of_the_flops_and_no_stage(fake, capsys):
    small = ("--topology=v5p:4x4x4", "--gin.Stage.micro_batches=2")
    train = json.loads(run(capsys, *small, "--json")[1])
    evaluation = json.loads(run(capsys, *small, "--json", "--forward")[1])
    assert evaluation["model_flops"] == pytest.approx(train["model_flops"] / 3)
    assert (evaluation["pass"], evaluation["steps"]) == ("forward", 1)
    out = run(capsys, *small, "--forward")[1]
    assert "evaluation" in out and "one batch" in out and "days" not in out


def test_several_slices(fake, capsys):
    result = json.loads(run(capsys, "--topology=v5p:4x4x4", "--slices=2", "--json", "--gin.Stage.micro_batches=2")[1])
    assert (result["slices"], result["chips"], result["topology"]) == (2, 128, "2 x v5p:4x4x4")
    assert run(capsys, "--topology=v5p:4x4x4", "--slices=0")[0] == EXIT_USAGE


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (["--topology=h100:8"], EXIT_USAGE, "v5p:4x4x4"),
        (["--topology=v5p:4x4x4", "--gin.CODE_STEP=3"], EXIT_USAGE, "CODE_STEPS"),
        (["--topology=v5p:4x4x4", "--gin_file=gin/nowhere.gin"], EXIT_USAGE, "does not exist"),
        (["--topology=v5p:4x4x4", "--gin.Llama.splash_block=many"], EXIT_USAGE, "expected an integer"),
    ],
)
def test_bad_input(capsys, arguments, code, says):
    result, out, err = run(capsys, *arguments)
    assert (result, out) == (code, "") and says in err
    assert re.fullmatch(r"error: .*\n", err)


def test_without_the_compiler(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(capsys, "--topology=v5p:4x4x4")
    assert code == EXIT_FAILED
    assert re.fullmatch(r"error: .*pip install 'libtpu==[\d.*]+'\n", err), "the version that goes with this JAX"


def test_without_a_topology_or_a_stage(capsys):
    with pytest.raises(SystemExit) as caught:
        plan.main(REAL)
    assert caught.value.code == EXIT_USAGE
    capsys.readouterr()
    assert plan.main(["--topology=v5p:4x4x4"]) == EXIT_USAGE
    assert "--gin_file=gin/code.gin" in capsys.readouterr().err


def test_every_stage_of_every_size_needs_no_data():
    for size in ("local", "7b", "13b", "34b", "70b"):
        for stage in gin_files.shipped_stages():
            if (stage, size) not in {("python_code", "70b"), ("python_lcft", "70b")}:
                assert load(stage=stage, size=size).llama.vocab_size in (2_048, 2_064, 32_000, 32_016)


def test_importing_is_light():
    code = "import sys, codellama_jax.plan; print(sorted({'jax', 'flax', 'tensorflow', 'seqio'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


# ---------------------------------------------------------------- bound and estimate

SCHEDULE = """HloModule m
%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%work, backend_config={"estimated_cycles":"1750000"}
  ROOT %state = (s32[], f32[8]{0}) tuple(%next, %y)
}
%work (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%p), backend_config={"estimated_cycles":"99"}
}
%condition (s: (s32[], f32[8])) -> pred[] {
  %s.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}
ENTRY %main (a: f32[8], g: bf16[50000000]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %g = bf16[50000000]{0} parameter(1)
  %zero = s32[] constant(0)
  %start = (bf16[50000000]{0}, bf16[200000000]{0}) all-gather-start(%g), channel_id=1, replica_groups=[1,4]<=[4]
  %state.1 = (s32[], f32[8]{0}) tuple(%zero, %a)
  %loop = (s32[], f32[8]{0}) while(%state.1), condition=%condition, body=%body
  %done = bf16[200000000]{0} all-gather-done(%start)
  %sum = f32[8]{0} all-reduce(%a), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %end = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_the_schedule_is_gone_through():
    """A gather of 300 MB a device takes 1.5 ms over one link; three trips of 1.75 M cycles hide it."""
    where = roofline.Slice(topology("v5p:2x2x1"), [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]])

    def read(text):
        program = Program(text)
        return program, Collectives(program, {"data": 1, "fsdp": 4, "context": 1, "tensor": 1})

    program, collectives = read(SCHEDULE)
    bandwidth = where.topology.send_bandwidth(where.places)
    assert bandwidth == 2 * 100e9
    assert roofline.sent(collectives) == {"all-gather": {"fsdp": 3e8}, "all-reduce": {"fsdp": 2 * 3 / 4 * 32}}
    estimate = roofline.estimate(program, collectives, where)
    assert estimate["instructions"] == pytest.approx(3e-3)
    assert estimate["collectives"] == pytest.approx(48 / bandwidth), "the gather is hidden, the sum is not"
    slower = SCHEDULE.replace("50000000", "200000000").replace(
        "[200000000]{0} all-gather-done", "[800000000]{0} all-gather-done"
    )
    assert roofline.estimate(*read(slower), where)["collectives"] == pytest.approx(3e-3, rel=1e-4)
    assert roofline.bound(program, collectives, where)["interconnect"] == pytest.approx(1.5e-3, rel=1e-4)
    assert roofline.estimate(*read(SCHEDULE.replace("estimated_cycles", "withheld")), where) is None


# ---------------------------------------------------------------- the real compiler

TINY = [
    *("Llama.dim=256", "Llama.heads=2", "Llama.kv_heads=1", "Llama.ffn_dim=512", "Llama.layers=3", "VOCAB_SIZE=512"),
    *("Llama.compute_dtype='bfloat16'", "Llama.remat='full'", "CODE_LENGTH=512", "CODE_BATCH_TOKENS=8_192"),
    *("Llama.splash_block=256", "Llama.loss_chunk=256"),
]


@pytest.fixture(scope="module")
def tiny_facts(tmp_path_factory):
    """A step of three small layers, compiled for four chips of v5e."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the TPU compiler, is not installed (requirements-tpu.txt)")
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        patch.delenv("XLA_FLAGS", raising=False)
        words = []
        facts = aot_compile.Compiler(words.append).facts(load(*TINY, size="local"), topology("v5e:2x2"))
        assert any("generating code" in said for said in words) and words[-1] == ""
        yield facts, cache


def test_a_step_compiled_for_tpus(tiny_facts):
    facts, _ = tiny_facts
    assert facts["fits"] and facts["mesh"] == {"data": 1, "fsdp": 4, "context": 1, "tensor": 1}
    assert 0 < facts["argument_bytes"] < facts["peak_bytes"] < facts["hbm_bytes"]
    # parameters in float32, over four devices, and two moments of each
    parameters = load(*TINY, size="local").llama.parameters
    assert facts["parameter_bytes"] == parameters * 4 // 4
    assert facts["optimizer_bytes"] == pytest.approx(parameters * 8 / 4, abs=16)
    assert not facts["unknown_loops"]
    assert sum(facts["collective_bytes"].get(kind, {}).get("fsdp", 0) for kind in ("all-gather", "all-reduce")) > 0
    assert facts["estimate"]["total"] > max(facts["bound"].values()) > 0


def test_its_flops_are_those_that_one_counts_by_hand(tiny_facts):
    """Forward 2, backward 4, recomputed 2, but for w2, of which the backward pass does not want the output, and for the
    head, whose gradient is taken where the loss is."""
    llama, tokens = load(*TINY, size="local").llama, 8_192
    attention = 2 * llama.dim * llama.head_dim * (llama.heads + llama.kv_heads)
    layer = 8 * (attention + 2 * llama.dim * llama.ffn_dim) + 6 * llama.dim * llama.ffn_dim
    flops = tokens * (llama.layers * layer + 6 * llama.dim * llama.vocab_size) / 4
    assert tiny_facts[0]["product_flops"] == pytest.approx(flops, rel=1e-3)
    # two products forwards, twice, and seven backwards, over half of the square
    squares = 8_192 * 512 * llama.dim * llama.layers / 4
    assert tiny_facts[0]["attention_flops"] == pytest.approx((2 + 2 + 7) * squares)


def test_what_was_compiled_is_remembered(tiny_facts, monkeypatch):
    facts, cache = tiny_facts
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(aot_compile.Compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    slice_, config = topology("v5e:2x2"), load(*TINY, size="local")
    for estimate in (True, False):
        assert aot_compile.Compiler().facts(config, slice_, estimate=estimate) == facts
    other = dataclasses.replace(config, llama=dataclasses.replace(config.llama, layers=4))
    with pytest.raises(pytest.fail.Exception):
        aot_compile.Compiler().facts(other, slice_)


def test_too_large_a_step_is_refused_with_its_size(tiny_facts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load(*TINY, "Llama.layers=12_000", size="local")
    facts = aot_compile.Compiler().facts(config, topology("v5e:2x2"), estimate=False)
    assert not facts["fits"] and facts["peak_bytes"] > facts["hbm_bytes"] > 15 * 2**30


@pytest.mark.parametrize("bindings, says", [(["Mesh.fsdp=3"], "4 devices"), (["Mesh.tensor=4"], "Llama.kv_heads")])
def test_what_the_mesh_cannot_cut(tiny_facts, tmp_path, monkeypatch, bindings, says):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=re.escape(says)):
        aot_compile.Compiler().facts(load(*TINY, *bindings, size="local"), topology("v5e:2x2"), estimate=False)
    assert not list(tmp_path.rglob("*.json")), "an error is not remembered"


# The chips that gin/models/*.gin state.
STATED = {"7b": "v5p-128", "13b": "v5p-128", "34b": "v5p-128", "70b": "v5p-512"}


@pytest.mark.parametrize("size", STATED)
def test_the_real_sizes_fit_the_chips_that_they_state(tiny_facts, size):
    """In the seconds before code generation; by hand, with everything recomputed: all products but the head and one of
    a layer four times, those three."""
    assert STATED[size] in (ROOT / f"gin/models/{size}.gin").read_text()
    slice_ = topology(STATED[size])
    facts = aot_compile.Compiler().facts(shipped(size=size), slice_, estimate=False)
    assert facts["fits"] and not facts["unknown_loops"]
    assert _ratio(shipped(size=size), slice_, facts) < 1.10, "as the size file says"
    config = load(size=size)
    facts = aot_compile.Compiler().facts(config, slice_, estimate=False)
    llama, tokens = config.llama, config.stage.batch_tokens
    products = llama.parameters - llama.dim * (llama.vocab_size + 2 * llama.layers + 1)
    by_hand = tokens * (8 * products - 2 * llama.dim * (llama.layers * llama.ffn_dim + llama.vocab_size))
    assert facts["product_flops"] * slice_.devices == pytest.approx(by_hand, rel=1e-3)
    assert _ratio(config, slice_, facts) < 1.35, "with everything recomputed"


def _ratio(config, slice_, facts):
    result = plan.summary(config, slice_, facts)
    return result["compiled_flops"] / result["model_flops"]


def test_what_is_offloaded_waits_in_the_hosts_memory(tiny_facts):
    kept = aot_compile.Compiler().facts(load(), SLICE, estimate=False)
    config = load("Llama.offload=input")
    facts = aot_compile.Compiler().facts(config, SLICE, estimate=False)
    stage, llama = config.stage, config.llama
    inputs = stage.batch_tokens / SLICE.devices * llama.dim * 2 * llama.layers
    assert kept["peak_bytes"] - facts["peak_bytes"] > 0.8 * inputs / stage.micro_batches
    assert facts["bound"]["host"] == pytest.approx(2 * inputs / SLICE.host_bandwidth, rel=1e-3), "there and back"
    assert kept["bound"]["host"] == 0


def test_a_hundred_thousand_tokens_fit_in_an_evaluation(tiny_facts):
    """One window of 102,400 tokens over four chips: the context axis is chosen, since there is one window."""
    # large blocks: going through the mask block by block takes most of the time
    config = load("LCFT_LENGTH=102_400", "LCFT_BATCH_TOKENS=102_400", "Llama.splash_block=2048", stage="lcft")
    facts = aot_compile.Compiler().facts(config, topology("v5p:2x2x1"), estimate=False, forward=True)
    assert facts["fits"] and facts["mesh"]["context"] == 4 and facts["optimizer_bytes"] == 0


def test_slices_exchange_gradients_over_the_network(tiny_facts):
    slices = topology("v5p:4x4x4", 2)
    facts = aot_compile.Compiler().facts(load(), slices, estimate=False)
    assert facts["fits"] and (facts["mesh"]["data"], facts["mesh"]["fsdp"]) == (2, 64)
    # every device its 64th of the gradients, there and back with two slices: in bfloat16 but for embedding and head
    llama = load().llama
    gradients = llama.parameters * 2 + 2 * llama.vocab_size * llama.dim * 2
    assert facts["collective_bytes"]["all-reduce"]["data"] == pytest.approx(gradients / 64, rel=0.05)


def test_an_axis_of_half_a_direction_of_the_interconnect(tiny_facts):
    facts = aot_compile.Compiler().facts(load("Mesh.data=2"), SLICE, estimate=False)
    assert facts["fits"] and facts["mesh"]["fsdp"] == 32
    assert facts["collective_bytes"]["all-reduce"].keys() & {"data", "data+fsdp"}, "gradients are summed over data"


def test_what_cannot_be_read_is_one_line(tiny_facts, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(aot_compile, "Program", lambda text: Program("HloModule other").runs)
    with pytest.raises(UserError, match=r"requirements-tpu\.txt"):
        aot_compile.Compiler().facts(load(*TINY, size="local"), topology("v5e:2x2"), estimate=False)


def test_an_interrupted_plan_leaves_no_compiler_behind(tiny_facts, tmp_path):
    command = [sys.executable, "-m", "codellama_jax.plan", *REAL, "--topology=v5p:4x4x4"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/*after_optimizations.txt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == EXIT_FAILED
    assert process.stderr.read().endswith("error: interrupted\n")
    assert not list(tmp_path.glob("*")), "neither texts nor a plan"
