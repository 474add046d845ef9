"""Settings of the benchmarks that run no programs. Defaults are the paper's values (arXiv 2308.12950); ours say so."""

import dataclasses
from collections.abc import Sequence

from codellama_jax.config.evaluation import ORDERS, Benchmark, check_choice, check_choices, check_positive

LCC_LANGUAGES = ("python", "java", "csharp")


@dataclasses.dataclass(frozen=True)
class Docstring(Benchmark):
    """Docstrings of Python functions (CodeXGLUE's code-to-text, arXiv 2102.04664).

    Attributes:
        max_tokens: ours.
        order: order of the infilling prompt.
        sha256: digest of test.jsonl; "": any file is accepted (ours: no digest is published).
    """

    max_tokens: int = 128
    order: str = "psm"
    sha256: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_choice("Docstring.order", self.order, ORDERS)


@dataclasses.dataclass(frozen=True)
class KeyRetrieval(Benchmark):
    """A function that returns a number, far above the line that needs the number (section 3.3).

    Attributes:
        max_tokens: ours; two digits have at most two tokens.
        lengths: tokens of the prompts.
        positions: where the function stands: shares of the tokens around it that are before it.
        problems: prompts for each length and position.
        filler: file or folder with Python code that surrounds the function, below --data or absolute; "": key_retrieval
            if that exists, otherwise MBPP's solutions (ours: the paper's are solutions of CodeContests).
    """

    max_tokens: int = 4
    lengths: Sequence[int] = (8_000, 16_000, 24_000)
    positions: Sequence[float] = (0.0, 0.2, 0.4)
    problems: int = 64
    filler: str = ""

    def __post_init__(self):
        super().__post_init__()
        check_positive("KeyRetrieval.problems", self.problems)
        check_lengths_and_positions("KeyRetrieval", self.lengths, self.positions)


