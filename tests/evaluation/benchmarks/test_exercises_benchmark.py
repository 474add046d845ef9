"""The benchmarks of exercises: they need no data, right solutions pass and others fail, and results are by family."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from codellama_jax import evaluate
from codellama_jax.config.exercise_benchmarks import EXERCISES
from codellama_jax.config.exercise_benchmarks import Exercises as Settings
from codellama_jax.config.exercise_benchmarks import ExercisesInfilling as InfillingSettings
from codellama_jax.config.run import Config
from codellama_jax.config.training import Evaluation
from codellama_jax.evaluation import gold
from codellama_jax.evaluation.benchmarks.exercises import Exercises
from codellama_jax.evaluation.sample import Sample

NOWHERE = Path("/nowhere")


def test_canonical_solutions_pass_without_data(tmp_path, capsys):
    names = "--benchmarks=exercises,exercises_infilling"
    few = ["--limit=3", "--gin.Exercises.problems=5", "--gin.ExercisesInfilling.problems=5", "--workers=2"]
    assert evaluate.main(["--canonical", names, f"--out={tmp_path}", *few]) == 0
    assert "exercises: pass@1 100.0%" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["exercises"]["pass@1_of_groups"] == dict.fromkeys(("characters", "lists", "steps"), 1.0)
    assert list(results["exercises_infilling"]["variants"]) == ["psm", "spm"]
    report = (tmp_path / "report.html").read_text()
    assert "exercises: pass@1" in report and "3 of its 5 tasks" in report


def test_benchmarks_with_data_still_require_it(tmp_path, capsys):
    assert evaluate.main(["--canonical", "--benchmarks=exercises,mbpp", f"--out={tmp_path}"]) == 2
    assert "--data must be given" in capsys.readouterr().err


def test_wrong_solutions_fail(pool):
    """Bodies of other problems of the same family, a body without a result, and one that exits."""
    benchmark = Exercises(Settings(problems=24))
    problems = benchmark.problems(NOWHERE)
    pairs = [
        (one, other.data["canonical_solution"])
        for one, other in itertools.pairwise(problems)
        if one.data["prompt"].split("(")[1] != other.data["prompt"].split("(")[1]
    ]
    pairs += [(problem, "    pass\n") for problem in problems[:3]]
    pairs += [(problem, "    import sys; sys.exit(0)\n") for problem in problems[:3]]
    outcomes = [pool.submit(benchmark.job(problem, body)) for problem, body in pairs]
    assert len(outcomes) > 15 and not any(future.result().passed for future in outcomes)


def test_an_answer_ends_before_the_next_statement():
    benchmark = Exercises(Settings(problems=1))
    [problem] = benchmark.problems(NOWHERE)
    assert benchmark.completion(problem, "    return 1\n\nassert f(1) == 1\n") == "    return 1\n"
    assert benchmark.completion(problem, "    return 1\n\n\ndef g():\n") == "    return 1\n\n"


def test_a_chat_asks_for_the_whole_function(pool):
    """Its answer may be fenced, and need not end at the next statement."""
    benchmark = Exercises(Settings(problems=2, prompts=("completion", "chat")))
    problem = benchmark.problems(NOWHERE)[2]
    [message] = problem.input.messages
    assert problem.variant == "chat" and not benchmark.sampling(problem).stop
    assert f"`{problem.data['entry_point']}(" in message["content"]
    right = benchmark.canonical(problem)
    answers = [right, f"Here it is:\n```python\n{right}```\n", problem.data["canonical_solution"]]
    outcomes = [pool.submit(benchmark.job(problem, benchmark.completion(problem, answer))) for answer in answers]
    assert [future.result().passed for future in outcomes] == [True, True, False]


def test_results_have_pass_at_ten_and_families():
    samples = [
        Sample(f"{family}/a", n, n, "", "", "", passed=n < right, reason="")
        for family, right in (("lists", 10), ("rows", 1))
        for n in range(10)
    ]
    summary = Exercises(Settings(samples=10)).summary(samples)
    assert (summary["pass@1"], summary["pass@10"], summary["tasks"]) == (pytest.approx(0.55), 1.0, 2)
    assert summary["pass@1_of_groups"] == {"lists": 1.0, "rows": pytest.approx(0.1)}


def test_a_stage_measures_exercises_without_a_folder():
    evaluation = Evaluation(benchmarks=EXERCISES, final_benchmarks="exercises")
    assert evaluation.measured == EXERCISES and evaluation.measures_benchmarks
    settings = Config(evaluation=evaluation, exercises=Settings(problems=3))
    found = gold.read(dataclasses.replace(settings, exercises_infilling=InfillingSettings(problems=2)))
    curves = [problem.benchmark for problem in found]
    assert curves == ["exercises"] * 3 + ["exercises_infilling/psm"] * 2 + ["exercises_infilling/spm"] * 2
    assert not Evaluation().measures_benchmarks


def test_more_problems_than_there_are_are_an_error(tmp_path, capsys):
    flags = ["--canonical", "--benchmarks=exercises", "--gin.Exercises.problems=1001", f"--out={tmp_path}"]
    assert evaluate.main(flags) == 2
    assert "Exercises.problems=1001 must be between 1 and 1,000" in capsys.readouterr().err
