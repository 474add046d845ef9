"""MultiPL-E: programs of each language whose compiler is here, and languages whose compiler is not."""

import dataclasses
import re
from pathlib import Path

import pytest

from codellama_jax.config.language_benchmarks import MultiPLE as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import languages
from codellama_jax.evaluation.benchmarks.multipl_e import LANGUAGES, MultiPLE
from codellama_jax.evaluation.sample import Answer, Sample
from codellama_jax.sandbox.pool import Pool

TASK = "HumanEval_53_add"
RIGHT = {
    "cpp": "\n    return x + y;",
    "java": "\n        return x + y;",
    "php": "\n    return $x + $y;\n}",
    "ts": "\n    return x + y;\n}",
    "cs": "\n        return x + y;",
    "sh": "\n    echo $(($1 + $2))",
    "js": "\n    return x + y;\n}",
}
EXITING = {
    "cpp": "\n    exit(0);",
    "java": "\n        System.exit(0);\n        return 0;",
    "php": "\n    exit(0);\n}",
    "ts": "\n    (globalThis as any).process.exit(0);\n}",
    "cs": "\n        Environment.Exit(0);\n        return 0;",
    "sh": "\n    true\n}\nexit 0\nf() {",
    "js": "\n    process.exit(0);\n}",
}


@pytest.fixture(scope="module")
def benchmark(shared_data: Path) -> MultiPLE:
    return MultiPLE(Settings(languages=tuple(RIGHT)))


def passed(benchmark: MultiPLE, data: Path, pool: Pool, language: str, raw: str) -> tuple[bool | None, str]:
    if reason := LANGUAGES[language].missing(benchmark.paths()):
        pytest.skip(reason)
    problem = next(problem for problem in benchmark.read(data, language) if problem.task_id == TASK)
    outcome = pool.submit(benchmark.job(problem, raw)).result()
    judgement = benchmark.judged(problem, raw, outcome, Answer(raw))
    return judgement.passed, judgement.reason


@pytest.mark.parametrize("language", RIGHT)
def test_a_right_program_passes(benchmark, shared_data, pool, language):
    assert passed(benchmark, shared_data, pool, language, RIGHT[language]) == (True, "")


@pytest.mark.parametrize("language", ["php", "ts", "cs", "sh", "js"])
def test_a_wrong_program_fails(benchmark, shared_data, pool, language):
    wrong = RIGHT[language].replace("+", "-")
    assert passed(benchmark, shared_data, pool, language, wrong)[0] is False


@pytest.mark.parametrize("language", EXITING)
def test_a_program_that_exits_early_with_code_0_fails(benchmark, shared_data, pool, language):
    expected = (False, "error: the program ended before the end of its test")
    assert passed(benchmark, shared_data, pool, language, EXITING[language]) == expected


def test_an_answer_ends_at_the_stop_tokens_of_its_task(benchmark, shared_data):
    problem = next(iter(benchmark.read(shared_data, "php")))
    assert benchmark.sampling(problem).stop == ("\nfunction", "\n?>", "\n//", "\n#")
    assert benchmark.completion(problem, "\n  return 1;\n}\n\nfunction f() {}") == "\n  return 1;\n}\n"
    own = MultiPLE(Settings(stop=("X",)))
    assert own.sampling(problem).stop == ("X",)


def test_prompts(benchmark, shared_data):
    stripped = benchmark.read(shared_data, "cs")[0]
    verbatim = MultiPLE(Settings(prompt="verbatim", csharp_signature="published")).read(shared_data, "cs")[0]
    assert stripped.input.text.endswith(
        "\n    public static bool HasCloseElements(List<float> numbers, float threshold) {"
    )
    assert "\n    //     public static bool HasCloseElements(" in verbatim.input.text
    assert verbatim.input.text.endswith(" {\n")


def test_numbers_of_tasks(benchmark, shared_data):
    counts = {name: len(benchmark.read(shared_data, name)) for name in (*RIGHT, "python")}
    assert counts == {"cpp": 161, "java": 158, "php": 161, "ts": 159, "cs": 158, "sh": 158, "js": 161, "python": 164}


def test_languages_without_compiler_are_skipped_and_named(shared_data, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(languages, "SYSTEM_PATH", str(tmp_path))
    benchmark = MultiPLE(Settings(languages=("cpp", "python")))
    problems = benchmark.problems(shared_data)
    assert {problem.variant for problem in problems} == {"python"}
    reason = rf"g\+\+ is not in {tmp_path}.*: apt install g\+\+"
    assert re.search(rf"multipl_e: C\+\+ is skipped: {reason}", caplog.text)
    assert re.search(reason, benchmark.summary([])["skipped"]["cpp"])
    with pytest.raises(UserError, match=f"no language is left: {reason}"):
        MultiPLE(Settings(languages=("cpp",))).problems(shared_data)


def test_tools_that_programs_do_not_see_are_named():
    language = dataclasses.replace(LANGUAGES["java"], commands=())
    missing = language.missing({"javatuples": Path("/missing.jar")})
    assert missing.startswith("/missing.jar does not exist: apt install libjavatuples-java, or bind --gin.MultiPLE")
    hidden = language.missing({"javatuples": Path("/tmp")})
    assert hidden == "/tmp is not visible in the sandbox, whose programs have a /tmp of their own: move it"


def test_the_result_is_the_average_of_the_six_languages_without_python(benchmark):
    shared = {"seed": 0, "prompt": "", "raw": "", "completion": "", "reason": ""}
    samples = [
        Sample(task_id=task, sample=0, variant=variant, passed=right, **shared)
        for variant, rights in {"cpp": (True, False), "sh": (False, False), "python": (True, True)}.items()
        for task, right in zip("ab", rights, strict=True)
    ]
    summary = benchmark.summary(samples)
    assert summary["pass@1"] == 0.25 and summary["averaged"] == ["cpp", "sh"]
    assert summary["variants"]["python"]["pass@1"] == 1.0 and summary["tasks"] == 6
