"""Settings of generation, as plain dataclasses."""

import dataclasses
import numbers
import reprlib
from typing import Any

MOST_LOGPROBS = 20  # the most alternatives that are reported beside a token


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the tokens of a request are chosen, and what is reported of them.

    Attributes:
        max_tokens: maximum number of tokens to generate; 0: the prompt is only processed.
        min_tokens: number of tokens before which no stop id is generated.
        temperature: divides the logits; 0, or less than 1e-5, takes the most likely token.
        top_p: samples from the smallest set of tokens whose probability reaches this value.
        top_k: samples from this many of the most likely tokens; 0: all.
        min_p: samples from the tokens that are at least this much as likely as the most likely one; 0: all.
        repetition_penalty: divides the positive logits of the tokens in the prompt and the text, and multiplies the
            negative ones (arXiv 1909.05858); 1: none.
        presence_penalty: subtracted from the logits of the tokens that were generated (OpenAI's API).
        frequency_penalty: the same, times how often the token was generated.
        seed: the same request with the same seed gives the same tokens.
        stop: strings that end the text. The text ends before the first of them.
        logprobs: number of the most likely tokens that are reported beside each generated one, with log-probabilities;
            0: only the token itself; None: nothing. These are probabilities of the model's own distribution, before
            temperature, penalties and filters.
        prompt_logprobs: whether the same is reported of the prompt. Such a request does not read the prefix cache.

    Raises:
        ValueError: a value has the wrong type, is not finite, or is out of range. The message starts with its name.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False

    def __post_init__(self):
        _check_integer("max_tokens", self.max_tokens, 0)
        _check_integer("min_tokens", self.min_tokens, 0)
        _check_number("temperature", self.temperature, 0, 1000)
        _check_number("top_p", self.top_p, 0, 1)
        if not self.top_p > 0:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        _check_integer("top_k", self.top_k, 0)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check_number("presence_penalty", self.presence_penalty, -2, 2)
        _check_number("frequency_penalty", self.frequency_penalty, -2, 2)
        _check_integer("seed", self.seed, 0, 2**64 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, MOST_LOGPROBS)
        if not isinstance(self.prompt_logprobs, bool):
            raise ValueError(f"prompt_logprobs={_shown(self.prompt_logprobs)} must be true or false")
        if not isinstance(self.stop, list | tuple) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop={_shown(self.stop)} must be a list of strings that are not empty")
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens={self.min_tokens} must be at most max_tokens={self.max_tokens}")


def _check_integer(name: str, value: Any, lowest: int, highest: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name}={_shown(value)} must be a whole number")
    if int(value) < lowest or (highest is not None and int(value) > highest):
        between = f"between {lowest} and {highest}" if highest is not None else f"at least {lowest}"
        raise ValueError(f"{name}={_shown(value)} must be {between}")


def _check_number(name: str, value: Any, lowest: float, highest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}={_shown(value)} must be a number")
    if value < lowest or value > highest or value != value:  # the last is true of NaN
        raise ValueError(f"{name}={_shown(value)} must be between {lowest} and {highest}")


def _shown(value: Any) -> str:
    """A value for a message, shortened: it comes from a user."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a number of thousands of digits
        return "..."


# Serving.draft_tokens of the commands: an edited file gives 7.5 tokens a pass (benchmarks/prompt_lookup.md).
DRAFT_TOKENS = 8
# Serving.batches of the server: its slots are seldom all active.
SERVER_BATCHES = (1, 4)


@dataclasses.dataclass(frozen=True)
class Serving:
    """The sizes of an engine. Except for cache_dtype, they do not change what it generates.

    Attributes:
        slots: number of requests that are decoded together.
        context: maximum number of tokens of a prompt and its answer; 0: the longest window of the model's training.
        page: number of tokens in a page of the cache.
        cache_tokens: number of tokens that the cache holds, over all requests; 0: the context for every slot.
        chunks: sizes of the chunks in which prompts are processed, in ascending order.
        steps: number of tokens that every request generates in one dispatch.
        prefix_cache: whether requests share the pages of equal beginnings.
        batches: sizes of smaller batches that are compiled too, for when fewer requests are active; see decode.decode.
        draft_tokens: number of tokens that prompt lookup guesses at a time (speculation.py); 0: none.
        cache_dtype: the dtype of keys and values: "bfloat16", "float32", "int8"; None: the model's compute dtype.
    """

    slots: int = 8
    context: int = 0
    page: int = 16
    cache_tokens: int = 0
    chunks: tuple[int, ...] = (16, 128)
    steps: int = 4
    prefix_cache: bool = True
    batches: tuple[int, ...] = ()
    draft_tokens: int = 0
    cache_dtype: str | None = None

    def __post_init__(self):
        for name, lowest in (("slots", 1), ("page", 1), ("steps", 1), ("context", 0), ("cache_tokens", 0)):
            _check_integer(name, getattr(self, name), lowest)
        _check_integer("draft_tokens", self.draft_tokens, 0)
        if any(size < 1 for size in self.batches):
            raise ValueError(f"batches={self.batches} must be at least 1")
        if not self.chunks or min(self.chunks) < 1 or list(self.chunks) != sorted(set(self.chunks)):
            raise ValueError(f"chunks={self.chunks} must be one or more sizes of at least 1 in ascending order")
        if self.cache_dtype not in (None, "bfloat16", "float32", "int8"):
            raise ValueError(f"cache_dtype={self.cache_dtype!r} must be 'bfloat16', 'float32' or 'int8'")
