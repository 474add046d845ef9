"""Properties of a right harness: each is an assertion that holds of the harness, and fails of one with a fault."""

import dataclasses
import json
import math
import threading
from fractions import Fraction
from pathlib import Path

from codellama_jax.config.evaluation import MBPP as MBPPSettings
from codellama_jax.config.evaluation import HumanEval as HumanEvalSettings
from codellama_jax.config.evaluation import HumanEvalInfilling as InfillingSettings
from codellama_jax.evaluation import pass_at_k
from codellama_jax.evaluation.benchmarks import humaneval, infilling, mbpp
from codellama_jax.evaluation.client import Client
from codellama_jax.evaluation.evaluation import Evaluation
from codellama_jax.evaluation.problem import Completion
from codellama_jax.evaluation.runner import requests_of
from codellama_jax.evaluation.sample import Answer, Sample

WRONG = "    return None\n"
CHEATS = (
    "    import sys; sys.exit(0)\n",
    "    import os; os._exit(0)\n",
    "    class Equal:\n        def __eq__(self, other): return True\n    return Equal()\n",
)


class Fixed(Client):
    """Answers everything with one text, or with what a function makes of the problem."""

    name, identity = "fixed", {"model": "fixed"}

    def __init__(self, answer):
        self._answer = answer if callable(answer) else lambda problem: answer
        self.asked = 0

    def answers(self, requests, stop: threading.Event):
        for request in requests:
            self.asked += 1
            yield request, Answer(self._answer(request.problem))


