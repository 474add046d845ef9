"""What a benchmark asks a model."""

import dataclasses
from typing import Any

from codellama_jax.chat import Message
from codellama_jax.tokenizer import Order


@dataclasses.dataclass(frozen=True)
class Completion:
    """A text to continue, exactly as it is: the answer begins after its last character, without token healing.

    Attributes:
        text: the text.
        last_tokens: the model reads at most this many tokens at its end; None: all. A client without a tokenizer
            refuses it, unless long_context is set.
        long_context: a model that was trained with windows of at least so many tokens reads all of the text, and one
            with shorter windows the last_tokens, or as many of them as fit. An endpoint gets all of the text, because
            the windows of its model are not known.
    """

    text: str
    last_tokens: int | None = None
    long_context: int | None = None


@dataclasses.dataclass(frozen=True)
class Infilling:
    """A hole between two texts, without token healing. An endpoint chooses its order itself."""

    prefix: str
    suffix: str
    order: Order


@dataclasses.dataclass(frozen=True)
class Chat:
    """A dialogue that ends with a question. Each message has role and content."""

    messages: tuple[Message, ...]


@dataclasses.dataclass(frozen=True)
class Scoring:
    """A text whose tokens get log-probabilities (Answer.logprobs), after a context that gets none."""

    context: str
    text: str


@dataclasses.dataclass(frozen=True)
class TokenScoring:
    """The first tokens of a long text, each of which gets a log-probability: Answer.text has them (packed_logprobs.py).

    Only a local model gives them. The text may be longer than its context.

    Attributes:
        text: the text.
        tokens: number of tokens, without BOS, which is before them.
        longest: the largest number of tokens among the problems of the benchmark.
        rope: RoPE base and scale with which the model reads the text; None: its own.
    """

    text: str
    tokens: int
    longest: int
    rope: tuple[float, float] | None = None


Input = Completion | Infilling | Chat | Scoring | TokenScoring


@dataclasses.dataclass(frozen=True)
class Problem:
    """A task, in one of the variants in which a benchmark asks it.

    Attributes:
        task_id: name of the task, unique in the benchmark's variant.
        input: what the model is asked.
        data: what judging needs, in a form of the benchmark's own.
        variant: name of the variant, such as "psm"; "" where the benchmark has one only.
    """

    task_id: str
    input: Input
    data: Any = None
    variant: str = ""
