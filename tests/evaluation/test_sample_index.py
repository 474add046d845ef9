"""The index of a file of samples, and the classes of failures."""

import dataclasses
from pathlib import Path

import pytest

from codellama_jax.errors import UserError
from codellama_jax.evaluation.failure import MEANING, cut_off, failure_of
from codellama_jax.evaluation.sample import Sample
from codellama_jax.evaluation.sample_file import line_of
from codellama_jax.evaluation.sample_index import SampleIndex, natural_order

SAMPLE = Sample(
    "HumanEval/0", 0, 5, "def f():", "    pass\n", "    pass\n", False, "failed: AssertionError", status="failed"
)


@pytest.mark.parametrize(
    "changes, failure",
    [
        ({"passed": True}, ""),
        ({"passed": None}, ""),
        ({}, "assertion"),
        ({"status": "error", "reason": "error: NameError: name 'x' is not defined"}, "NameError"),
        ({"status": "error", "reason": "error: AssertionError"}, "AssertionError"),
        (
            {"status": "error", "reason": "error: IndentationError: unexpected indent (<program>, line 2)"},
            "syntax error",
        ),
        ({"status": "error", "reason": "error: module.Odd: no"}, "other error"),
        ({"status": "error", "reason": "error: module.OddError: no"}, "other exception"),
        ({"status": "error", "reason": "error: print: no"}, "other error"),
        ({"status": "error", "reason": "error: the test ended early"}, "other error"),
        ({"status": "error", "reason": "error: \u202eNameError: x"}, "other exception"),
        ({"status": "error", "reason": "error: g++: main.cpp:3: error: expected ;"}, "compilation"),
        ({"status": "error", "reason": 'error: Exception in thread "main" java.lang.Error'}, "other exception"),
        ({"status": "passed", "reason": "failed: an assertion of the test"}, "assertion"),
        ({"status": "passed", "reason": "error: the program ended before the end of its test"}, "other error"),
        ({"status": "error", "reason": ""}, "other error"),
        ({"status": "cpu_time", "reason": "cpu_time: x"}, "time"),
        ({"status": "wall_time", "reason": "wall_time: x"}, "time"),
        ({"status": "memory", "reason": "memory: x"}, "memory"),
        ({"status": "output", "reason": "output: x"}, "output"),
        ({"status": "no_test", "reason": "no_test: x"}, "no test"),
        ({"status": "memory", "reason": "a benchmark's own words"}, "memory"),
        ({"status": "", "reason": "the value is 12"}, "wrong answer"),
        ({"completion": " \n"}, "empty"),
        ({"finish_reason": "refused", "completion": ""}, "no answer"),
    ],
)
def test_classes_of_failures(changes: dict, failure: str):
    found = failure_of(dataclasses.replace(SAMPLE, **changes))
    assert found == failure
    assert not found or found in MEANING or found.endswith("Error")


def test_an_answer_is_cut_off_if_nothing_ends_what_counts_before_the_limit():
    def cut(raw: str, completion: str, reason: str = "length") -> bool:
        return cut_off(dataclasses.replace(SAMPLE, raw=raw, completion=completion, finish_reason=reason))

    assert cut("return 1", "return 1")
    assert cut(" return 1 \n", "return 1")  # of a benchmark that strips answers
    assert not cut("return 1\ndef g():", "return 1")
    assert not cut("return 1", "return 1", "stop")
    assert not cut("", "")


def test_tasks_are_in_natural_order():
    names = ["a/10", "a/9", "a/1", "b", "a", "10", "9", "a/1/2", "", "a/" + "1" * 30]
    assert sorted(names, key=natural_order) == ["", "9", "10", "a", "a/1", "a/1/2", "a/9", "a/10", "a/" + "1" * 30, "b"]


def test_the_index_finds_all_samples_and_reads_them(tmp_path: Path):
    hostile = "\ud800 \u2028 \x85 \r\n \0"
    samples = [
        dataclasses.replace(
            SAMPLE, task_id=f"HumanEval/{task}", sample=sample, variant=variant, raw=hostile, stderr=hostile
        )
        for task in (10, 2)
        for variant in ("spm", "psm")
        for sample in (1, 0)
    ]
    lines = [line_of(sample).encode() for sample in samples]
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join((*lines[:3], b"\xff damaged\n", *lines[3:], lines[0], lines[1][:20])))
    index = SampleIndex(path)
    assert (index.samples, index.damaged) == (8, 3)  # a line that is no sample, a sample twice, a torn line
    assert list(index.variants) == ["psm", "spm"]
    assert all(list(tasks) == ["HumanEval/2", "HumanEval/10"] for tasks in index.variants.values())
    read = [index.read(entry) for tasks in index.variants.values() for entries in tasks.values() for entry in entries]
    assert sorted(read, key=lambda s: s.key) == sorted(samples, key=lambda s: s.key)
    assert [s.sample for s in read] == [0, 1] * 4
    assert (
        path.read_bytes().split(b"\n")[index.variants["psm"]["HumanEval/2"][0].line - 1] + b"\n"
        == line_of(read[0]).encode()
    )


def test_equal_samples_have_one_digest(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    changes: list[dict] = [
        {},
        {"seed": 9, "stderr": "x"},
        {"completion": "return"},
        {"reason": "other"},
        {"passed": True},
    ]
    path.write_text("".join(line_of(dataclasses.replace(SAMPLE, sample=i, **c)) for i, c in enumerate(changes)))
    digests = [entry.digest for entry in SampleIndex(path).variants[""]["HumanEval/0"]]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_a_file_that_is_missing_or_changes_is_reported(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    with pytest.raises(UserError, match=r"x\.jsonl is missing"):
        SampleIndex(path)
    path.write_text(line_of(SAMPLE))
    index = SampleIndex(path)
    path.write_text("{}\n")
    with pytest.raises(UserError, match="changed while it was read"):
        index.read(index.variants[""]["HumanEval/0"][0])
