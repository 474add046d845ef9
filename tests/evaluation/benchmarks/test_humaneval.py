"""HumanEval: its prompts, programs and settings."""

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.evaluation import HumanEval as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.table import BENCHMARKS


def test_settings_come_from_gin_flags():
    settings = gin_files.load([], ["HumanEval.temperature=0.8", "HumanEval.samples=20"], default_size="local")
    assert settings.resolve(Settings).humaneval == Settings(temperature=0.8, samples=20)


def test_prompts_are_those_of_the_file(shared_data):
    problems = BENCHMARKS["humaneval"](Settings(prompts=("verbatim", "stripped"))).problems(shared_data)
    assert len(problems) == 2 * 164
    for verbatim, stripped in zip(problems[:164], problems[164:], strict=True):
        assert verbatim.input.text == verbatim.data["prompt"] and verbatim.input.text.endswith("\n")
        assert stripped.input.text == verbatim.input.text.strip()
        assert (verbatim.variant, stripped.variant) == ("verbatim", "stripped")


def test_a_file_of_another_version_is_refused_with_its_digest(shared_data):
    with pytest.raises(UserError, match=r"HumanEval.jsonl.gz is damaged.*not 00.*--gin.HumanEval.sha256=1d49078b"):
        BENCHMARKS["humaneval"](Settings(sha256="00")).problems(shared_data)