class Checks:
    """The checks. Each method whose name does not start with "_" is one.

    Args:
        data: the folder of data files.
        pool: the sandbox.
        out: an empty folder.
        local_client: a model.
    """

    def __init__(self, data: Path, pool, out: Path, local_client):
        self._data, self._pool, self._out, self._model = data, pool, out, local_client

    def _run(self, benchmark, problems, answer, name="out", limit=1):
        evaluation = Evaluation(self._out / name, self._pool)
        try:
            client = answer if isinstance(answer, Client) else Fixed(answer)
            assert evaluation.run(benchmark, problems, client, limit)
            results = evaluation.results()[benchmark.name]
        finally:
            evaluation.close()
        path = self._out / name / "samples" / f"{benchmark.name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()], results

    # --- prompts

    def humaneval_prompts_are_those_of_the_file(self):
        for problem in humaneval.HumanEval(HumanEvalSettings()).problems(self._data):
            assert problem.input == Completion(problem.data["prompt"]) and problem.input.text.endswith("\n")

    def mbpp_prompts_keep_the_line_ends_of_the_file(self):
        [problem, *_] = mbpp.MBPP(MBPPSettings()).problems(self._data)
        shots = problem.input.text.split("[BEGIN]\n")
        assert "\r\n" in shots[1] and shots[1].count("\r\n") == shots[1].partition("[DONE]")[0].count("\n") - 1

    def infilling_orders_are_those_of_the_variants(self):
        benchmark = infilling.RandomSpanLight(InfillingSettings())
        tokenizer = self._model.tokenizer
        for request in requests_of(benchmark, benchmark.problems(self._data)[::40]):
            row, variant = request.problem.data, request.problem.variant
            ids = tokenizer.infilling_prompt(row["prompt"], row["suffix"], variant).tolist()
            assert self._model._prompt(request)[0].ids == ids

    def samples_of_a_task_have_different_seeds_which_stay_the_same(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings(samples=200))
        requests = list(requests_of(benchmark, benchmark.problems(self._data)[:2]))
        assert len({request.sampling.seed for request in requests}) == 400
        assert requests[3].sampling.seed == 1915649496

    # --- completions

    def completions_end_before_the_first_stop_word_of_the_answer(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        [problem, *_] = benchmark.problems(self._data)
        assert (
            benchmark.completion(problem, "    x = 1\n    return x\n\nprint(1)\ndef g():")
            == "    x = 1\n    return x\n"
        )
        assert benchmark.completion(problem, "    return 1") == "    return 1"

    def stop_words_in_the_prompt_end_nothing(self):
        """The prompt of HumanEval/10 has two functions and a stop word between them."""
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        problem = benchmark.problems(self._data)[10]
        assert "\ndef" in problem.input.text.strip()
        solution = benchmark.canonical(problem)
        completion = benchmark.completion(problem, solution)
        assert completion == solution
        assert benchmark.job(problem, completion).program == problem.input.text + solution + "\n"

    # --- verdicts

    def right_answers_pass_and_wrong_ones_fail(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        problems = benchmark.problems(self._data)[8:12]
        rows, results = self._run(benchmark, problems, benchmark.canonical, "right", limit=0)
        assert [row["passed"] for row in rows] == [True] * 4 and results["pass@1"] == 1
        rows, results = self._run(benchmark, problems, WRONG, "wrong", limit=0)
        assert [row["passed"] for row in rows] == [False] * 4 and results["pass@1"] == 0
        assert all(row["reason"] for row in rows)

    def the_tested_function_is_the_one_that_was_asked_for(self):
        """HumanEval/10 asks for make_palindrome, and its prompt defines is_palindrome before it."""
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        problem = benchmark.problems(self._data)[10]
        rows, _ = self._run(benchmark, [problem], benchmark.canonical)
        assert rows[0]["passed"], rows

    def a_program_that_exits_or_is_equal_to_everything_fails(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        [problem, *_] = benchmark.problems(self._data)
        for number, cheat in enumerate(CHEATS):
            rows, _ = self._run(benchmark, [problem], cheat, f"cheat{number}")
            assert not rows[0]["passed"], cheat

    def set_up_of_mbpp_comes_after_the_code(self):
        benchmark = mbpp.MBPP(MBPPSettings(split="all"))
        problems = [problem for problem in benchmark.problems(self._data) if problem.data["setup"]]
        assert [problem.task_id for problem in problems] == ["MBPP/367", "MBPP/927"]
        rows, _ = self._run(benchmark, problems, benchmark.canonical, limit=0)
        assert [row["passed"] for row in rows] == [True, True], rows

    # --- results

    def pass_at_k_is_unbiased(self):
        for n, c, k in ((10, 3, 1), (10, 3, 5), (200, 7, 100), (5, 4, 2)):
            exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
            assert math.isclose(pass_at_k.pass_at_k(n, c, k), exact, rel_tol=1e-12)

    def results_are_means_over_tasks(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings())
        sample = Sample("a", 0, 0, "", "", "", True, "")
        more = [dataclasses.replace(sample, task_id="b", sample=n, passed=n > 7) for n in range(10)]
        summary = benchmark.summary([sample, *more])
        assert math.isclose(summary["pass@1"], (1 + 0.2) / 2)
        assert (summary["tasks"], summary["samples"]) == (2, 11)
        assert "pass@10" not in summary  # a task has one sample

    def samples_are_done_and_counted_once(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings(samples=3, temperature=1.0))
        [problem, *_] = benchmark.problems(self._data)
        clients = [Fixed(WRONG), Fixed(WRONG)]
        for client in clients:
            rows, results = self._run(benchmark, [problem], client)
        assert len(rows) == 3 == results["samples"] and [client.asked for client in clients] == [3, 0]

    def a_last_line_without_line_feed_is_counted(self):
        benchmark = humaneval.HumanEval(HumanEvalSettings(samples=2, temperature=1.0))
        [problem, *_] = benchmark.problems(self._data)
        self._run(benchmark, [problem], WRONG)
        path = self._out / "out" / "samples" / "humaneval.jsonl"
        path.write_bytes(path.read_bytes()[:-1])
        client = Fixed(WRONG)
        assert len(self._run(benchmark, [problem], client)[0]) == 2 and client.asked == 0
