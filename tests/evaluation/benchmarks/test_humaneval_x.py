"""HumanEval-X: its own solutions pass, and changed ones fail."""

from pathlib import Path

import pytest

from codellama_jax.config.language_benchmarks import HumanEvalX as Settings
from codellama_jax.evaluation.benchmarks.humaneval_x import HumanEvalX
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer, Judgement
from codellama_jax.sandbox.pool import Pool


@pytest.fixture(scope="module")
def benchmark() -> HumanEvalX:
    return HumanEvalX(Settings())


def judged(benchmark: HumanEvalX, pool: Pool, asked: list[tuple[Problem, str]]) -> list[Judgement]:
    completions = [(problem, benchmark.completion(problem, raw)) for problem, raw in asked]
    futures = [pool.submit(benchmark.job(problem, completion)) for problem, completion in completions]
    return [
        benchmark.judged(problem, completion, future.result(), Answer(completion))
        for (problem, completion), future in zip(completions, futures, strict=True)
    ]


@pytest.mark.parametrize("language", ["python", "js"])
def test_solutions_pass_and_changed_ones_fail(benchmark: HumanEvalX, pool: Pool, shared_data: Path, language: str):
    if language in (skipped := HumanEvalX(Settings(languages=(language,))).skipped()):
        pytest.skip(skipped[language])
    problems = benchmark.read(shared_data, language)[4:64:6]
    right = [(problem, benchmark.canonical(problem)) for problem in problems]
    assert [judgement.reason for judgement in judged(benchmark, pool, right)] == [""] * len(problems)
    wrong = [(problem, "    return 'wrong'\n" + "}\n" * (language == "js")) for problem in problems]
    assert not any(judgement.passed for judgement in judged(benchmark, pool, wrong))


def test_an_answer_ends_with_its_function(benchmark: HumanEvalX, shared_data: Path):
    java, cpp, python = (benchmark.read(shared_data, name)[0] for name in ("java", "cpp", "python"))
    assert (
        benchmark.completion(java, "        return true;\n    }\n    void f() {}") == "        return true;\n    }\n}\n"
    )
    assert benchmark.completion(cpp, "    if (x) { y(); }\n}\nint f() {\n}") == "    if (x) { y(); }\n}\n"
    assert benchmark.completion(cpp, "    return x; } int f() { }") == "    return x; }\n"
    assert benchmark.completion(python, "    return 1\n\nx = 2\n") == "    return 1\n"


@pytest.mark.parametrize("language", ["python", "cpp", "java", "js"])
def test_the_solution_of_every_task_is_kept_to_its_end(benchmark: HumanEvalX, shared_data: Path, language: str):
    for problem in benchmark.read(shared_data, language):
        raw = benchmark.canonical(problem).partition("#undef")[0]  # one C++ solution ends with its test's header
        assert benchmark.completion(problem, raw).split() == raw.split(), problem.task_id
