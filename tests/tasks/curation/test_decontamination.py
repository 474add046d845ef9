"""Evaluation problems are found where they stand, however they are indented; and not where they do not."""

import ast
import glob
import gzip
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
from codellama_jax.errors import UserError
from tasks.curation.decontaminate.index import Hit, Index, Problem, hits, problems

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
    """The function with names of our own for its variables."""
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
    """Deeper, by tabs, and with other line ends."""
    return "\r\n".join("\t\t" + line.replace("    ", "\t") for line in code.split("\n"))


def commented(code: str) -> str:
    return "".join(f" * // {line}\n" for line in code.split("\n"))


@pytest.fixture(scope="module")
def index() -> Index:
    return Index([ROTATE, SUM])


def found(text: str, index: Index) -> set[tuple[str, str]]:
    return {(hit.problem, hit.part) for hit in hits(BEFORE + text + AFTER, index)}


FORMS = [str, reindented, commented, textwrap.dedent, str.upper, json.dumps, lambda text: "print(" + repr(text) + ")"]


@pytest.mark.parametrize("form", FORMS)
def test_a_problem_is_found_in_any_layout(index: Index, form):
    for part, text in ROTATE.texts.items():
        assert (ROTATE.name, part) in found(form(text), index)
    assert found(form(SUM.texts["text"]), index) == {(SUM.name, "text")}


