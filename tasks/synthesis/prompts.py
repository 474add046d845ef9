"""The prompts of self-instruct, which arXiv 2308.12950 publishes in its appendix."""

import dataclasses
import hashlib
import re
from typing import Literal

from codellama_jax.config.evaluation import HUMANEVAL_STOP
from codellama_jax.config.self_instruct import SelfInstruct

OPEN_TESTS, CLOSE_TESTS = "[TESTS]", "[/TESTS]"
OPEN_CODE, CLOSE_CODE = "[PYTHON]", "[/PYTHON]"
INST, END_INST = "[INST]", "[/INST]"

QUESTIONS = (
    "[INST] Write 50 programming interview questions of easy and medium complexity. Provide questions on a diverse"
    " range of subjects, and make sure no two questions are alike. Make sure the problems can be solved with a single"
    " standalone Python function using standard libraries. [/INST]"
)

TESTS = """\
[INST] Your task is to write 5 tests to check the correctness of a function that solves a programming problem.
The tests must be between [TESTS] and [/TESTS] tags.
You must write the comment "#Test case n:" on a separate line directly above each assert statement, where n represents\
 the test case number, starting from 1 and increasing by one for each subsequent test case.
Problem: Write a Python function to get the unique elements of a list.
[/INST]
[TESTS]
#Test case 1:
assert get_unique_elements([]) == []
#Test case 2:
assert get_unique_elements([1]) == [1]
#Test case 3:
assert get_unique_elements([1, 2, 3, 2, 1]) == [1, 2, 3]
[/TESTS]
[INST] Problem: {question}
[/INST]
"""

# "infere" is the spelling of the paper.
SOLUTION = """\
[INST] Your task is to write a Python function to solve a programming problem.
The Python code must be between [PYTHON] and [/PYTHON] tags.
You are given one example test from which you can infere the function signature.
Problem: Write a Python function to get the unique elements of a list.
Test: assert get_unique_elements([1, 2, 3, 2, 1]) == [1, 2, 3]
[/INST]
[PYTHON]
def get_unique_elements(my_list):
    return list(set(my_list))
[/PYTHON]
[INST] Problem: {question}
Test: {test}
[/INST]
"""

ALL = {"questions": QUESTIONS, "tests": TESTS, "solution": SOLUTION}

Kind = Literal["questions", "tests", "solution"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One answer that is wanted of a model.

    Attributes:
        kind: what is asked for.
        id: of the question; "" for questions.
        index: of the answer among those to the same prompt.
        text: the prompt.
        seed: of sampling, a function of the other fields and the setting.
    """

    kind: Kind
    id: str
    index: int
    text: str
    seed: int


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        text: the raw output. The closing tag, at which it stops, is not a part of it.
        finish_reason: "stop", "length", "refused", or what an endpoint reports.
        refusal: why there is no answer.
    """

    text: str
    finish_reason: str = "stop"
    refusal: str = ""

    @property
    def cut_off(self) -> bool:
        return self.finish_reason == "length"


# What begins another statement after the function that is completed, as in HumanEval.
COMPLETION_STOP = (*HUMANEVAL_STOP, "\nassert")
STOP: dict[Kind, tuple[str, ...]] = {
    "questions": (INST,),
    "tests": (CLOSE_TESTS, INST),
    "solution": (CLOSE_CODE, INST),
}


def stop(kind: Kind, settings: SelfInstruct) -> tuple[str, ...]:
    """The strings that end an answer."""
    return COMPLETION_STOP if kind == "solution" and settings.form == "completion" else STOP[kind]


def for_questions(index: int, settings: SelfInstruct) -> Prompt:
    """The prompt for 50 questions, for the index-th time."""
    return Prompt("questions", "", index, QUESTIONS, seed(settings, "questions", "", index))


def for_tests(id: str, question: str, settings: SelfInstruct) -> Prompt:
    """The prompt for the tests of a question."""
    return Prompt("tests", id, 0, TESTS.replace("{question}", question), seed(settings, "tests", id, 0))


def for_solution(id: str, question: str, test: str, index: int, settings: SelfInstruct) -> Prompt:
    """The prompt for the index-th solution, which shows one test."""
    before, after = SOLUTION.split("{question}")
    text = before + question + after.replace("{test}", test)
    return Prompt("solution", id, index, text, seed(settings, "solution", id, index))


def for_completion(id: str, beginning: str, index: int, settings: SelfInstruct) -> Prompt:
    """The beginning of a function, which the index-th solution continues."""
    return Prompt("solution", id, index, beginning, seed(settings, "solution", id, index))


def seed(settings: SelfInstruct, *parts: object) -> int:
    """A number below 2^31 that is a function of the seed of the settings and the parts only."""
    digest = hashlib.sha256("\0".join(map(str, (settings.seed, *parts))).encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") % 2**31


def messages(text: str) -> list[dict[str, str]]:
    """A prompt as the messages of a dialogue, for models of other formats."""
    turns = re.findall(r"\[INST\](.*?)\[/INST\](.*?)(?=\[INST\]|\Z)", text, re.DOTALL)
    found = []
    for user, assistant in turns:
        found.append({"role": "user", "content": user.strip()})
        if assistant.strip():
            found.append({"role": "assistant", "content": assistant.strip()})
    return found
