"""The harness itself: its checks hold, and faults that harnesses have had are caught by them."""

import dataclasses
import inspect
import re

import pytest
from harness_checks import Checks

from codellama_jax.config.evaluation import HUMANEVAL_STOP
from codellama_jax.evaluation import benchmark as benchmarks
from codellama_jax.evaluation import sample_file
from codellama_jax.evaluation.benchmark import Benchmark, cut_at_stop
from codellama_jax.evaluation.benchmarks import humaneval, infilling, mbpp
from codellama_jax.evaluation.problem import Infilling
from codellama_jax.evaluation.sample import Judgement
from codellama_jax.sandbox.jobs import PythonScript

CHECKS = [name for name, _ in inspect.getmembers(Checks, inspect.isfunction) if not name.startswith("_")]


@pytest.fixture
def checks(shared_data, pool, tmp_path, local_client):
    return Checks(shared_data, pool, tmp_path, local_client)


@pytest.mark.parametrize("name", CHECKS)
def test_the_harness_is_right(checks, name):
    getattr(checks, name)()


def stripped_prompt(patch):
    patch.setattr(humaneval, "_prompt", lambda row, form: row["prompt"].strip())


def trailing_newline_dropped(patch):
    patch.setattr(humaneval, "_prompt", lambda row, form: row["prompt"].removesuffix("\n"))


def stop_word_kept(patch):
    def cut(text, stop):
        ends = [text.find(word) + len(word) for word in stop if word in text]
        return text[: min(ends, default=len(text))]

    patch.setattr(benchmarks, "cut_at_stop", cut)


def last_stop_word_cuts(patch):
    def cut(text, stop):
        return text[: max((text.rfind(word) for word in stop if word in text), default=len(text))]

    patch.setattr(benchmarks, "cut_at_stop", cut)


def stop_word_cut_inside_the_prompt(patch):
    def completion(self, problem, raw):
        prompt = problem.input.text
        return cut_at_stop(prompt.lstrip() + raw, self.sampling(problem).stop)[len(prompt.lstrip()) :]

    patch.setattr(Benchmark, "completion", completion)


def set_up_first(patch):
    right = mbpp.MBPP.job

    def job(self, problem, completion):
        program = f"{problem.data['setup']}\n{completion}\n"
        return dataclasses.replace(right(self, problem, completion), program=program)

    patch.setattr(mbpp.MBPP, "job", job)


def crlf_lost(patch):
    right = mbpp._rows
    patch.setattr(mbpp, "_rows", lambda *a: [row | {"code": row["code"].replace("\r\n", "\n")} for row in right(*a)])


def wrong_candidate(patch):
    right = humaneval.python_test

    def test(program, row, cpu_seconds):
        first = re.search(r"def (\w+)", row["prompt"])[1]
        return right(program, row | {"entry_point": first}, cpu_seconds)

    patch.setattr(humaneval, "python_test", test)


def biased_pass_at_k(patch):
    def biased(samples, passed, k):
        return 1 - (1 - passed / samples) ** k

    patch.setattr("codellama_jax.evaluation.pass_at_k.pass_at_k", biased)


def mean_over_samples(patch):
    def summary(self, samples):
        return {"pass@1": sum(s.passed for s in samples) / len(samples), "tasks": 2, "samples": len(samples)}

    patch.setattr(Benchmark, "variant_summary", summary)


def done_again_on_resume(patch):
    right = sample_file.read

    def nothing(path, foreign=None):
        return dataclasses.replace(right(path), samples={}, torn=b"")

    patch.setattr(sample_file, "read", nothing)


def last_line_dropped(patch):
    right = sample_file.read

    def read(path, foreign=lambda sample: ""):
        content = right(path, foreign)
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            content.samples.popitem()
        return content

    patch.setattr(sample_file, "read", read)


def orders_swapped(patch):
    right = infilling.HumanEvalInfilling.problems

    def problems(self, data):
        other = {"psm": "spm", "spm": "psm"}
        return [
            dataclasses.replace(p, input=Infilling(p.input.prefix, p.input.suffix, other[p.input.order]))
            for p in right(self, data)
        ]

    patch.setattr(infilling.HumanEvalInfilling, "problems", problems)


def verdict_from_the_exit_code(patch):
    def script(program, row, cpu_seconds):
        return PythonScript(f"{program}\n{row['test']}\ncheck({row['entry_point']})")

    patch.setattr(humaneval, "python_test", script)
    patch.setattr(Benchmark, "judged", lambda *a: Judgement(a[3].exit_code == 0, reason=a[3].message))


def one_seed(patch):
    patch.setattr(Benchmark, "seed", lambda self, task_id, sample: 0)


def everything_passes(patch):
    patch.setattr(Benchmark, "judged", lambda *_: Judgement(True))


FAULTS = {
    stripped_prompt: "humaneval_prompts_are_those_of_the_file",
    trailing_newline_dropped: "humaneval_prompts_are_those_of_the_file",
    stop_word_kept: "completions_end_before_the_first_stop_word_of_the_answer",
    last_stop_word_cuts: "completions_end_before_the_first_stop_word_of_the_answer",
    stop_word_cut_inside_the_prompt: "stop_words_in_the_prompt_end_nothing",
    set_up_first: "set_up_of_mbpp_comes_after_the_code",
    crlf_lost: "mbpp_prompts_keep_the_line_ends_of_the_file",
    wrong_candidate: "the_tested_function_is_the_one_that_was_asked_for",
    biased_pass_at_k: "pass_at_k_is_unbiased",
    mean_over_samples: "results_are_means_over_tasks",
    done_again_on_resume: "samples_are_done_and_counted_once",
    last_line_dropped: "a_last_line_without_line_feed_is_counted",
    orders_swapped: "infilling_orders_are_those_of_the_variants",
    verdict_from_the_exit_code: "a_program_that_exits_or_is_equal_to_everything_fails",
    one_seed: "samples_of_a_task_have_different_seeds_which_stay_the_same",
    everything_passes: "right_answers_pass_and_wrong_ones_fail",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_caught(checks, monkeypatch, fault):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        getattr(checks, FAULTS[fault])()


def test_truncation_is_the_published_one(random_texts):
    """The text before the first match of any stop word, as the harnesses of HumanEval and BigCode cut it."""
    pattern = re.compile("|".join(map(re.escape, HUMANEVAL_STOP)))
    for text in random_texts:
        assert cut_at_stop(text, HUMANEVAL_STOP) == pattern.split(text, maxsplit=1)[0]


@pytest.fixture
def random_texts():
    import random

    random.seed(0)
    pieces = ["\n", "def", "class", "#", "@", "print", "if", "```", " ", "x", "\r\n", "\n\n", "\ndef", "\nclas"]
    return ["".join(random.choices(pieces, k=random.randint(0, 12))) for _ in range(3000)]
