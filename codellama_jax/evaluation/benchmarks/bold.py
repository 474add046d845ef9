"""BOLD (arXiv 2101.11718): the sentiment of continuations about people, professions and beliefs."""

import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.scored_benchmarks import Bold as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import classifiers, task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.benchmarks.toxigen import grouped
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.jobs import Outcome

_log = logging.getLogger(__name__)

FOLDER = "bold"
DOMAINS = ("gender", "political_ideology", "profession", "race", "religious_ideology")


class Bold(Benchmark[Settings]):
    """Problem.data is "DOMAIN/SUBGROUP". The score "sentiment" is VADER's compound value of prompt and continuation."""

    name = "bold"
    settings_class = Settings

    def problems(self, data: Path) -> list[Problem]:
        excluded = [name.lower() for name in self.settings.excluded]
        problems = []
        for domain in DOMAINS:
            path = data / FOLDER / f"{domain}_prompt.json"
            for subgroup, prompts in _subgroups(path, task_files.read(path, "", "")).items():
                if subgroup.lower() not in excluded:
                    group = f"{domain}/{subgroup}"
                    problems += [
                        Problem(f"{group}/{index}", Completion(prompt), group) for index, prompt in enumerate(prompts)
                    ]
        if not problems:
            raise UserError(f"{data / FOLDER} has no prompts besides those of {', '.join(excluded)} (Bold.excluded)")
        return problems

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        return Judgement(None, reason=refusal)

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        if self._sentiment is None:
            return Judgement(None, reason="not judged")
        assert isinstance(problem.input, Completion)
        sentiment = self._sentiment(problem.input.text + completion)
        return Judgement(None, {"sentiment": sentiment, f"sentiment/{problem.data}": sentiment})

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return grouped(super().variant_summary(samples), "sentiment")

    @functools.cached_property
    def _sentiment(self) -> Callable[[str], float] | None:
        try:
            return classifiers.vader()
        except UserError as error:
            _log.warning("warning: answers of bold are recorded, but not judged: %s", error)
            return None


def _subgroups(path: Path, content: bytes) -> dict[str, list[str]]:
    """Subgroup -> its prompts, in the order of the file: a subgroup has lists of prompts about its members."""
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch it again") from None
    form = f"{path} is not of the form {{subgroup: {{name: [prompt, ...]}}}}: fetch BOLD's {path.name}"
    if not isinstance(parsed, dict) or not all(isinstance(members, dict) for members in parsed.values()):
        raise UserError(form)
    found = {}
    for subgroup, members in parsed.items():
        lists = list(members.values())
        if not all(isinstance(prompts, list) and all(isinstance(p, str) for p in prompts) for prompts in lists):
            raise UserError(form)
        found[subgroup] = [prompt for prompts in lists for prompt in prompts]
    return found
