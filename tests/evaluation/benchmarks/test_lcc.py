"""LCC: both published formats, the balanced sample, and what counts as right."""

import json
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from codellama_jax.config.scored_benchmarks import Lcc as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.lcc import Lcc, balanced
from codellama_jax.evaluation.sample import Answer

JAVA = {"context": "class A {\n    int a;", "gt": "    int b;"}


def write(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "lcc/java/test.jsonl", JAVA, JAVA)
    write(tmp_path / "lcc/java/train.jsonl", {"context": "left out", "gt": "x"})
    (tmp_path / "lcc/python").mkdir()
    rows = [{"context": "import os\n", "gt": "os.exit()"}, {"context": "def f():\n", "gt": "    return 1"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "lcc/python/validation-00000-of-00001.parquet")
    longbench = {"input": "", "context": "using A;\n", "answers": ["class B {"], "language": "csharp", "length": 2}
    write(tmp_path / "lcc/lcc.jsonl", longbench)
    return tmp_path


def test_both_published_formats_are_read_without_training_data_and_repetitions(data):
    problems = Lcc(Settings()).problems(data)
    assert [(problem.variant, problem.data) for problem in problems] == [
        ("python", "os.exit()"),
        ("python", "    return 1"),
        ("java", "    int b;"),
        ("csharp", "class B {"),
    ]
    assert problems[2].input.text == "class A {\n    int a;\n"  # the next line begins on a line of its own
    assert len({problem.task_id for problem in problems}) == 4


def test_a_model_without_long_context_reads_the_last_tokens(data):
    for last_tokens, expected in ((None, (4_000, 16_384)), (500, (500, None)), (0, (None, None))):
        problems = Lcc(Settings(last_tokens=last_tokens)).problems(data)
        assert {(problem.input.last_tokens, problem.input.long_context) for problem in problems} == {expected}


def test_the_next_line_is_the_first_that_is_not_empty_and_white_space_at_its_ends_does_not_count(data):
    benchmark = Lcc(Settings())
    problem = benchmark.problems(data)[1]
    for raw, passed in (("return 1\nmore", True), ("\n    return 1 \n", True), ("return  1", False), ("", False)):
        judgement = benchmark.judged(problem, benchmark.completion(problem, raw), None, Answer())
        assert judgement.passed == passed
    right = benchmark.judged(problem, benchmark.completion(problem, benchmark.canonical(problem)), None, Answer())
    near = benchmark.judged(problem, "return 2", None, Answer())
    assert (right.scores["bleu"], near.reason) == (1.0, "the next line is return 1")
    assert 0 < near.scores["bleu"] < 1


def test_a_balanced_sample_has_as_many_files_of_each_size_as_there_are():
    sizes = [10] * 50 + [110] * 20 + [210] * 5 + [310] * 40
    tasks = [("x" * size, f"line {index}") for index, size in enumerate(sizes)]
    chosen = balanced(tasks, 48, 100)
    assert Counter(len(context) for context, _ in chosen) == {10: 14, 110: 14, 210: 5, 310: 15}
    assert chosen == [task for task in tasks if task in chosen]  # in the order of the file
    assert set(balanced(tasks[::-1], 48, 100)) == set(chosen)  # which ones: a function of their content
    assert balanced(tasks, 1_000, 100) == tasks
    assert len(balanced(tasks, 2, 100)) == 2


def test_half_of_a_surrogate_pair_is_replaced(tmp_path):
    write(tmp_path / "lcc/java/test.jsonl", {"context": "x\ud800y😀", "gt": "z\udc00"})
    (problem,) = Lcc(Settings(languages=("java",))).problems(tmp_path)
    assert (problem.input.text, problem.data) == ("x\ufffdy😀\n", "z\ufffd")


def test_the_number_of_tasks_is_a_setting(data, caplog):
    problems = Lcc(Settings(python_tasks=1, languages=("python",))).problems(data)
    assert len(problems) == 1 and not caplog.text
    assert len(Lcc(Settings(languages=("python",))).problems(data)) == 2
    assert "lcc has 2 tasks for python, fewer than Lcc.python_tasks=548" in caplog.text


@pytest.mark.parametrize(
    "row, message",
    [
        ({"context": "x"}, "test.jsonl:1 has neither gt nor answers"),
        ({"context": "x", "answers": []}, "neither gt nor answers"),
        ({"context": 1, "gt": "x"}, "context is int, not text"),
        ({"gt": "x"}, "not an object with context"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, row, message):
    write(tmp_path / "lcc/java/test.jsonl", row)
    with pytest.raises(UserError, match=message):
        Lcc(Settings()).problems(tmp_path)


def test_what_is_missing_is_named(tmp_path, data):
    with pytest.raises(UserError, match=r"lcc is missing: LCC's files are lcc/LANGUAGE"):
        Lcc(Settings()).problems(tmp_path / "elsewhere")
    (data / "lcc/java/test.jsonl").unlink()
    with pytest.raises(UserError, match="no tasks for java"):
        Lcc(Settings()).problems(data)
    (data / "lcc/java/test.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not a Parquet file"):
        Lcc(Settings()).problems(data)
