"""Key retrieval: prompts of valid Python with a wanted number of tokens, and what counts as right."""

import ast
import difflib
import json
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.scored_benchmarks import KeyRetrieval as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.key_retrieval import KeyRetrieval
from codellama_jax.evaluation.filler import Filler, top_level
from codellama_jax.evaluation.sample import Answer, Sample

SETTINGS = Settings(lengths=(300, 800), positions=(0.0, 0.4, 1.0), problems=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    source = folder / "key_retrieval"
    source.mkdir()
    (source / "difflib.py").write_text(Path(difflib.__file__).read_text())
    (source / "broken.py").write_text("def f(:\n")
    rows = [{"solution": Path(module.__file__).read_text()} for module in (json.decoder, json.encoder)]
    rows += [{"solution": f"def plus_{number}(x):\n    return x + {number}\n"} for number in range(50)]
    (source / "solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_prompts_have_the_wanted_length_and_position_and_are_valid_python(data, small_tokenizer):
    problems = KeyRetrieval(SETTINGS, small_tokenizer).problems(data)
    assert len(problems) == 2 * 3 * 3
    for problem in problems:
        text = problem.input.text
        length, position, _ = problem.task_id.split("/")
        missing = int(length) - 1 - len(small_tokenizer.encode(text))
        assert 0 <= missing <= 12
        ast.parse(f"{text}{problem.data}\n")
        assert text.endswith("assert my_function() == ")
        before, _, after = text.partition("def my_function() -> int:\n")
        assert f"return {problem.data}\n" in after and 10 <= problem.data <= 99
        sizes = [len(small_tokenizer.encode(part)) for part in (before, after)]
        assert float(position) == pytest.approx(sizes[0] / sum(sizes), abs=0.25)


def test_prompts_are_the_same_every_time_and_differ_from_each_other(data, small_tokenizer):
    first, second = (KeyRetrieval(SETTINGS, small_tokenizer).problems(data) for _ in range(2))
    assert first == second
    assert len({problem.input.text for problem in first}) == len(first)


def test_the_value_must_follow():
    benchmark = KeyRetrieval(SETTINGS)
    problem = type("P", (), {"data": 42})()
    for raw, right in (("42\n", True), (" 42", True), ("423", False), ("4", False), ("x", False), ("", False)):
        assert benchmark.judged(problem, benchmark.completion(problem, raw), None, Answer()).passed == right


def test_accuracy_by_length_and_position():
    samples = [
        Sample(f"{length}/{position}/{task}", 0, 0, "", "", "", passed, "")
        for length, position, results in ((800, "0.4", (True, False)), (800, "0", (True, True)), (300, "0", (False,)))
        for task, passed in enumerate(results)
    ]
    summary = KeyRetrieval(SETTINGS).summary(samples)
    assert summary["accuracy"] == {"300": {"0": 0.0}, "800": {"0": 1.0, "0.4": 0.5}}
    assert (summary["pass@1"], summary["tasks"]) == (0.6, 5)


def test_mbpp_is_the_filler_by_default(shared_data, llama_tokenizer):
    settings = Settings(lengths=(2_000,), positions=(0.5,), problems=1)
    (problem,) = KeyRetrieval(settings, llama_tokenizer).problems(shared_data)
    assert 1_980 <= 1 + len(llama_tokenizer.encode(problem.input.text)) <= 2_000


def test_what_is_missing_is_named(data, tmp_path, small_tokenizer):
    with pytest.raises(UserError, match="--tokenizer=FILE"):
        KeyRetrieval(SETTINGS).problems(data)
    with pytest.raises(UserError, match=r"mbpp.jsonl is missing: KeyRetrieval.filler names"):
        KeyRetrieval(SETTINGS, small_tokenizer).problems(tmp_path)
    with pytest.raises(UserError, match="no valid Python 3"):
        KeyRetrieval(Settings(filler="key_retrieval/broken.py"), small_tokenizer).problems(data)
    with pytest.raises(UserError, match=r"KeyRetrieval.lengths has 20, which is too short"):
        KeyRetrieval(Settings(lengths=(20,)), small_tokenizer).problems(data)
    (tmp_path / "x.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(UserError, match=r"x.jsonl:1 has none of the fields code, solution"):
        KeyRetrieval(Settings(filler=str(tmp_path / "x.jsonl")), small_tokenizer).problems(data)


def test_statements_stay_whole():
    program = "from __future__ import annotations\nimport os; x = [\n    1]\n# note\n"
    program += "@staticmethod\ndef f():\r\n    'a\\d'\n"
    assert top_level(program) == ["import os; x = [\n    1]\n", "@staticmethod\ndef f():\n    'a\\d'\n\n\n"]
    assert top_level("def f(:") == top_level("\0") == []


def test_filler_repeats_programs_if_there_are_too_few(small_tokenizer):
    text = Filler(["x = 1\n"], small_tokenizer).around("", "", 100, 0.5, np.random.default_rng(0))
    assert text.count("x = 1\n") > 10


def test_settings_have_lists_of_numbers():
    flags = ["KeyRetrieval.lengths=[100, 200]", "KeyRetrieval.positions=[0, 0.5]"]
    settings = gin_files.load([], flags, default_size="local").resolve(Settings).key_retrieval
    assert (settings.lengths, settings.positions) == ((100, 200), (0.0, 0.5))
    flags = ["KeyRetrieval.lengths=[0.5]"]
    with pytest.raises(UserError, match="expected a list of integers"):
        gin_files.load([], flags, default_size="local").resolve(Settings)
    with pytest.raises(ValueError, match="between 0 and 1"):
        Settings(positions=(2.0,))
