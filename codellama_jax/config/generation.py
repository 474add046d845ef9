"""Settings of generation, as plain dataclasses."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the tokens of a request are chosen.

    Attributes:
        max_tokens: maximum number of tokens to generate.
        temperature: divides the logits; 0 takes the most likely token.
        top_p: samples from the smallest set of tokens whose probability reaches this value.
        top_k: samples from this many of the most likely tokens; 0: all.
        min_p: samples from the tokens that are at least this much as likely as the most likely one; 0: all.
        repetition_penalty: divides the positive logits of the tokens in the prompt and the text, and multiplies the
            negative ones (arXiv 1909.05858); 1: none.
        seed: the same request with the same seed gives the same tokens.
        stop: strings that end the text. The text ends before the first of them.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens={self.max_tokens} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} must be at least 0 and finite")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} must be at least 0 (0: all tokens)")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must be between 0 and 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty={self.repetition_penalty} must be above 0")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed={self.seed} must be at least 0 and below 2**64")
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty")


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
        cache_dtype: the dtype of keys and values: "bfloat16", "float32", "int8"; None: the model's compute dtype.
    """

    slots: int = 8
    context: int = 0
    page: int = 16
    cache_tokens: int = 0
    chunks: tuple[int, ...] = (16, 128)
    steps: int = 4
    prefix_cache: bool = True
    cache_dtype: str | None = None

    def __post_init__(self):
        if min(self.slots, self.page, self.steps, *self.chunks) < 1 or min(self.context, self.cache_tokens) < 0:
            raise ValueError("slots, page, steps and chunks must be at least 1, context and cache_tokens at least 0")
        if list(self.chunks) != sorted(set(self.chunks)):
            raise ValueError(f"chunks={self.chunks} must be in ascending order")
        if self.cache_dtype not in (None, "bfloat16", "float32", "int8"):
            raise ValueError(f"cache_dtype={self.cache_dtype!r} must be 'bfloat16', 'float32' or 'int8'")
