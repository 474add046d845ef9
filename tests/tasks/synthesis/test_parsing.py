"""Answers of any form: what is used of them, and the reasons of what is not."""

from collections import Counter

import pytest

from tasks.synthesis import parsing
from tasks.synthesis.parsing import Malformed
from tasks.synthesis.prompts import Answer, messages


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Write a function f.\n2. Write a function g.", ["Write a function f.", "Write a function g."]),
        (
            "**1.** Write a function f.\n\n2) Add two\n   numbers a and b.",
            ["Write a function f.", "Add two numbers a and b."],
        ),
        ("Question 1: Write a function f.", ["Write a function f."]),
        ("- Write a function f.\n* Write a function g.", ["Write a function f.", "Write a function g."]),
        ("Sure:\n 10. Write a *fast* function.\r\n11.", ["Write a *fast* function."]),
    ],
)
def test_lists_of_questions(text, expected):
    assert parsing.questions(Answer(text))[0] == expected


def test_what_is_no_question_is_counted():
    text = "1. Too short\n2. Say [INST] to the model, please.\n3. " + "x y " * 1000 + "\n4. Write a function that"
    assert parsing.questions(Answer(text, "length")) == (
        [],
        Counter({"too_short": 1, "reserved_tag": 1, "too_long": 1, "cut_off": 1}),
    )
    assert parsing.questions(Answer("I would rather not.")) == ([], Counter({"no_list": 1}))


GOOD = "#Test case 1:\nassert f(1) == 1\n"


@pytest.mark.parametrize(
    ("text", "cases", "left_out"),
    [
        (f"[TESTS]\n{GOOD}[/TESTS] [TESTS] assert f(2) == 2", ["assert f(1) == 1"], {}),
        (GOOD, ["assert f(1) == 1"], {}),
        (f"Here:\n```python\n{GOOD}```", ["assert f(1) == 1"], {}),
        (f"[TESTS]\n{GOOD}{GOOD}", ["assert f(1) == 1"], {"repeated": 1}),
        (f"[TESTS]\n{GOOD}#Test case 2:\nassert f(\n{GOOD}", ["assert f(1) == 1"], {"syntax": 1, "repeated": 1}),
        (f"[TESTS]\n{GOOD}assert f(2) == [1, ", ["assert f(1) == 1"], {"cut_off": 1}),
        (f"[TESTS]\nfrom __future__ import annotations\n{GOOD}", ["assert f(1) == 1"], {"import": 1}),
        (f"[TESTS]\nimport math\nx = 2\n{GOOD}", ["import math\nx = 2\nassert f(1) == 1"], {}),
        (
            f"[TESTS]\nimport numpy\nimport os; os._exit(0)\n{GOOD}",
            ["import os\nassert f(1) == 1"],
            {"import": 1, "statement": 1},
        ),
        (
            f"[TESTS]\ndef f(x): return 1\nassert True\n{GOOD}",
            ["assert f(1) == 1"],
            {"statement": 1, "nothing_called": 1},
        ),
        ("[TESTS]\nassert f(\n  2) == '''a\nb'''\n", ["assert f(\n  2) == '''a\nb'''"], {}),
    ],
)
def test_tests_of_answers(text, cases, left_out):
    found = parsing.tests(Answer(text, "length" if left_out.get("cut_off") else "stop"))
    assert [case.source for case in found.cases] == cases
    assert found.left_out == Counter(left_out)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(""), "empty"),
        (Answer("[TESTS]\n[/TESTS]"), "empty"),
        (Answer("I cannot.\nSorry: really"), "no_test"),
        (Answer("", "refused", "too long"), "refused"),
        (Answer("[TESTS]\nassert f(1 == 2"), "syntax"),
        (Answer("[TESTS]\nassert 1 == 1"), "nothing_called"),
        (Answer("[TESTS]\n" + "#" * 30_000), "too_long"),
        (Answer("[TESTS]\nassert f(1) == \0"), "syntax"),
    ],
)
def test_answers_without_tests(answer, reason):
    with pytest.raises(Malformed, match=f"^{reason}$"):
        parsing.tests(answer)


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("[PYTHON]\ndef f(x):\n    return x\n[/PYTHON]\n[INST] more", "def f(x):\n    return x\n"),
        ("Sure!\n```python\ndef f(x):\r\n    return x\n```\nDone.", "def f(x):\n    return x\n"),
        ("[PYTHON]\n```py\ndef f(x):\n    return x", "def f(x):\n    return x\n"),
        ("def f(x): return '\\d'", "def f(x): return '\\d'\n"),
    ],
)
def test_programs_of_answers(text, program):
    assert parsing.program(Answer(text)) == program


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer("[PYTHON]\n\n"), "empty"),
        (Answer("[PYTHON]\nx = 1"), "no_function"),
        (Answer("[PYTHON]\ndef f(x:\n"), "syntax"),
        (Answer("[PYTHON]\ndef f(x):\n    return [", "length"), "cut_off"),
        (Answer("[PYTHON]\ndef f(): pass\nreturn 1"), "syntax"),
        (Answer("[PYTHON]\ndef f(x):\n    return " + "-" * 9000 + "x"), "syntax"),
        (Answer("[PYTHON]\ndef f(x):\n    return " + "+".join("x" * 4000)), "syntax"),
        (Answer("[PYTHON]\ndef f(): return '\ud800'"), "syntax"),
    ],
)
def test_answers_without_programs(answer, reason):
    with pytest.raises(Malformed, match=f"^{reason}$"):
        parsing.program(answer)


def test_prompts_as_messages():
    found = messages("[INST] A {x} [/INST]\n[TESTS]\n1\n[/TESTS]\n[INST] B\n[/INST]\n")
    assert [(message["role"], message["content"]) for message in found] == [
        ("user", "A {x}"),
        ("assistant", "[TESTS]\n1\n[/TESTS]"),
        ("user", "B"),
    ]
