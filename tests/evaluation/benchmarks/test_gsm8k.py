"""GSM8K: the prompt, the number of an answer, and files that are wrong."""

import json
from decimal import Decimal

import pytest

from codellama_jax.config.scored_benchmarks import Gsm8k as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.gsm8k import SHOTS, Gsm8k, number_of
from codellama_jax.evaluation.sample import Answer

ROWS = [
    {"question": "A pen costs $2. What do 600 pens cost?", "answer": "600 * 2 = <<600*2=1200>>1200\n#### 1,200"},
    {"question": "Tom had 3 apples and ate 5.5. How many now?", "answer": "3 - 5.5 = -2.5\n#### -2.5"},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_the_prompt_has_eight_worked_examples_and_then_the_question(data):
    text = Gsm8k(Settings()).problems(data)[0].input.text
    assert text.startswith("Q: There are 15 trees in the grove.") and text.count("\nA: ") == 8
    assert text.endswith("\n\nQ: A pen costs $2. What do 600 pens cost?\nA:")
    assert Gsm8k(Settings(shots=0)).problems(data)[0].input.text == "Q: A pen costs $2. What do 600 pens cost?\nA:"


@pytest.mark.parametrize(
    "answer, number",
    [
        ("600 * 2 = 1200. The answer is $1,200.", "1200"),
        ("The answer is 1200.00", "1200"),
        ("It is 600 and 1200", "1200"),
        ("The answer is: -2.5. Then 7", "-2.5"),
        ("nothing", None),
    ],
)
def test_the_number_of_an_answer(answer, number):
    assert number_of(answer) == (None if number is None else Decimal(number))


def test_published_answers_are_right_and_others_are_not(data):
    benchmark = Gsm8k(Settings())
    for problem in benchmark.problems(data):
        right = benchmark.completion(problem, benchmark.canonical(problem))
        assert benchmark.judged(problem, right, None, Answer()).passed
        wrong = benchmark.judged(problem, "The answer is 7.", None, Answer())
        assert not wrong.passed and wrong.reason.endswith("not 7")
    cut = benchmark.completion(problem, " The answer is 3.\n\nQ: Another? The answer is 4.")
    assert number_of(cut) == 3


def test_every_worked_example_states_its_number():
    assert [number_of(answer) for _, answer in SHOTS] == [6, 5, 39, 8, 9, 29, 33, 8]


@pytest.mark.parametrize("row", [{"question": "?", "answer": "7"}, {"question": "?", "answer": "#### seven"}])
def test_an_answer_without_a_number_is_refused(tmp_path, row):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k/test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"test.jsonl:1 has an answer without #### and a number"):
        Gsm8k(Settings()).problems(tmp_path)
