"""Answers that were stored before, to judge them again without the model."""

import threading
from collections.abc import Iterator, Mapping

from codellama_jax.errors import UserError
from codellama_jax.evaluation.client import Client, Request
from codellama_jax.evaluation.sample import Answer, Sample, shown_input


class StoredAnswers(Client):
    """Answers with the raw output of samples.

    Args:
        samples: key -> sample; all that are asked for are there.
        identity: that of the client which generated them.
        where: names their file in messages.
    """

    def __init__(self, samples: Mapping[tuple[str, str, int], Sample], identity: Mapping[str, str], where: str):
        self.name = identity.get("model", "unknown")
        self.identity = identity
        self._samples, self._where = samples, where

    def answers(self, requests: Iterator[Request], stop: threading.Event) -> Iterator[tuple[Request, Answer]]:
        for request in requests:
            if stop.is_set():
                return
            problem = request.problem
            sample = self._samples[problem.task_id, problem.variant, request.sample]
            if (sample.prompt, dict(sample.input)) != shown_input(problem):
                raise UserError(
                    f"{self._where} has another prompt of {problem.task_id} than these settings and data: the answer"
                    " is not one to this prompt; rescore with the settings of the prompts that it was made with"
                )
            refused = sample.finish_reason == "refused"
            yield request, Answer(sample.raw, sample.finish_reason, refusal=sample.reason if refused else "")
