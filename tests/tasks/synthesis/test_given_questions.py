"""Questions and tests of a file: no model is asked for them, and solutions continue their prompts."""

import gzip
import json
from pathlib import Path

import pytest

from codellama_jax.config.self_instruct import SelfInstruct
from codellama_jax.errors import UserError
from codellama_jax.exercises import problems as exercises
from tasks import self_instruct
from tasks.synthesis import given, prompts
from tests.tasks.synthesis import scripted_endpoint as scripted

RIGHT, WRONG, BROKEN = "    return n * 2 + {k}\n", "    return n\n\nassert f(1) == 1", "    return (n\n"
# of each question, by the index of the solution
SOLUTIONS = ((WRONG, RIGHT), (RIGHT, RIGHT), (BROKEN, WRONG), (BROKEN, RIGHT))


def row(k: int) -> dict[str, str]:
    return {
        "prompt": f'def f{k}(n):\n    """Twice the number, plus {k}."""\n',
        "entry_point": f"f{k}",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n"
        f"    assert candidate(0) == {k}\n    assert candidate(5) == {10 + k}\n",
        "question": f"Write a function f{k}(n) that returns twice its argument, plus {k}, where {k} is constant.",
    }


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl.gz"
    rows = [*map(row, range(1, 5)), row(1)]  # the last one is a duplicate
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def make(file: Path, out: Path, choice: str, *flags: str) -> tuple[dict, scripted.Script]:
    """The manifest of a run, and the script of its server."""
    script = scripted.Script(
        {
            prompts.seed(SelfInstruct(), "solution", f"0.{place}", index): text.replace("{k}", str(place + 1))
            for place, texts in enumerate(SOLUTIONS)
            for index, text in enumerate(texts)
        }
    )
    with scripted.serving(script) as url:
        settings = [f"--gin.SelfInstruct.choice={choice}", "--gin.SelfInstruct.form=completion"]
        settings += ["--gin.SelfInstruct.solutions=2", "--gin.Build.near=False", *flags]
        assert self_instruct.main([f"--questions={file}", f"--solutions={url}", f"--out={out}", *settings]) == 0
    return json.loads((out / "manifest.json").read_text()), script


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_only_solutions_are_asked_for_and_the_first_passing_ones_are_kept(file, tmp_path):
    manifest, script = make(file, tmp_path, "first_passing")
    assert manifest["funnel"] == {"questions": 5, "unique": 4, "with_tests": 4, "solved": 3, "kept": 3}
    assert manifest["solutions"] == {"failed": 2, "malformed_syntax": 2, "passed": 4}
    assert manifest["without_model"] == ["questions", "tests"] and list(manifest["models"]) == ["solutions"]
    assert script.asked == dict.fromkeys(script.answers, 1)
    assert {body["prompt"] for body in script.bodies} == {row(k)["prompt"] for k in range(1, 5)}
    programs = lines(tmp_path / "programs.jsonl")
    texts = [row(k)["prompt"] + RIGHT.replace("{k}", str(k)) for k in (1, 2, 4)]
    assert [entry["text"] for entry in programs] == texts
    dialogues = lines(tmp_path / "dialogues.jsonl")
    assert [entry["id"] for entry in dialogues] == [entry["id"] for entry in programs] == ["0.0", "0.1", "0.3"]
    assert dialogues[0]["messages"][0]["content"] == row(1)["question"]
    page = (tmp_path / "report.html").read_text()
    assert "questions.jsonl.gz</bdi>, without a model" in page
    before = (tmp_path / "manifest.json").read_bytes()
    _, script = make(file, tmp_path, "first_passing")
    assert not script.asked and (tmp_path / "manifest.json").read_bytes() == before


def test_the_first_solutions_are_kept_whatever_the_tests_say_in_a_number_that_is_wanted(file, tmp_path):
    manifest, _ = make(file, tmp_path, "first", "--gin.SelfInstruct.most_dialogues=3")
    assert manifest["funnel"]["kept"] == 4 and manifest["dialogues"] == 3
    bodies = [entry["text"].partition('"""\n')[2] for entry in lines(tmp_path / "programs.jsonl")]
    assert bodies == ["    return n\n", RIGHT.replace("{k}", "2"), "    return n\n"]
    assert len(lines(tmp_path / "dialogues.jsonl")) == 3


def test_exercises_have_questions_of_their_own_split():
    found, rows = given.read(given.EXERCISES, completed=True, most=5), exercises.problems("questions", 5)
    assert [question.prompt for question in found.questions] == [row["prompt"] for row in rows]
    assert found.tested and {len(question.cases) for question in found.questions} == {exercises.TESTS}
    assert f"{rows[0]['entry_point']}(" in found.questions[0].cases[0].source
    assert found.questions[0].text == exercises.question(rows[0])


def test_statements_of_a_check_that_belong_together_are_one_test():
    test = "import math\nUNUSED = 1\n\n\ndef check(f):\n    for n in (1, 2):\n        assert f(n) == math.pi\n"
    [case] = given.cases(test, "area", "here")
    assert case.source == "import math\nfor n in (1, 2):\n    assert area(n) == math.pi"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "", "question": ""}, "neither a question nor a prompt"),
        ({"prompt": ""}, "has no prompt: SelfInstruct.form=completion needs both"),
        ({"test": ""}, "has no test: SelfInstruct.form=completion needs both"),
        ({"entry_point": None}, "no entry_point"),
        ({"entry_point": 3}, "entry_point is int, not text"),
        ({"test": "assert f1(0) == 1"}, "no function check(candidate)"),
        ({"test": "def check(f:"}, "the test is not Python"),
        ({"question": "[INST] and so on"}, "a tag of the dialogue format"),
    ],
)
def test_records_that_cannot_be_used_are_errors(change, message, tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n" + json.dumps(row(1) | change))
    with pytest.raises(UserError) as caught:
        given.read(str(path), completed=True)
    assert str(caught.value).startswith(f"{path}:2") and message in str(caught.value)


def test_completions_need_prompts(tmp_path, capsys):
    flags = ["--questions=http://x", "--solutions=http://x", f"--out={tmp_path / 'out'}"]
    assert self_instruct.main([*flags, "--gin.SelfInstruct.form=completion"]) == 2
    assert "--questions must be a file of them, or embedded:exercises" in capsys.readouterr().err
    missing = [f"--questions={tmp_path / 'none.jsonl'}", *flags[1:]]
    assert self_instruct.main(missing) == 2
    assert "none.jsonl cannot be read" in capsys.readouterr().err
