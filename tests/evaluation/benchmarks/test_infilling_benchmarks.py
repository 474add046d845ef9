"""HumanEval-infilling and SantaCoder's benchmark: holes, orders and programs."""

from collections import Counter

import pytest

from codellama_jax.config.evaluation import HumanEvalInfilling, SantaCoderFim
from codellama_jax.evaluation.sample import Answer
from codellama_jax.evaluation.table import BENCHMARKS


@pytest.mark.parametrize(
    ("name", "tasks", "ends"),
    [("single_line", 1033, 1033), ("multi_line", 5815, 5815), ("random_span", 1640, 667)],
)
def test_every_task_is_asked_in_both_orders(shared_data, name, tasks, ends):
    problems = BENCHMARKS[f"infilling_{name}"](HumanEvalInfilling()).problems(shared_data)
    assert Counter(problem.variant for problem in problems) == {"psm": tasks, "spm": tasks}
    for psm, spm in zip(problems[:tasks], problems[tasks:], strict=True):
        assert psm.task_id == spm.task_id and (psm.input.order, spm.input.order) == ("psm", "spm")
        assert (psm.input.prefix, psm.input.suffix) == (psm.data["prompt"], psm.data["suffix"])
    # published: prefixes that end in white space
    assert sum(problem.input.prefix[-1].isspace() for problem in problems[:tasks]) == ends


def test_a_program_is_prefix_completion_and_suffix(shared_data):
    benchmark = BENCHMARKS["infilling_random_span_light"](HumanEvalInfilling(orders=("spm",)))
    problem = benchmark.problems(shared_data)[0]
    raw = " x\n\ndef"
    job = benchmark.job(problem, benchmark.completion(problem, raw))
    assert job.program == problem.input.prefix + raw + problem.input.suffix + "\n"
    assert benchmark.sampling(problem).temperature == 0


@pytest.mark.parametrize("name", ["single_line", "multi_line", "random_span"])
def test_some_canonical_holes_pass_and_empty_ones_fail(shared_data, pool, name):
    """All of them: benchmarks/harness.py."""
    benchmark = BENCHMARKS[f"infilling_{name}"](HumanEvalInfilling(orders=("psm",)))
    problems = benchmark.problems(shared_data)[::600][:5]
    right = [pool.submit(benchmark.job(problem, benchmark.canonical(problem))) for problem in problems]
    wrong = [pool.submit(benchmark.job(problem, "    assert False\n")) for problem in problems]
    assert all(future.result().passed for future in right)
    assert not any(future.result().passed for future in wrong)


def test_santacoder_holes_are_the_published_ones(shared_data):
    benchmark = BENCHMARKS["santacoder_fim"](SantaCoderFim())
    problems = benchmark.problems(shared_data)
    assert Counter(problem.data["language"] for problem in problems if problem.variant == "psm") == {
        "python": 1043,
        "java": 1780,
        "javascript": 1969,
    }
    first = problems[0]
    assert first.input.prefix.endswith('    """\n') and first.data["line"] == "    for i in range(len(numbers)):"
    assert first.input.suffix.startswith("\n        for j in range(i + 1, len(numbers)):\n")
    line = first.data["line"]
    for completion, passed in ((line, True), (line.strip() + "\n", True), (line + "x", False), ("", False)):
        judgement = benchmark.judged(first, completion, None, Answer(completion))
        assert judgement.passed is passed and judgement.scores == {"python": float(passed)}
