"""Evaluation problems are found in any layout and with renamed variables, but not in other code."""

import ast
import glob
import json
import os
import pickle
import re
import sysconfig
import textwrap
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.config.curation import Decontamination
from tasks.curation.decontaminate.index import Hit, Index
from tasks.curation.decontaminate.problems import Problem, read_problems

PROMPT = '''from typing import List


def rotate_left(values: List[int], by: int) -> List[int]:
    """ Rotate a list of whole numbers to the left by some places, the first ones going to its end.
    >>> rotate_left([1, 2, 3, 4], 1)
    [2, 3, 4, 1]
    """
'''
SOLUTION = """    if not values:
        return values
    cut = by % len(values)
    head, tail = values[:cut], values[cut:]
    result = list(tail)
    for value in head:
        result.append(value)
    return result
"""
TESTS = "def check(candidate):\n    assert candidate([5, 6, 7], 4) == [6, 7, 5]\n    assert candidate([], 9) == []\n"
ROTATE = Problem("own:rotate", {"prompt": PROMPT, "canonical_solution": SOLUTION, "test": TESTS}, "own")
SUM = Problem(
    "own:sum", {"text": "Write a function to add up squares of odd elements of a given tuple.", "code": "x"}, "own"
)
BEFORE = "import os\n\n\ndef walk(path):\n    for x in os.listdir(path):\n        print(x)\n\n\n"
AFTER = "\n\n\nif __name__ == '__main__':\n    walk('.')\n"


def renamed(code: str) -> str:
    """The function with other names for its variables."""
    names = {
        "values": "data",
        "by": "shift",
        "cut": "k",
        "head": "left",
        "tail": "right",
        "value": "v",
        "result": "out",
    }
    return re.sub(r"\b[a-z_]+\b", lambda match: names.get(match[0], match[0]), code)


def reindented(code: str) -> str:
    """Indented further, with tabs, and with other line ends."""
    return "\r\n".join("\t\t" + line.replace("    ", "\t") for line in code.split("\n"))


def commented(code: str) -> str:
    return "".join(f" * // {line}\n" for line in code.split("\n"))


@pytest.fixture(scope="module")
def index() -> Index:
    return Index([ROTATE, SUM])


def problems_in(text: str, index: Index) -> set[tuple[str, str]]:
    return {(hit.problem, hit.part) for hit in index.hits(BEFORE + text + AFTER)}


FORMS = [str, reindented, commented, textwrap.dedent, str.upper, json.dumps, lambda text: "print(" + repr(text) + ")"]


@pytest.mark.parametrize("form", FORMS)
def test_a_problem_is_found_in_any_layout(index: Index, form):
    for part, text in ROTATE.texts.items():
        assert (ROTATE.name, part) in problems_in(form(text), index)
    assert problems_in(form(SUM.texts["text"]), index) == {(SUM.name, "text")}


