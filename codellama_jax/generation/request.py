"""One prompt and its answer."""

from collections.abc import Sequence

import numpy as np

from codellama_jax.config.generation import Sampling
from codellama_jax.generation.logprobs import TokenLogprobs
from codellama_jax.generation.speculation import PromptLookup


class Request:
    """One prompt and its answer.

    Attributes:
        prompt: ids of the prompt.
        tokens: ids of the answer so far, without the stop id.
        logprobs: log-probabilities of the tokens, if Sampling.logprobs asks for them; otherwise empty.
        prompt_logprobs: those of the prompt, None for its first token, if Sampling.prompt_logprobs asks for them. They
            are complete before the first token is generated.
        finish_reason: "stop" (a stop id), "length", or what Engine.finish was called with; None while it runs.
        cached: number of tokens of the prompt that the prefix cache held.
        prefilled: number of tokens that were processed in chunks: the rest of the prompt, and after an interruption
            those of prompt and answer that the cache has lost.
        drafted: number of tokens that were guessed and verified.
        accepted: number of tokens that were guessed right.
        adapter: number of its adapter, 0 for none.
    """

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        settings: Sampling,
        stop_ids: Sequence[int],
        allowed: np.ndarray | None,
        adapter: int = 0,
    ):
        self.number = number  # in the order of arrival
        self.prompt, self.settings, self.stop_ids = [int(token) for token in prompt], settings, tuple(stop_ids)
        self.allowed, self.adapter = allowed, adapter
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs | None] = []
        self.finish_reason: str | None = None
        self.cached = self.prefilled = self.drafted = self.accepted = 0
        self.pages: list[int] = []
        self.done = 0  # number of tokens whose keys and values are in the cache
        self.started = False  # whether the prefix cache was searched
        self.slot: int | None = None
        self.lookup: PromptLookup | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def ids(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.tokens

    @property
    def length(self) -> int:
        """Number of tokens of prompt and answer."""
        return len(self.prompt) + len(self.tokens)

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of the prompt are missing."""
        return self.settings.prompt_logprobs and len(self.prompt_logprobs) < len(self.prompt)