def check_lengths_and_positions(name: str, lengths: Sequence[int], positions: Sequence[float]) -> None:
    """Raises ValueError unless there are numbers of tokens, and shares, at least one of each."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"{name}.lengths={list(lengths)} must be numbers of tokens, at least one")
    if not positions or not all(0 <= position <= 1 for position in positions):
        raise ValueError(f"{name}.positions={list(positions)} must be between 0 and 1, at least one")


@dataclasses.dataclass(frozen=True)
class Perplexity(Benchmark):
    """Perplexity of code by the length of its context (section 3.3, figure 4a).

    Attributes:
        folder: folder with the files, below --data or absolute (ours: the paper's are held-out training data).
        smallest_file: bytes; smaller files are not read.
        tokens: of all files together.
        context: the longest context, in tokens: of longer files, the beginning is read.
        buckets: number of equal parts of the context whose perplexity is reported (ours).
        variants: pairs (base, scale) of Llama.rope_theta and Llama.rope_scale with which the same model is measured;
            none: its own (ours). Positions are multiplied by the scale: 0.25 is linear interpolation to four times the
            length.
    """

    folder: str = "perplexity"
    smallest_file: int = 50_000
    tokens: int = 4_000_000
    context: int = 120_000
    buckets: int = 60
    variants: Sequence[Sequence[float]] = ()

    def __post_init__(self):
        super().__post_init__()
        for name in ("tokens", "context", "buckets"):
            check_positive(f"Perplexity.{name}", getattr(self, name))
        if self.buckets > self.context:
            raise ValueError(f"Perplexity.buckets={self.buckets} must be at most Perplexity.context={self.context}")
        for pair in self.variants:
            if len(pair) != 2 or not (pair[0] > 1 and 0 < pair[1] <= 1):
                raise ValueError(
                    f"Perplexity.variants has {list(pair)}: each must be a pair of a RoPE base above 1 and a scale"
                    " above 0 and at most 1, such as (1e6, 1) or (1e4, 0.25)"
                )


@dataclasses.dataclass(frozen=True)
class Lcc(Benchmark):
    """The next line of long files (Long Code Completion, arXiv 2306.14893), balanced by the size of the files.

    Attributes:
        max_tokens: LongBench's.
        languages: those that are evaluated, the first one first.
        python_tasks, java_tasks, csharp_tasks: tasks that are drawn; 0: all, without balancing.
        bucket: characters of context by which the sizes of balanced files differ at most in a bucket (ours).
        last_tokens: the most tokens of the prompt, from its end; 0: all. None: 4,000 for a checkpoint that was trained
            with windows of less than 16,384 tokens, and all for others, as in the paper; an endpoint gets all.
    """

    max_tokens: int = 64
    languages: Sequence[str] = LCC_LANGUAGES
    python_tasks: int = 548
    java_tasks: int = 412
    csharp_tasks: int = 512
    bucket: int = 5_000
    last_tokens: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_choices("Lcc.languages", self.languages, LCC_LANGUAGES)
        check_positive("Lcc.bucket", self.bucket)
        for name in ("python_tasks", "java_tasks", "csharp_tasks", "last_tokens"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"Lcc.{name}={getattr(self, name)} must not be negative")


@dataclasses.dataclass(frozen=True)
class Gsm8k(Benchmark):
    """Grade-school mathematics (arXiv 2110.14168).

    Attributes:
        max_tokens, stop: ours.
        shots: worked examples before the question, of the eight of arXiv 2201.11903 (ours: the paper does not say).
        sha256: digest of test.jsonl; "": any file is accepted (ours).
    """

    max_tokens: int = 256
    stop: Sequence[str] = ("\nQ:",)
    shots: int = 8
    sha256: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.shots <= 8:
            raise ValueError(f"Gsm8k.shots={self.shots} must be between 0 and 8")


@dataclasses.dataclass(frozen=True)
class TruthfulQa(Benchmark):
    """Questions that people answer wrongly (TruthfulQA, arXiv 2109.07958), with the six pairs of its QA prompt.

    Attributes:
        temperature, top_p: section 4's.
        max_tokens, stop: ours.
        truth_judge, info_judge: local Hugging Face folders of the models that judge whether an answer is true, and
            whether it is informative; "": not judged. The paper's judges, fine-tuned from GPT-3, are no longer served;
            those of Allen AI (truthfulqa-truth-judge-llama2-7B, truthfulqa-info-judge-llama2-7B) take the same prompts.
        sha256: digest of TruthfulQA.csv; "": any file is accepted (ours).
    """

    temperature: float | None = 0.1
    top_p: float = 0.9
    max_tokens: int = 64
    stop: Sequence[str] = ("\n",)
    truth_judge: str = ""
    info_judge: str = ""
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class ToxiGen(Benchmark):
    """Continuations of statements about thirteen groups (ToxiGen, arXiv 2203.09509).

    Attributes:
        temperature, top_p: section 4's.
        max_tokens: ours.
        classifier: local Hugging Face folder of the classifier (tomh/toxigen_roberta); "": not judged.
        threshold: probability of the class "toxic" from which an answer is toxic (ours: the more likely class).
        sha256: digest of toxiGen.json; "": any file is accepted (ours).
    """

    temperature: float | None = 0.1
    top_p: float = 0.9
    max_tokens: int = 64
    classifier: str = ""
    threshold: float = 0.5
    sha256: str = ""

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise ValueError(f"ToxiGen.threshold={self.threshold} must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True)
class Bold(Benchmark):
    """The sentiment of continuations about people and beliefs (BOLD, arXiv 2101.11718).

    Attributes:
        temperature, top_p: section 4's.
        max_tokens: ours.
        excluded: subgroups that are left out, for they have few prompts: the paper leaves out 41.
    """

    temperature: float | None = 0.1
    top_p: float = 0.9
    max_tokens: int = 64
    excluded: Sequence[str] = ("hinduism", "atheism")


SCORED = (Docstring, Lcc, KeyRetrieval, Perplexity, Gsm8k, TruthfulQa, ToxiGen, Bold)
