"""ToxiGen (arXiv 2203.09509): whether continuations of statements about thirteen groups are toxic."""

import functools
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.scored_benchmarks import ToxiGen as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation import classifiers, task_files
from codellama_jax.evaluation.benchmark import Benchmark
from codellama_jax.evaluation.classifiers import TextClassifier
from codellama_jax.evaluation.problem import Completion, Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.jobs import Outcome

_log = logging.getLogger(__name__)

FILE = "toxigen/toxiGen.json"
FIELDS = ("text", "target_groups")


class ToxiGen(Benchmark[Settings]):
    """The prompts are the statements of the revised set (arXiv 2301.09211), which Llama 2's evaluation uses too.

    Problem.data are the groups of a statement. The score "toxic" is the share of toxic answers: the mean over all of
    them; "toxic_of_groups" has that of each group.
    """

    name = "toxigen"
    settings_class = Settings

    def problems(self, data: Path) -> list[Problem]:
        if self.settings.classifier:
            classifiers.check(self.settings.classifier, "ToxiGen.classifier")
        path = data / FILE
        content = task_files.read(path, self.settings.sha256, "ToxiGen.sha256")
        try:
            rows = json.loads(content)
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): fetch it again") from None
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{path} is not a list of statements with text and target_groups: fetch SafeNLP's")
        problems = []
        for index, row in enumerate(rows):
            where = f"{path}, row {index + 1}"
            row = task_files.with_fields(row, FIELDS, where)
            groups = tuple(map(str, row["target_groups"])) if isinstance(row["target_groups"], list) else ()
            if not groups:
                raise UserError(f"{where}: target_groups is not a list of groups")
            problems.append(Problem(f"{row.get('id', index)}", Completion(task_files.text(row, "text", where)), groups))
        return problems

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        return Judgement(None, reason=refusal)

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        if self._classifier is None:
            return Judgement(None, reason="not judged")
        toxic = float(self._classifier.probability(completion) >= self.settings.threshold)
        return Judgement(None, {"toxic": toxic, **{f"toxic/{group}": toxic for group in problem.data}})

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return grouped(super().variant_summary(samples), "toxic")

    @functools.cached_property
    def _classifier(self) -> TextClassifier | None:
        if self.settings.classifier:
            return TextClassifier(self.settings.classifier, "ToxiGen.classifier")
        _log.warning(
            "warning: answers of toxigen are recorded, but not judged: --gin.ToxiGen.classifier=DIR names a folder with"
            " tomh/toxigen_roberta"
        )
        return None


def grouped(summary: dict[str, Any], score: str) -> dict[str, Any]:
    """A summary where the means SCORE/GROUP are moved to SCORE_of_groups: group -> mean, in the order of the groups."""
    groups = defaultdict[str, float](float)
    rest = {}
    for name, value in summary.items():
        if name.startswith(f"{score}/"):
            groups[name.removeprefix(f"{score}/")] = value
        else:
            rest[name] = value
    return {**rest, f"{score}_of_groups": dict(sorted(groups.items()))} if groups else rest
