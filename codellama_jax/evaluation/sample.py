"""An answer to a problem, the judgement of it, and the record of both."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from codellama_jax.evaluation.problem import Chat, Completion, Infilling, Problem, Scoring


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        text: the raw output, before anything is cut. Where the client stops at stop strings, it ends before them.
        finish_reason: "stop", "length", "refused", or what an endpoint reports.
        refusal: why there is no answer: the prompt does not fit the context, or the endpoint does not accept it.
        logprobs: natural logarithms of the probabilities of the tokens of Scoring.text.
    """

    text: str = ""
    finish_reason: str = "stop"
    logprobs: tuple[float, ...] | None = None
    refusal: str = ""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement of an answer.

    Attributes:
        passed: whether it is right; None: the benchmark has scores only.
        scores: other scores, each of which is averaged over the tasks.
        reason: why it did not pass, in one line; "" if it did.
    """

    passed: bool | None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """The record of an answer: a line of samples/NAME.jsonl.

    Attributes:
        task_id, variant: the problem's.
        sample: index of the answer among those to the problem.
        seed: seed of sampling.
        prompt: the exact text that was completed; the text before a hole; the last message of a dialogue.
        input: further fields of what the model was asked: suffix and order, or messages.
        raw: the model's output.
        completion: what of the output counts.
        passed, scores, reason: see Judgement.
        finish_reason: see Answer.
        status: how the sandbox ended (sandbox.jobs.Outcome.status); "" where nothing ran.
        stderr: the beginning of the program's standard error.
    """

    task_id: str
    sample: int
    seed: int
    prompt: str
    raw: str
    completion: str
    passed: bool | None
    reason: str
    variant: str = ""
    input: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    finish_reason: str = "stop"
    status: str = ""
    stderr: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies the sample in its benchmark."""
        return self.task_id, self.variant, self.sample


def shown_input(problem: Problem) -> tuple[str, dict[str, Any]]:
    """The prompt of a problem and the other fields of what the model is asked, as records have them."""
    match problem.input:
        case Completion(text, last_tokens):
            return text, {} if last_tokens is None else {"last_tokens": last_tokens}
        case Infilling(prefix, suffix, order):
            return prefix, {"suffix": suffix, "order": order}
        case Chat(messages):
            return str(messages[-1]["content"]), {"messages": list(messages)}
        case Scoring(context, text):
            return context, {"text": text}
