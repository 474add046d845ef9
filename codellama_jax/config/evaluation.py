"""Settings of the benchmarks. The defaults are the paper's values (arXiv 2308.12950); what is ours says so."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

# Stop words of HumanEval. The paper's list is "custom"; its authors point to this one. They are text that begins a new
# statement at the left margin, which ends the function.
HUMANEVAL_STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")

PROMPT_FORMS = ("verbatim", "stripped")
ORDERS = ("psm", "spm")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Settings that all benchmarks with generated answers have.

    Attributes:
        samples: answers to each task.
        temperature: of sampling. None: 0 for one sample, as in the paper's pass@1, and SAMPLED_TEMPERATURE for more,
            as in its pass@10 and pass@100.
        top_p: of sampling.
        max_tokens: the most tokens of an answer (ours).
        stop: strings that end an answer; they are searched in the answer only.
    """

    SAMPLED_TEMPERATURE: ClassVar[float] = 0.8

    samples: int = 1
    temperature: float | None = None
    top_p: float = 0.95
    max_tokens: int = 512
    stop: Sequence[str] = ()

    def __post_init__(self):
        name = type(self).__name__
        for field, lowest in (("samples", 1), ("max_tokens", 1)):
            if getattr(self, field) < lowest:
                raise ValueError(f"{name}.{field}={getattr(self, field)} must be at least {lowest}")
        if self.temperature is not None and not 0 <= self.temperature <= 1000:
            raise ValueError(f"{name}.temperature={self.temperature} must be between 0 and 1000")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"{name}.top_p={self.top_p} must be above 0 and at most 1")
        if not all(self.stop):
            raise ValueError(f"{name}.stop has an empty string, which every answer contains: leave it out")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"{name}.samples={self.samples} with {name}.temperature=0: all samples of a task would be equal:"
                " set one sample or a temperature above 0"
            )

    @property
    def applied_temperature(self) -> float:
        """The temperature of sampling, where None is resolved."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.samples == 1 else self.SAMPLED_TEMPERATURE


def check_choices(name: str, chosen: Sequence[str], choices: Sequence[str]) -> None:
    """Raises ValueError unless `chosen` has one or more of `choices`, each at most once."""
    unknown = [choice for choice in chosen if choice not in choices]
    if not chosen or unknown or len(set(chosen)) < len(chosen):
        raise ValueError(f"{name}={list(chosen)} must be one or more of {', '.join(choices)}, each at most once")


def check_positive(name: str, value: float) -> None:
    """Raises ValueError unless a value is above 0."""
    if not value > 0:
        raise ValueError(f"{name}={value} must be above 0")


@dataclasses.dataclass(frozen=True)
class Endpoints:
    """How OpenAI-compatible endpoints are asked.

    Attributes:
        concurrency: number of requests that are sent to an endpoint at a time.
        timeout: seconds after which a request without its whole answer has failed.
        attempts: number of times that a request is sent before its endpoint is given up.
        backoff: seconds before the second attempt; each further one waits twice as long, at most a minute.
    """

    concurrency: int = 8
    timeout: float = 600.0
    attempts: int = 7
    backoff: float = 1.0

    def __post_init__(self):
        for field in ("concurrency", "timeout", "attempts", "backoff"):
            check_positive(f"Endpoints.{field}", getattr(self, field))


@dataclasses.dataclass(frozen=True)
class HumanEval(Benchmark):
    """HumanEval (arXiv 2107.03374), zero-shot.

    Attributes:
        prompts: the forms of the prompt, each of which is evaluated: "verbatim", or "stripped" of white space at its
            ends. The paper does not say which it used, and the scores differ. The first one is the benchmark's result.
        cpu_seconds: processor time of a program.
        sha256: digest of the tasks' JSON Lines, after decompression.
    """

    stop: Sequence[str] = HUMANEVAL_STOP
    prompts: Sequence[str] = ("verbatim",)
    cpu_seconds: float = 3.0
    sha256: str = "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2"

    def __post_init__(self):
        super().__post_init__()
        check_choices("HumanEval.prompts", self.prompts, PROMPT_FORMS)
        check_positive("HumanEval.cpu_seconds", self.cpu_seconds)
