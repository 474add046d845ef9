"""MBPP: its prompts, splits, answers and programs."""

import pytest

from codellama_jax.config.evaluation import MBPP as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.mbpp import MBPP
from codellama_jax.evaluation.problem import Chat, Completion


def problems(data, **settings):
    return MBPP(Settings(**settings)).problems(data)


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ({}, 500),
        ({"split": "validation"}, 90),
        ({"split": "train"}, 374),
        ({"split": "all"}, 974),
        ({"sanitized": True}, 257),
        ({"sanitized": True, "split": "all"}, 427),
    ],
)
def test_splits_have_the_published_sizes(shared_data, settings, tasks):
    found = problems(shared_data, **settings)
    assert len(found) == len({problem.task_id for problem in found}) == tasks


def test_the_few_shot_prompt_is_the_published_one(shared_data):
    [problem] = [problem for problem in problems(shared_data) if problem.task_id == "MBPP/11"]
    assert isinstance(problem.input, Completion)
    shots = problem.input.text.split("You are an expert Python programmer, and here is your task: ")[1:]
    assert [shot.partition("[BEGIN]")[0].count("assert ") for shot in shots] == [3, 3, 3, 3]
    assert shots[0].startswith(
        "Write a function to find the similar elements from the given two tuple lists."
        " Your code should pass these tests:\n\n"
        "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)\n"
    )
    assert shots[0].endswith("[BEGIN]\n" + _code(shared_data, 2) + "\n[DONE]\n\n")
    assert shots[3] == (
        "Write a python function to remove first and last occurrence of a given character from the string."
        " Your code should pass these tests:\n\n"
        'assert remove_Occ("hello","l") == "heo"\n'
        'assert remove_Occ("abcda","a") == "bcd"\n'
        'assert remove_Occ("PHP","P") == "H"\n[BEGIN]\n'
    )


def _code(data, task):
    [found] = [p.data["code"] for p in problems(data, split="all") if p.task_id == f"MBPP/{task}"]
    return found


def test_a_task_is_not_among_its_own_shots(shared_data):
    [problem] = [problem for problem in problems(shared_data, split="all") if problem.task_id == "MBPP/3"]
    assert problem.input.text.count("[BEGIN]") == 4 and problem.data["code"] not in problem.input.text
    assert _code(shared_data, 5) in problem.input.text  # the next one


def test_the_sanitized_file_has_seven_of_the_solved_tasks(shared_data):
    found = problems(shared_data, sanitized=True, shots=7)
    assert {problem.input.text.count("[BEGIN]") for problem in found} == {8}
    with pytest.raises(UserError, match=r"sanitized-mbpp.json has 7 of the tasks .*: set MBPP.shots to at most 7"):
        problems(shared_data, sanitized=True, shots=8)


def test_a_stripped_prompt_ends_with_the_tag(shared_data):
    benchmark = MBPP(Settings(form="stripped"))
    problem = benchmark.problems(shared_data)[0]
    verbatim = MBPP(Settings()).problems(shared_data)[0]
    assert isinstance(problem.input, Completion) and isinstance(verbatim.input, Completion)
    assert problem.input.text + "\n" == verbatim.input.text
    assert benchmark.canonical(problem) == "\n" + MBPP(Settings()).canonical(verbatim)


def test_the_instruct_prompt_and_its_answers(shared_data):
    benchmark = MBPP(Settings(prompt="instruct"))
    [problem, *_] = benchmark.problems(shared_data)
    assert isinstance(problem.input, Chat)
    [message] = problem.input.messages
    assert message["role"] == "user" and "\nYour code should pass these tests:\n\nassert " in message["content"]
    assert message["content"].endswith("Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag.")
    assert benchmark.completion(problem, "Sure:\n[PYTHON]\nx = 1\n[/PYTHON]\nBye [PYTHON]") == "\nx = 1\n"
    assert benchmark.completion(problem, "x = 1") == "x = 1"
    assert benchmark.completion(problem, "[PYTHON]x = 1") == "x = 1"


def test_a_tested_function_may_have_the_name_of_a_built_in_one(shared_data, pool):
    benchmark = MBPP(Settings(split="all"))
    [problem] = [problem for problem in benchmark.problems(shared_data) if problem.task_id == "MBPP/126"]
    completion = benchmark.completion(problem, benchmark.canonical(problem))
    assert pool.submit(benchmark.job(problem, completion)).result().passed
    assert not pool.submit(benchmark.job(problem, "")).result().passed


def test_settings_are_checked():
    for wrong in (
        {"prompt": "zero"},
        {"split": "x"},
        {"form": "x"},
        {"shots": 11},
        {"cpu_seconds": 0.0},
        {"stop": ("",)},
    ):
        with pytest.raises(ValueError, match=r"MBPP\.\w+"):
            Settings(**wrong)


def test_a_damaged_sanitized_file_is_named(tmp_path):
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "sanitized-mbpp.json").write_text("[")
    with pytest.raises(UserError, match=r"sanitized-mbpp.json is damaged or of another version: .*sha256_sanitized="):
        problems(tmp_path, sanitized=True)
    digest = "245843abef9e72e7efac30138a994bf6301e7e1d7d7042a33d42e863d2638811"
    with pytest.raises(UserError, match=r"sanitized-mbpp.json is not JSON"):
        problems(tmp_path, sanitized=True, sha256_sanitized=digest)
