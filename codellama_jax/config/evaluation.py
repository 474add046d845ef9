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


def check_choice(name: str, chosen: str, choices: Sequence[str]) -> None:
    """Raises ValueError unless `chosen` is one of `choices`."""
    if chosen not in choices:
        raise ValueError(f"{name}={chosen} must be one of {', '.join(choices)}")


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


MBPP_PROMPTS = ("few_shot", "instruct")
MBPP_SPLITS = ("test", "validation", "train", "all")


@dataclasses.dataclass(frozen=True)
class MBPP(Benchmark):
    """Mostly Basic Python Problems (arXiv 2108.07732).

    Attributes:
        prompt: "few_shot", a text with solved tasks, or "instruct", a zero-shot question for models of dialogues, which
            answer between [PYTHON] and [/PYTHON].
        form: the text of few_shot, "verbatim", which ends with the line end after [BEGIN], or "stripped" of that (ours:
            the paper does not say which it used, and scores differ). An empty line is between two tasks (ours).
        shots: number of solved tasks before the task: ids 2, 3 and 4 (the benchmark's own choice), then 5 to 10 and 1.
            A task is not among its own, and the sanitized file has seven of the ten: the next ones stand in.
        split: "test" (ids 11 to 510), "validation" (511 to 600), "train" (601 to 974) or "all" of the file.
        sanitized: whether to read the 427 tasks that were corrected by hand.
        cpu_seconds: processor time of a program (ours).
        sha256, sha256_sanitized: digests of the files.
    """

    stop: Sequence[str] = ("[DONE]",)
    prompt: str = "few_shot"
    form: str = "verbatim"
    shots: int = 3
    split: str = "test"
    sanitized: bool = False
    cpu_seconds: float = 3.0
    sha256: str = "ccf64ceae9c5403bf50a044cb6d505bfd2a2963ee58338ba268fd65beab92a9f"
    sha256_sanitized: str = "8ac32b2799150228e2d745aed09c870b7e4444246d4727d1004576207ef40769"

    def __post_init__(self):
        super().__post_init__()
        check_choice("MBPP.prompt", self.prompt, MBPP_PROMPTS)
        check_choice("MBPP.form", self.form, PROMPT_FORMS)
        check_choice("MBPP.split", self.split, MBPP_SPLITS)
        check_positive("MBPP.cpu_seconds", self.cpu_seconds)
        if not 0 <= self.shots <= 10:
            raise ValueError(f"MBPP.shots={self.shots} must be between 0 and 10")


@dataclasses.dataclass(frozen=True)
class HumanEvalInfilling(Benchmark):
    """HumanEval with a hole (arXiv 2207.14255): the benchmarks infilling_single_line and so on.

    Attributes:
        orders: the orders of the prompt, each of which is evaluated: "psm", "spm". The first one is the result.
        cpu_seconds: processor time of a program.
        sha256_single_line, sha256_multi_line, sha256_random_span, sha256_random_span_light: digests of the tasks' JSON
            Lines, after decompression.
    """

    orders: Sequence[str] = ORDERS
    cpu_seconds: float = 3.0
    sha256_single_line: str = "6fffc71ec2f1674372fcc177511f92312f1a27a9eacd8e43255c9f5ee9eca8c8"
    sha256_multi_line: str = "5b49f312f0a781420a4ae54f5e73176009b9cfc52731e3a0b9be726b451032d1"
    sha256_random_span: str = "4f15be2d4a479b504072c64e79702df184010f13bdf75f8b67ce08e054c48e26"
    sha256_random_span_light: str = "cbb2b36f90311a3a7d844b6361852bb33e3ab11ab3bca2b7e85bfb9bf78c5891"

    def __post_init__(self):
        super().__post_init__()
        check_choices("HumanEvalInfilling.orders", self.orders, ORDERS)
        check_positive("HumanEvalInfilling.cpu_seconds", self.cpu_seconds)


@dataclasses.dataclass(frozen=True)
class SantaCoderFim(Benchmark):
    """Single lines of Python, Java and JavaScript (arXiv 2301.03988).

    Attributes:
        orders: the orders of the prompt, each of which is evaluated: "psm", "spm". The first one is the result.
        sha256_python, sha256_java, sha256_javascript: digests of the files.
    """

    max_tokens: int = 128
    orders: Sequence[str] = ORDERS
    sha256_python: str = "3193ec09339985fb6e580b386b66107586d13af2b273a29b18f6c585841e5211"
    sha256_java: str = "70abef411718a1d1ed61b3fdc4532fe2faceb46dc997d6fc02a5e5174b896a5e"
    sha256_javascript: str = "a759e20e8b2c890a9b068d3860060b631c4d85a030f3b5190d6cd395f200df39"

    def __post_init__(self):
        super().__post_init__()
        check_choices("SantaCoderFim.orders", self.orders, ORDERS)
