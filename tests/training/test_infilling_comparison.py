"""Held-out infilling during a stage, and the comparison before and after it."""

import json
import math
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.model import Llama
from codellama_jax.config.training import Evaluation, Mesh, Stage
from codellama_jax.errors import UserError
from codellama_jax.report.infilling_changes import infilling_changes
from codellama_jax.training import infilling_comparison
from codellama_jax.training.infilling_cases import GENERAL, HELD_OUT, make_cases
from codellama_jax.training.infilling_comparison import AFTER, BEFORE, RESULT, InfillingComparison
from codellama_jax.training.step import init_params

STAGE = Stage("adapt", "test", None, steps=1, batch_tokens=128, sequence_length=64)
SETTINGS = Evaluation(infilling_cases=3, infilling_context=64, infilling_tokens=4)
FILES = [
    (f"{name}.py", f"import {name}\n\n\ndef of_{name}(value):\n    return {name}.run(value)\n" * 9) for name in "abcde"
]
CASES = make_cases(FILES[:3], HELD_OUT, 3) + make_cases(FILES[3:], GENERAL, 2)


@pytest.fixture(scope="module")
def llama(small_tokenizer):
    shape = dict(dim=16, layers=1, heads=2, kv_heads=1, ffn_dim=16, compute_dtype="float32", remat="none")
    return Llama(vocab_size=small_tokenizer.rows, **shape)


@pytest.fixture(scope="module")
def mesh():
    mesh = sharding.make_mesh(Mesh(), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(scope="module")
def make(llama, mesh, small_tokenizer):
    def made(folder, cases=CASES, on_answers=lambda: None):
        return InfillingComparison(
            llama, mesh, STAGE, small_tokenizer, SETTINGS, cases, folder, True, lambda line: None, on_answers
        )

    return made


@pytest.fixture(scope="module")
def params(llama):
    return [init_params(llama, seed) for seed in range(2)]


def test_an_evaluation_is_the_bits_per_byte_of_the_held_out_holes(tmp_path, make, params):
    comparison = make(tmp_path)
    found = comparison.evaluation(params[0], 7)
    assert found.keys() == {"kind", "step", "loss", "bits_per_byte/lines", "bits_per_byte/spans"}
    nbytes = {
        kind: sum(len(c.middle.encode()) for c in CASES if (c.corpus, c.kind) == (HELD_OUT, kind))
        for kind in ("line", "span")
    }
    total = sum(nbytes[kind] * found[f"bits_per_byte/{kind}s"] for kind in nbytes)
    assert found["loss"] == pytest.approx(total / sum(nbytes.values()))
    # random parameters give each of 528 tokens about the same probability
    tokens = sum(len(text.gold) for text in comparison._texts[: len([c for c in CASES if c.corpus == HELD_OUT])])
    assert found["loss"] == pytest.approx(tokens * math.log2(528) / sum(nbytes.values()), rel=0.05)
    assert comparison.evaluation(params[0], 7) == found


def test_an_interrupted_measurement_resumes_with_the_same_texts(tmp_path, make, params, monkeypatch):
    make(tmp_path / "whole").measure(BEFORE, params[0], "m")
    monkeypatch.setattr(infilling_comparison, "STORED_AFTER", 4)

    class Killed(Exception):
        pass

    calls = []

    def kill():
        calls.append(1)
        if len(calls) == 2:
            raise Killed

    with pytest.raises(Killed):
        make(tmp_path / "cut", on_answers=kill).measure(BEFORE, params[0], "m")
    path = tmp_path / "cut/infilling/before.jsonl"
    assert len(path.read_text().splitlines()) == 1 + 4
    resumed = []
    make(tmp_path / "cut", on_answers=lambda: resumed.append(1)).measure(BEFORE, params[0], "m")
    assert len(resumed) == math.ceil((len(CASES) - 4) / 4)
    whole, cut = ((tmp_path / name / "infilling/before.jsonl").read_text() for name in ("whole", "cut"))
    assert cut == whole

    # of other holes or of another model, nothing is kept
    make(tmp_path / "cut", on_answers=lambda: resumed.append(1)).measure(BEFORE, params[1], "other")
    assert len(resumed) > 3 and path.read_text() != whole


def test_the_comparison_is_written_beside_the_report(tmp_path, make, params):
    comparison = make(tmp_path)
    comparison.measure(BEFORE, params[0], "0")
    comparison.measure(AFTER, params[1], "1")
    lines = comparison.compare("0", "1")
    assert [line.partition(":")[0] for line in lines] == ["held-out files", "general code"]
    result = json.loads((tmp_path / RESULT).read_text())
    assert len(result["changes"]) == 12 and result["samples"]
    page = infilling_changes(SimpleNamespace(name="adapt", infilling=result))
    assert page.count("<tr>") == 12 and "held-out files: lines, filled exactly" in page
    assert infilling_changes(SimpleNamespace(name="adapt", infilling={})) == ""
    assert "no comparison" in comparison.compare("missing", "1")[0]


def test_equal_parameters_give_no_difference(tmp_path, make, params):
    comparison = make(tmp_path)
    comparison.measure(BEFORE, params[0], "0")
    comparison.measure(AFTER, params[0], "1")
    comparison.compare("0", "1")
    differences = [change["difference"] for change in json.loads((tmp_path / RESULT).read_text())["changes"]]
    assert np.all(np.array([difference["value"] for difference in differences]) == 0)


def test_files_without_a_line_to_fill_in_are_refused(tmp_path, make):
    with pytest.raises(UserError, match="the held-out files have no line to fill in: name a folder with more code"):
        make(tmp_path, cases=make_cases(FILES, GENERAL, 1))
