"""The changes that are tried for a stage that does not fit, and the ranking of settings."""

import itertools

import pytest
from fake_compiler import SLICE, FakeCompiler, SearchCompiler, load

from codellama_jax.planning import search


def test_remedy_tries_the_cheapest_change_first():
    config, compiler, messages = load("Llama.remat=gate+up"), FakeCompiler(), []
    change = search.remedy(config, SLICE, compiler, messages.append)
    # 640 GiB; 320, 160 and 80 with 2, 4 and 8 micro-batches
    assert change and change["bindings"] == ["Stage.micro_batches=8"] and change["chips"] == 64
    assert [request[0] for request in compiler.requests] == [2, 4, 8]
    assert not any(request[3] for request in compiler.requests), "the estimate takes minutes and must not be requested"
    assert messages == [f"does not fit; trying Stage.micro_batches={count} v5p:4x4x4" for count in (2, 4, 8)]

    short = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=262_144")  # 64 windows; two devices may share one
    change = search.remedy(short, SLICE, compiler, messages.append)
    assert change and change["bindings"] == ["Llama.remat=full", "Stage.micro_batches=2"] and change["chips"] == 64
    no_sharing = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=262_144", "Mesh.context=1")
    change = search.remedy(no_sharing, SLICE, compiler, messages.append)
    assert change and change["bindings"] == ["Llama.remat=full"] and change["chips"] == 128
    larger_batch = load("Llama.remat=gate+up", "CODE_BATCH_TOKENS=524_288")
    change = search.remedy(larger_batch, SLICE, compiler, messages.append)
    assert change and change["bindings"] == ["Llama.remat=full", "Stage.micro_batches=2"] and change["chips"] == 64


def test_candidate_changes_keep_enough_windows_for_all_devices():
    for config in (load(), load("Mesh.context=4", stage="lcft"), load("Mesh.tensor=4")):
        for change in search.candidate_changes(config, SLICE):
            stage, mesh = change.config.stage, config.mesh
            rows = change.slice_.devices // ((mesh.context or search.MAX_CONTEXT) * mesh.tensor)
            assert stage.batch_size // stage.micro_batches % rows == 0


# ---------------------------------------------------------------- search


def test_search_ranks_fitting_settings_by_bound():
    compiler, messages = SearchCompiler(), []
    ranking = search.search(load(), SLICE, compiler, messages.append)
    bounds = [max(analysis["bound"].values()) for _, analysis in ranking]
    assert all(analysis["fits"] for _, analysis in ranking)
    assert ranking[0][0].bindings == ("Llama.remat=none", "Stage.micro_batches=4"), "(20 + 240) / 4 GiB fit, / 2 do not"
    assert bounds[0] == pytest.approx(10 - 4 + 0.004) and bounds[-1] == 12.0, "limited by host transfers: last"
    assert all(later > earlier / search.TIE_RATIO for earlier, later in itertools.pairwise(bounds))
    remats = {change.config.llama.remat for change, _ in ranking}
    assert remats == {remat for remat, _ in search.POLICIES}
    meshes = {change.config.mesh.tensor for change, _ in ranking}
    assert meshes == {1, 2}, "an impossible mesh is skipped"
    assert messages[0].startswith("0 fit; trying") and len(messages) == len(compiler.requests) + 1


def test_ties_are_broken_by_micro_batches_then_memory():
    def entry(bound, micro_batches, peak):
        change = search.make_change(load(), SLICE, micro_batches=micro_batches)
        return change, {"bound": {"compute": bound}, "peak_bytes": peak}

    fitting = [entry(9.0, 1, 1), entry(8.0, 4, 5), entry(8.01, 2, 50), entry(8.02, 2, 40)]
    assert [analysis["peak_bytes"] for _, analysis in search.rank(fitting)] == [40, 50, 5, 1]


def test_settings_that_the_compiler_rematerialises_do_not_count_as_fitting():
    class Recomputing(SearchCompiler):
        def analyze(self, config, slice_, **options):
            return super().analyze(config, slice_, **options) | {"recomputed": int(config.stage.micro_batches == 1)}

    ranking = search.search(load(), SLICE, Recomputing(), lambda message: None)
    counts = {
        c.config.stage.micro_batches
        for c, _ in ranking
        if (c.config.llama.remat, c.config.llama.offload) == ("full", "")
    }
    assert counts == {1, 2}