STATEMENTS = {
    "Chinese": "给定一个整数数组和一个目标值，请在数组中找出和为目标值的两个整数，并返回它们的下标，顺序不限。",
    "Japanese": "整数の配列と目標値が与えられたとき、和が目標値になる二つの要素の添字を返す関数を書いてください。",
    "Thai": "จงเขียนฟังก์ชันที่รับรายการจำนวนเต็มและค่าเป้าหมายแล้วคืนตำแหน่งของสองจำนวนที่มีผลรวมเท่ากับค่าเป้าหมาย",
    "Korean": "정수 배열과 목표 값이 주어질 때 합이 목표 값이 되는 두 원소의 위치를 돌려주는 함수를 작성하고 설명하라",
    "Russian": "Дан массив целых чисел и ещё одно число: найдите два элемента массива, сумма которых равна этому числу,"
    " и верните их номера в порядке возрастания, а если таких элементов нет, верните пустой список",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_in_any_script_is_found_in_any_layout_and_in_part(name: str):
    statement = STATEMENTS[name]
    others = [Problem(f"own:{other}", {"text": text}, other) for other, text in STATEMENTS.items() if other != name]
    index = Index([Problem("own:two_sum", {"text": statement}, "own"), *others])
    for form in (*FORMS, lambda text: text.replace("，", ",\n# "), lambda text: text[: len(text) * 2 // 3] + "。"):
        assert problems_in(form(statement), index) == {("own:two_sum", "text")}
    for other in (statement[::-1], " ".join(sorted(statement.split())), statement[: len(statement) // 5]):
        assert other == statement or problems_in(other, index) == set()


def test_a_hit_has_the_part_the_overlap_and_an_excerpt(index: Index):
    complete = {part: 1.0 for part in ROTATE.texts}
    assert {hit.part: hit.overlap for hit in index.hits(PROMPT + SOLUTION + TESTS)} == complete
    (hit,) = index.hits(BEFORE + SOLUTION + AFTER)
    assert hit == Hit(ROTATE.name, "canonical_solution", 1.0, hit.excerpt)
    assert hit.excerpt.startswith("if not values: return values cut = by % len(values)") and len(hit.excerpt) <= 120
    most = SOLUTION[: len(SOLUTION) * 2 // 3]
    (hit,) = index.hits(most)
    assert 0.3 <= hit.overlap < 0.7


def test_other_text_has_no_hit(index: Index):
    assert index.hits("") == index.hits(" ") == index.hits("x") == []
    assert index.hits(BEFORE + AFTER) == []
    assert Index([]).hits(PROMPT) == [] and len(Index([])) == 0


def test_a_solution_with_renamed_variables_is_found(index: Index):
    (hit,) = index.hits(BEFORE + renamed(SOLUTION) + AFTER)
    assert hit.renamed and hit.problem == ROTATE.name and hit.overlap > 0.9
    assert Index([ROTATE], Decontamination(structure=0)).hits(renamed(SOLUTION)) == []
    swapped = renamed(SOLUTION).replace("left", "?").replace("right", "left").replace("?", "right")
    assert index.hits(swapped) != []  # exchanging two names is a renaming
    other = SOLUTION.replace("values[:cut], values[cut:]", "values[:by], cut[cut:]").replace(
        "append(value)", "append(cut)"
    )
    assert (
        index.hits(renamed(other).replace("list(right)", "list(left)")) == []
    )  # using other variables is not a renaming


def test_numbers_and_ngrams_that_many_problems_share_are_not_indexed():
    """Problems that share a complete text count as one."""
    start = "Write a python function that takes a list of numbers and then it will return "
    ends = ("the largest of them", "how many are odd", "those that are prime", "the sum of squares", "its median value")
    many = [Problem(f"a:{end}", {"text": start + end}, "a") for end in ends]
    assert Index(many).hits(start + "something") == []
    assert [hit.problem for hit in Index(many).hits(start + ends[1])] == ["a:how many are odd"]
    assert len(Index(many[:3]).hits(start + "something")) == 3
    same = [Problem(p.name, {**p.texts, "test": "assert one two three four five six seven"}, "a") for p in many]
    assert len(Index(same).hits(start + "something")) == 5
    across = [
        Problem(p.name, p.texts, p.name) for p in many
    ]  # such as the description of one problem in many languages
    assert len(Index(across).hits(start + "something")) == 5
    numbers = Problem("n", {"test": "x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]"})
    assert len(Index([numbers])) == 0


def test_a_short_text_is_one_ngram():
    short = Problem("s", {"code": "def first_of_pair(pair):\n    return pair[0]"})
    too_short = Problem("t", {"code": "return number % 1.0"})
    index = Index([short, too_short])
    assert [hit.problem for hit in index.hits("x = 1\ndef first_of_pair(pair): return pair[0]\ny = 2")] == ["s"]
    assert index.hits("def first_of_pair(pair): return pair[1]") == []
    assert index.hits("return number % 1.0") == []


def test_a_phrase_of_a_few_characters_identifies_no_problem():
    """Two characters count as a word, so that a phrase of Chinese needs about as many words as one of English."""
    assert len(Index([Problem("z", {"text": "求最大值的函数"})])) == 0
    assert [
        hit.problem
        for hit in Index([Problem("z", {"text": "求整数列表最大值的函数"})]).hits("# 求整数列表最大值的函数")
    ] == ["z"]


def test_a_text_that_two_problems_share_is_reported_once(index: Index):
    twice = Index([ROTATE, Problem("other:rotate", ROTATE.texts, "other"), SUM])
    assert len(twice) == len(index)
    assert twice.hits(PROMPT) == index.hits(PROMPT)


def test_a_pickled_index_is_small_and_gives_the_same_hits(index: Index):
    index.hits(PROMPT)  # creates the tables that are not pickled
    data = pickle.dumps(index)
    assert len(data) < 60 * len(index) + 5_000
    assert pickle.loads(data).hits(PROMPT + renamed(SOLUTION)) == index.hits(PROMPT + renamed(SOLUTION))


@pytest.mark.parametrize("settings", [{"share": 0}, {"structure_share": 1.1}, {"distinct": 7}, {"shortest": 11}])
def test_invalid_settings_are_rejected(settings: dict):
    with pytest.raises(ValueError, match="Decontamination"):
        Decontamination(**settings)


# --- real benchmarks --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[Problem]:
    return read_problems([shared_data / "humaneval/HumanEval.jsonl.gz", shared_data / "mbpp/mbpp.jsonl"])


@pytest.fixture(scope="module")
def real_index(real: list[Problem]) -> Index:
    return Index(real)


def as_document(problem: Problem) -> str:
    texts = problem.texts
    return (
        texts["prompt"] + texts["canonical_solution"] if "prompt" in texts else f"# {texts['text']}\n{texts['code']}\n"
    )


def test_every_problem_of_humaneval_and_mbpp_is_found(real: list[Problem], real_index: Index):
    assert len(real) == 164 + 974
    for problem in real:
        for form in (str, reindented):
            assert problems_in(form(as_document(problem)), real_index), problem.name
    alone = [problem.texts.get("canonical_solution") or problem.texts["code"] for problem in real]
    assert (
        sum(not problems_in(text, real_index) for text in alone) <= 8
    )  # with less than five words, such as "len(string)"


def test_the_standard_library_has_no_evaluation_problem(real_index: Index):
    rng = np.random.default_rng(0)
    files = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))
    texts = [Path(file).read_text(encoding="utf-8") for file in rng.choice(files, 80, replace=False)]
    hits = [hit for text in texts for hit in real_index.hits(text)]
    assert [hit for hit in hits if not hit.renamed] == []
    assert len(hits) <= 1


def test_the_documents_of_these_tests_are_valid_python(real: list[Problem]):
    for problem in real[:164]:
        ast.parse(as_document(problem))