def test_a_hit_says_what_was_found(index: Index):
    whole = {part: 1.0 for part in ROTATE.texts}
    assert {hit.part: hit.overlap for hit in hits(PROMPT + SOLUTION + TESTS, index)} == whole
    (hit,) = hits(BEFORE + SOLUTION + AFTER, index)
    assert hit == Hit(ROTATE.name, "canonical_solution", 1.0, hit.excerpt)
    assert hit.excerpt.startswith("if not values: return values cut = by % len(values)") and len(hit.excerpt) <= 120
    most = SOLUTION[: len(SOLUTION) * 2 // 3]
    (hit,) = hits(most, index)
    assert 0.3 <= hit.overlap < 0.7


def test_what_is_not_there_is_not_found(index: Index):
    assert hits("", index) == hits(" ", index) == hits("x", index) == []
    assert hits(BEFORE + AFTER, index) == []
    assert hits(PROMPT, Index([])) == [] and len(Index([])) == 0


def test_renaming_variables_hides_no_solution(index: Index):
    (hit,) = hits(BEFORE + renamed(SOLUTION) + AFTER, index)
    assert hit.renamed and hit.problem == ROTATE.name and hit.overlap > 0.9
    assert hits(renamed(SOLUTION), Index([ROTATE], Decontamination(structure=0))) == []
    swapped = renamed(SOLUTION).replace("left", "?").replace("right", "left").replace("?", "right")
    assert hits(swapped, index) != []  # names that trade places are names
    other = SOLUTION.replace("values[:cut], values[cut:]", "values[:by], cut[cut:]").replace(
        "append(value)", "append(cut)"
    )
    assert hits(renamed(other).replace("list(right)", "list(left)"), index) == []  # and variables that do are not


def test_stretches_that_problems_share_are_no_evidence():
    """Nor are numbers. Problems with a whole text in common count as one."""
    start = "Write a python function that takes a list of numbers and then it will return "
    ends = ("the largest of them", "how many are odd", "those that are prime", "the sum of squares", "its median value")
    many = [Problem(f"a:{end}", {"text": start + end}, "a") for end in ends]
    assert hits(start + "something", Index(many)) == []
    assert [hit.problem for hit in hits(start + ends[1], Index(many))] == ["a:how many are odd"]
    assert len(hits(start + "something", Index(many[:3]))) == 3
    same = [Problem(p.name, {**p.texts, "test": "assert one two three four five six seven"}, "a") for p in many]
    assert len(hits(start + "something", Index(same))) == 5
    across = [Problem(p.name, p.texts, p.name) for p in many]  # as the description of one problem in many languages
    assert len(hits(start + "something", Index(across))) == 5
    numbers = Problem("n", {"test": "x = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]"})
    assert len(Index([numbers])) == 0


def test_a_short_text_is_found_whole():
    short = Problem("s", {"code": "def first_of_pair(pair):\n    return pair[0]"})
    too_short = Problem("t", {"code": "return number % 1.0"})
    index = Index([short, too_short])
    assert [hit.problem for hit in hits("x = 1\ndef first_of_pair(pair): return pair[0]\ny = 2", index)] == ["s"]
    assert hits("def first_of_pair(pair): return pair[1]", index) == []
    assert hits("return number % 1.0", index) == []


def test_a_text_that_two_problems_share_is_reported_once(index: Index):
    twice = Index([ROTATE, Problem("other:rotate", ROTATE.texts, "other"), SUM])
    assert len(twice) == len(index)
    assert hits(PROMPT, twice) == hits(PROMPT, index)


def test_an_index_is_the_same_after_pickling_and_small(index: Index):
    hits(PROMPT, index)  # makes what is not pickled
    data = pickle.dumps(index)
    assert len(data) < 60 * len(index) + 5_000
    assert hits(PROMPT + renamed(SOLUTION), pickle.loads(data)) == hits(PROMPT + renamed(SOLUTION), index)


@pytest.mark.parametrize("settings", [{"share": 0}, {"structure_share": 1.1}, {"distinct": 7}, {"shortest": 11}])
def test_settings_that_mean_nothing_are_refused(settings: dict):
    with pytest.raises(ValueError, match="Decontamination"):
        Decontamination(**settings)


# --- files of problems ------------------------------------------------------------------------------------------------


def written(path: Path, records: list[dict]) -> Path:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_the_fields_of_known_benchmarks_are_read(tmp_path: Path):
    def only(record: dict) -> dict[str, str]:
        (problem,) = problems([written(tmp_path / "a.jsonl", [record])])
        return dict(problem.texts)

    code = {"prompt": "p", "canonical_solution": "c", "test": "t"}
    assert only({"task_id": "HumanEval/0", "entry_point": "f", **code}) == code
    mbpp = {
        "task_id": 7,
        "text": "w",
        "code": "d",
        "test_list": ["a", "b"],
        "challenge_test_list": [],
        "test_setup_code": "",
    }
    assert only(mbpp) == {"text": "w", "code": "d", "test_list": "a\nb"}
    assert only({"question": "q", "solutions": json.dumps(["x", "y"]), "input_output": "{}", "url": "u"}) == {
        "question": "q", "solutions[0]": "x", "solutions[1]": "y"
    }  # fmt: skip
    assert only({"description": "q", "solutions": {"language": [1], "solution": ["z"]}}) == {
        "description": "q", "solutions[0]": "z"
    }  # fmt: skip
    assert only({"name": "n", "language": "java", "prompt": "p", "tests": "t", "stop_tokens": ["\n"]}) == {
        "prompt": "p", "tests": "t"
    }  # fmt: skip
    long = "some text of a benchmark that nobody here has heard of"
    assert only({"id": 3, "what": long, "licence": "MIT", "size": 12}) == {"what": long}


def test_files_of_problems_come_in_several_forms(tmp_path: Path):
    records = [{"task_id": "X/1", "prompt": PROMPT}, {"id": 2, "prompt": SOLUTION}, {"prompt": TESTS}, {"url": "-"}]
    written(tmp_path / "Own.jsonl", records)
    written(tmp_path / "Zipped.jsonl.gz", records)
    (tmp_path / "List.json").write_text(json.dumps(records))
    (tmp_path / "notes.txt").write_text("not this")
    assert [problem.name for problem in problems([tmp_path / "Zipped.jsonl.gz"])] == [
        "Zipped:X/1",
        "Zipped:2",
        "Zipped:#3",
    ]
    everything = problems([tmp_path])
    assert len(everything) == 9 and everything == problems([str(tmp_path / "*.json*")])
    assert len(Index(everything)) == len(Index(everything[:3]))


def test_what_is_no_file_of_problems_is_an_error(tmp_path: Path):
    for name, data in [
        ("a.jsonl", b"{"),
        ("b.json.gz", b"\x1f\x8b no"),
        ("c.jsonl", b"\xff"),
        ("d.json", b'[{"url": "-"}]'),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=name):
            problems([tmp_path / name])
    with pytest.raises(UserError, match="no file of evaluation problems"):
        problems([tmp_path / "none.jsonl"])


# --- real ones --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data: Path) -> list[Problem]:
    return problems([shared_data / "humaneval/HumanEval.jsonl.gz", shared_data / "mbpp/mbpp.jsonl"])


@pytest.fixture(scope="module")
def real_index(real: list[Problem]) -> Index:
    return Index(real)


def planted(problem: Problem) -> str:
    texts = problem.texts
    return (
        texts["prompt"] + texts["canonical_solution"] if "prompt" in texts else f"# {texts['text']}\n{texts['code']}\n"
    )


def test_every_problem_of_humaneval_and_mbpp_is_found(real: list[Problem], real_index: Index):
    assert len(real) == 164 + 974
    for problem in real:
        for form in (str, reindented):
            assert found(form(planted(problem)), real_index), problem.name
    alone = [problem.texts.get("canonical_solution") or problem.texts["code"] for problem in real]
    assert sum(not found(text, real_index) for text in alone) <= 8  # of less than five words, such as "len(string)"


def test_the_standard_library_has_no_evaluation_problem(real_index: Index):
    rng = np.random.default_rng(0)
    files = sorted(glob.glob(os.path.join(sysconfig.get_paths()["stdlib"], "*.py")))
    texts = [Path(file).read_text(encoding="utf-8") for file in rng.choice(files, 80, replace=False)]
    every = [hit for text in texts for hit in hits(text, real_index)]
    assert [hit for hit in every if not hit.renamed] == []
    assert len(every) <= 1


def test_a_solution_in_another_file_is_still_python(real: list[Problem]):
    """What the plants are made of."""
    for problem in real[:164]:
        ast.parse(planted(problem))
