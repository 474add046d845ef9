"""What a benchmark is: its problems, how answers become completions, how these are judged and summed up."""

import abc
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from codellama_jax.config import evaluation as settings_of
from codellama_jax.config.generation import Sampling
from codellama_jax.evaluation.pass_at_k import interval, pass_at_k
from codellama_jax.evaluation.problem import Problem
from codellama_jax.evaluation.sample import Answer, Judgement, Sample
from codellama_jax.sandbox.jobs import Job, Outcome
from codellama_jax.tokenizer import Tokenizer

KS = (1, 5, 10, 100)  # pass@k is reported for those that have enough samples

S = TypeVar("S", bound=settings_of.Benchmark)


class Benchmark(abc.ABC, Generic[S]):
    """A benchmark with its settings.

    Args:
        settings: of `settings_class`.
        tokenizer: of the model, for benchmarks whose problems depend on it; None: not known, as for endpoints.

    Attributes:
        name: name on the command line, in the results and of the file of samples.
        settings_class: the class of its settings, whose name is that of the gin bindings.
        needs_data: whether the problems are read from data files.
        needs_sandbox: whether there are jobs to run.
        needs_tokenizer: whether the problems depend on the tokenizer.
        paper: published results to show beside one's own: name of a model -> metric -> value between 0 and 1. Where a
            benchmark has variants, a metric is "VARIANT METRIC".
        paper_source: where in arXiv 2308.12950 they are.
    """

    name: ClassVar[str]
    settings_class: ClassVar[type[settings_of.Benchmark]]
    needs_data: ClassVar[bool] = True
    needs_sandbox: ClassVar[bool] = False
    needs_tokenizer: ClassVar[bool] = False
    paper: ClassVar[Mapping[str, Mapping[str, float]]] = {}
    paper_source: ClassVar[str] = ""

    def __init__(self, settings: S, tokenizer: Tokenizer | None = None):
        self.settings = settings
        self.tokenizer = tokenizer

    def tools(self) -> Sequence[Path]:
        """Files and folders that its jobs read in the sandbox, besides those of the system."""
        return ()

    @abc.abstractmethod
    def problems(self, data: Path) -> list[Problem]:
        """Reads the problems, in the order of the file. Those of the first variant come first.

        Args:
            data: the folder of data files; not read without needs_data.

        Raises:
            UserError: a file is missing, damaged, or of another version.
        """

    def sampling(self, problem: Problem) -> Sampling:
        """How the answers to a problem are sampled, except for the seed."""
        settings = self.settings
        return Sampling(
            max_tokens=settings.max_tokens,
            temperature=settings.applied_temperature,
            top_p=settings.top_p if settings.applied_temperature else 1.0,
            stop=tuple(settings.stop),
        )

    def seed(self, task_id: str, sample: int) -> int:
        """The seed of a sample: below 2^31, which every server takes, and another one for each sample of a task."""
        digest = hashlib.sha256(f"{self.name}\0{task_id}".encode()).digest()
        return (int.from_bytes(digest[:4], "big") + sample) % 2**31

    def completion(self, problem: Problem, raw: str) -> str:
        """What of a raw output counts. Here: the text before the first stop string."""
        return cut_at_stop(raw, self.sampling(problem).stop)

    def job(self, problem: Problem, completion: str) -> Job | None:
        """What the sandbox runs to judge a completion; None: nothing."""
        return None

    def judged(self, problem: Problem, completion: str, outcome: Outcome | None, answer: Answer) -> Judgement:
        """Judges a completion. Here: it passes if its job does; benchmarks that run nothing judge in their own way.

        Args:
            outcome: what `job` came to; None if it was None.
            answer: what the model answered.
        """
        assert outcome is not None, "a benchmark without jobs must define judged"
        return Judgement(outcome.passed, reason="" if outcome.passed else f"{outcome.status}: {outcome.message}")

    def refused(self, problem: Problem, refusal: str) -> Judgement:
        """Judges a problem that the client did not answer (Answer.refusal)."""
        return Judgement(False, reason=refusal)

    def canonical(self, problem: Problem) -> str | None:
        """A right raw output, to check the harness with; None: the benchmark has none."""
        return None

    def summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The results: those of the first variant, and of each where there are several.

        pass@k for each k of KS that no task has fewer samples than, the 95% interval of pass@1, the mean of each score
        over the tasks, and the numbers of tasks and samples.
        """
        variants = defaultdict[str, list[Sample]](list)
        for sample in samples:
            variants[sample.variant].append(sample)
        if not variants:
            return {"tasks": 0, "samples": 0}
        summaries = {variant: self.variant_summary(found) for variant, found in variants.items()}
        first = next(iter(summaries.values()))
        return first if len(summaries) == 1 else {**first, "variants": summaries}

    def variant_summary(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The results of the samples of one variant, at least one."""
        tasks = defaultdict[str, list[Sample]](list)
        for sample in samples:
            tasks[sample.task_id].append(sample)
        summary: dict[str, Any] = {}
        judged = [[bool(s.passed) for s in task if s.passed is not None] for task in tasks.values()]
        if judged := [task for task in judged if task]:
            for k in KS:
                if all(len(task) >= k for task in judged):
                    values = [pass_at_k(len(task), sum(task), k) for task in judged]
                    summary[f"pass@{k}"] = math.fsum(values) / len(values)
                    if k == 1:
                        summary["pass@1_interval"] = list(interval(values, sum(map(len, judged))))
        for score in sorted({score for sample in samples for score in sample.scores}):
            means = []
            for task in tasks.values():
                values = [sample.scores[score] for sample in task if score in sample.scores]
                means += [math.fsum(values) / len(values)] if values else []
            summary[score] = math.fsum(means) / len(means)
        return summary | {"tasks": len(tasks), "samples": len(samples)}


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of a stop string, wherever it is."""
    return text[: min((position for word in stop if (position := text.find(word)) >= 0), default=len(text))]
