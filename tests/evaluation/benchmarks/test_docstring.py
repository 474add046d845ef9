"""Docstrings: the holes, what of an answer counts, the score, and files that are wrong."""

import json
from pathlib import Path

import pytest

from codellama_jax.config.scored_benchmarks import Docstring as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.docstring import Docstring, docstring_hole
from codellama_jax.evaluation.problem import Infilling, Problem
from codellama_jax.evaluation.sample import Answer, Sample

CODE = 'def total(values):\n    """Adds the values.\n\n    Returns their sum.\n    """\n    return sum(values)'
DOCSTRING = "Adds the values.\n\n    Returns their sum.\n    "
ROW = {"code": CODE, "docstring": DOCSTRING, "docstring_tokens": ["Adds", "the"]}


def write(data: Path, *rows: object) -> None:
    path = data / "codexglue" / "python" / "test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "code, docstring",
    [
        (CODE, ROW["docstring"]),
        (CODE.replace('"""', "'''"), ROW["docstring"]),
        (CODE, "a docstring that was changed"),
        (CODE.replace('"""', 'r"""', 1), ROW["docstring"]),
        (CODE.replace("return sum(values)", "print sum(values)"), ROW["docstring"]),  # Python 2
    ],
)
def test_the_hole_is_after_three_quotes_and_a_space_and_nothing_closes_it(code, docstring):
    after = "\n    print sum(values)" if "print" in code else "\n    return sum(values)"
    assert docstring_hole(code, docstring) == ('def total(values):\n    """ ', after)


def test_the_same_text_elsewhere_is_not_the_docstring():
    hole = docstring_hole('def f(a="é", b="""Doc."""):\r\n    # "Doc."\r\n    "Doc."\r\n    return a', "Doc.")
    assert hole == ('def f(a="é", b="""Doc."""):\r\n    # "Doc."\r\n    """ ', "\r\n    return a")
    assert docstring_hole('def f(a="""Doc."""):\n    return a', "Doc.") is None


def test_a_docstring_in_single_quotes_gets_three():
    hole = docstring_hole('def f():\n    "Says hello."\n    print("hello")', "Says hello.")
    assert hole == ('def f():\n    """ ', '\n    print("hello")')


def test_a_function_without_docstring_has_no_hole():
    assert docstring_hole("def f():\n    return 1", "gone") is None
    assert docstring_hole("def f():\n    return 1", "") is None


def test_the_first_line_that_is_not_empty_counts_up_to_the_closing_quotes(tmp_path):
    write(tmp_path, ROW)
    benchmark = Docstring(Settings())
    (problem,) = benchmark.problems(tmp_path)
    assert (problem.data, problem.input.order) == ("Adds the", "psm")
    assert benchmark.completion(problem, "\n\n  Adds the values.\n  More.") == "Adds the values."
    assert benchmark.completion(problem, 'Adds the values."""\n    return 1') == "Adds the values."
    assert benchmark.completion(problem, '"""') == ""
    judgement = benchmark.judged(problem, benchmark.completion(problem, benchmark.canonical(problem)), None, Answer())
    assert judgement.passed is None and judgement.scores["bleu"] == pytest.approx(1)


def test_the_published_example_has_its_published_score(shared_data):
    def lines(name: str) -> dict[str, str]:
        text = (shared_data / "codexglue" / f"docstring_{name}.txt").read_text()
        return dict(line.split("\t") for line in text.splitlines())

    benchmark, samples = Docstring(Settings()), []
    predictions = lines("predictions")
    for index, reference in lines("reference").items():
        problem = Problem(index, Infilling("", "", "psm"), reference)
        scores = benchmark.judged(problem, predictions[index], None, Answer()).scores
        samples.append(Sample(index, 0, 0, "", "", "", None, "", scores=scores))
    assert benchmark.summary(samples)["codexglue_bleu"] == 9.554726113590661


def test_functions_without_docstring_are_left_out_with_a_warning(tmp_path, caplog):
    write(tmp_path, ROW, {"code": "def f(): pass", "docstring": "gone", "docstring_tokens": ["gone"]})
    assert len(Docstring(Settings()).problems(tmp_path)) == 1
    assert "1 functions of" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"code": "def f(): pass"}], "test.jsonl:1 is not an object with docstring"),
        ([{**ROW, "code": 3}], "test.jsonl:1: code is int, not text"),
        ([{**ROW, "code": "x = 1"}], "no functions with docstrings"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, rows, message):
    write(tmp_path, *rows)
    with pytest.raises(UserError, match=message):
        Docstring(Settings()).problems(tmp_path)


def test_a_missing_file_and_another_version_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"test.jsonl is missing: --data=DIR"):
        Docstring(Settings()).problems(tmp_path)
    write(tmp_path, ROW)
    with pytest.raises(UserError, match=r"--gin.Docstring.sha256="):
        Docstring(Settings(sha256="00")).problems(tmp_path)
