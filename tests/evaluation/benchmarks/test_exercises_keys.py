"""Key retrieval for small models: prompts of a wanted length whose key is in no training document."""

import ast
import re
from pathlib import Path

import pytest

from codellama_jax.config.exercise_benchmarks import ExercisesKeys as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.exercises_keys import ExercisesKeys
from codellama_jax.evaluation.sample import Answer, Sample
from codellama_jax.exercises.keys import split_of

NOWHERE = Path("/nowhere")
SETTINGS = Settings(lengths=(300, 900), positions=(0.0, 0.5, 1.0), problems=4, others=3)


@pytest.fixture(scope="module")
def problems(small_tokenizer):
    return ExercisesKeys(SETTINGS, small_tokenizer).problems(NOWHERE)


def test_prompts_have_the_wanted_length_and_position(problems, small_tokenizer):
    assert len(problems) == 2 * 3 * 4 and len({problem.input.text for problem in problems}) == len(problems)
    for problem in problems:
        text = problem.input.text
        length, position, _ = problem.task_id.split("/")
        assert 0 <= int(length) - 1 - len(small_tokenizer.encode(text)) <= 60
        before, _, after = (len(part) for part in text.partition(problem.data.function))
        after -= len(problem.data.question)
        longest = 450 + 2 * 40  # characters of a function, and of two with a word
        assert abs(float(position) * (before + after) - before) < longest


def test_there_is_one_function_with_a_word_by_default(small_tokenizer):
    for problem in ExercisesKeys(Settings(lengths=(200,), problems=1), small_tokenizer).problems(NOWHERE):
        assert len(re.findall(r'^def \w+\(\):\n    return "\w+"\n', problem.input.text, re.MULTILINE)) == 1


def test_prompts_have_other_functions_with_words_and_the_answer_holds(problems):
    for problem in problems:
        returned = re.findall(r'^def (\w+)\(\):\n    return "(\w+)"\n', problem.input.text, re.MULTILINE)
        assert len(returned) == 4 == len({word for _, word in returned})
        program = problem.input.text + f'{problem.data.word}"\n'
        assert ast.parse(program).body[-1].test.left.func.id == problem.data.name
        exec(program, {})


def test_keys_are_in_no_training_document(problems):
    assert {split_of(problem.data) for problem in problems} == {"test"}


def test_the_word_must_follow(problems):
    benchmark, problem = ExercisesKeys(SETTINGS), problems[0]
    word = problem.data.word
    for raw, right in ((f'{word}"\n', True), (word, True), (f"{word}s", False), (f" {word}", False), ("", False)):
        assert benchmark.judged(problem, benchmark.completion(problem, raw), None, Answer()).passed == right


def test_accuracy_by_length_and_position():
    passed = {"800/0.5/0": True, "800/0.5/1": False, "300/0/0": True}
    samples = [Sample(name, 0, 0, "", "", "", right, "") for name, right in passed.items()]
    assert ExercisesKeys(SETTINGS).summary(samples)["accuracy"] == {"300": {"0": 1.0}, "800": {"0.5": 0.5}}


def test_settings_that_make_no_prompt_are_refused(small_tokenizer):
    with pytest.raises(UserError, match="--tokenizer=FILE"):
        ExercisesKeys(SETTINGS).problems(NOWHERE)
    with pytest.raises(UserError, match=r"ExercisesKeys.lengths has 20, which is too short for 4 functions"):
        ExercisesKeys(Settings(lengths=(20,), others=3), small_tokenizer).problems(NOWHERE)
    for settings, message in (
        ({"others": 16}, "between 0 and 15"),
        ({"lengths": ()}, "ExercisesKeys.lengths"),
        ({"positions": (2.0,)}, "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**settings)
