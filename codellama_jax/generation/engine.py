"""Generates the answers of many requests together: requests join and leave a running batch.

    engine = Engine(weights, llama, Serving(slots=8), vocabulary=tokenizer.rows)
    request = engine.submit(prompt_ids, Sampling(max_tokens=64), stop_ids=(tokenizer.eos_id,))
    while not request.finished:
        engine.step()

A request's tokens are a function of the weights, its prompt and its settings alone. Every program has fixed shapes and
computes its rows independently, and random numbers are functions of (seed, position); the order of arrival, the other
requests, the sizes of pages and chunks and the prefix cache change nothing. There are as many programs as sizes of
chunks, and two more: one that fills a slot, and one that decodes.
"""

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError
from codellama_jax.generation import decode, forward
from codellama_jax.generation.kv_cache import OutOfPages, PagePool


class Request:
    """One prompt and its answer.

    Attributes:
        prompt: ids of the prompt.
        tokens: ids of the answer so far, without the stop id.
        finish_reason: "stop" (a stop id), "length", or what Engine.finish was called with; None while it runs.
        cached: number of tokens of the prompt that the prefix cache held.
        prefilled: number of tokens of the prompt that were processed.
    """

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        settings: Sampling,
        stop_ids: Sequence[int],
        allowed: np.ndarray | None,
    ):
        self.number = number  # in the order of arrival
        self.prompt, self.settings, self.stop_ids = [int(token) for token in prompt], settings, tuple(stop_ids)
        self.allowed = allowed
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.cached = self.prefilled = 0
        self.pages: list[int] = []
        self.done = 0  # number of tokens whose keys and values are in the cache
        self.slot: int | None = None

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def ids(self) -> list[int]:
        """Prompt and answer."""
        return self.prompt + self.tokens


class Engine:
    """A running batch.

    Args:
        weights: from forward.weights_of.
        llama: the model.
        serving: the sizes. Its context must be set.
        vocabulary: number of ids that may be generated; the model's further rows are padding.

    Attributes:
        compilations: number of programs compiled.
        pool: the pages of the cache.
    """

    def __init__(self, weights: forward.Weights, llama: Llama, serving: Serving, vocabulary: int):
        if serving.context < 2:
            raise ValueError("Serving.context must be at least 2")
        self.llama, self.serving, self.vocabulary = llama, serving, vocabulary
        self._weights = weights
        size, slots = serving.page, serving.slots
        # One page more: the steps of a dispatch may pass the end of a request.
        self._pages_per_slot = -(-(serving.context + serving.steps) // size)
        tokens = serving.cache_tokens or slots * self._pages_per_slot * size
        self.pool = PagePool(max(tokens // size, self._pages_per_slot), size, serving.prefix_cache)
        self._cache = forward.new_cache(llama, max(tokens // size, self._pages_per_slot), size)
        self._table = np.zeros((slots, self._pages_per_slot), np.int32)
        self._rows = decode.empty_rows(slots, llama.vocab_size)
        self._slots: list[Request | None] = [None] * slots
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self.compilations = self._submitted = 0
        self._prefill = {size: self._program(functools.partial(_prefill, llama), (1,)) for size in serving.chunks}
        self._fill = self._program(decode.fill_slot, (0,))
        self._decode = self._program(functools.partial(decode.decode, llama, vocabulary, serving.steps), (1, 2))

    def _program(self, function: Callable, donated: tuple[int, ...]) -> Callable:
        """A compiled function. Tracing counts its compilations."""

        def counted(*arguments: Any) -> Any:
            self.compilations += 1
            return function(*arguments)

        return jax.jit(counted, donate_argnums=donated)

    # --- requests

    def submit(
        self,
        prompt: Sequence[int],
        settings: Sampling,
        stop_ids: Sequence[int] = (),
        allowed: np.ndarray | None = None,
    ) -> Request:
        """Adds a request to the queue.

        Args:
            prompt: token ids, at least one.
            settings: how tokens are chosen. Stop strings are not read here (see stopping.TextStream).
            stop_ids: ids that end the answer, at most decode.STOP_IDS.
            allowed: bool [vocabulary], the tokens that may come first; None: all.

        Raises:
            UserError: the prompt is empty, or leaves no room for an answer, or has ids outside the vocabulary.
        """
        request = Request(self._submitted, prompt, settings, stop_ids, allowed)
        if not request.prompt:
            raise UserError("the prompt has no tokens")
        if len(request.prompt) >= self.serving.context:
            raise UserError(
                f"the prompt has {len(request.prompt):,} tokens; prompt and answer must fit"
                f" {self.serving.context:,}: shorten it"
            )
        if not 0 <= min(request.prompt) <= max(request.prompt) < self.llama.vocab_size:
            raise UserError(f"the prompt has ids outside 0 to {self.llama.vocab_size - 1}")
        if len(request.stop_ids) > decode.STOP_IDS:
            raise ValueError(f"{len(request.stop_ids)} stop ids; at most {decode.STOP_IDS} are possible")
        self._submitted += 1
        self._waiting.append(request)
        return request

    def finish(self, request: Request, reason: str = "stop") -> None:
        """Ends a request, wherever it is, and frees its pages."""
        if request.finished:
            return
        request.finish_reason = reason
        for queue in (self._waiting, self._prefilling):
            if request in queue:
                queue.remove(request)
        self._release(request)

    @property
    def busy(self) -> bool:
        """Whether a request is not finished."""
        return bool(self._waiting or self._prefilling or any(self._slots))

    # --- the loop

    def step(self) -> list[Request]:
        """One round: admits requests, processes one chunk of a prompt, and decodes some tokens of every active request.

        Returns:
            The requests that have new tokens or are finished.
        """
        self._admit()
        if self._prefilling:
            request = self._prefilling[0]
            self._prefill_next(request)
            if self._prefilling and self._prefilling[0] is request:
                self._prefilling.rotate(-1)  # prompts take turns, so that a long one does not delay a short one
        return self._decode_next()

    def warm_up(self) -> None:
        """Compiles every program, by running it without effect."""
        for size in self.serving.chunks:
            self._run_prefill(size, [], 0, np.zeros(self._pages_per_slot, np.int32))
        self._rows = self._fill(self._rows, *decode.slot_values(0, self.llama.vocab_size))
        self._cache, self._rows, *_ = self._decode(self._weights, self._cache, self._rows, self._table)
        jax.block_until_ready(self._cache)

    def _admit(self) -> None:
        """Gives free slots to waiting requests, in the order of arrival."""
        while self._waiting and None in self._slots:
            request = self._waiting[0]
            if -(-(len(request.ids) + self.serving.steps) // self.pool.size) > self.pool.available and any(self._slots):
                return
            self._waiting.popleft()
            request.slot = self._slots.index(None)
            self._slots[request.slot] = request
            request.pages = self.pool.find(request.ids[:-1])
            request.done = len(request.pages) * self.pool.size
            if not request.tokens:
                request.cached = request.done
            self._prefilling.append(request)

    def _prefill_next(self, request: Request) -> None:
        """Processes a chunk of the tokens before the last one; the last one is the first input of decoding."""
        tokens = request.ids[:-1]
        rest = len(tokens) - request.done
        if rest:
            size = next((size for size in self.serving.chunks if size >= rest), self.serving.chunks[-1])
            chunk = tokens[request.done : request.done + size]
            if not self._extend(request, request.done + len(chunk)):
                return
            self._run_prefill(size, chunk, request.done, self._table[request.slot])
            request.done += len(chunk)
            request.prefilled += len(chunk)
        if request.slot is not None and request.done == len(tokens) and self._extend(request, request.done + 1):
            self.pool.publish(tokens, request.pages)
            end = min(len(request.prompt) + request.settings.max_tokens, self.serving.context)
            allowed = None if request.tokens else request.allowed
            settings = request.settings, request.stop_ids, allowed
            values = decode.slot_values(request.slot, self.llama.vocab_size, request.ids, end, *settings)
            self._rows = self._fill(self._rows, *values)
            self._prefilling.popleft()

    def _run_prefill(self, size: int, chunk: Sequence[int], start: int, pages: np.ndarray) -> None:
        tokens, valid = np.zeros(size, np.int32), np.arange(size) < len(chunk)
        tokens[: len(chunk)] = chunk
        positions = np.where(valid, start + np.arange(size), 0).astype(np.int32)
        self._cache = self._prefill[size](
            self._weights, self._cache, tokens[None], positions[None], valid[None], pages[None]
        )

    def _decode_next(self) -> list[Request]:
        decoding = [request for request in self._slots if request is not None and request not in self._prefilling]
        for request in decoding:
            if request.slot is not None:  # it may have lost its slot to an earlier one
                self._extend(request, len(request.ids) + self.serving.steps)
        decoding = [request for request in decoding if request.slot is not None]
        if not decoding:
            return []
        self._cache, self._rows, tokens, emitted, active = self._decode(
            self._weights, self._cache, self._rows, self._table
        )
        tokens, emitted, active = np.asarray(tokens), np.asarray(emitted), np.asarray(active)
        for request in decoding:
            slot = request.slot
            assert slot is not None
            request.tokens += tokens[emitted[:, slot], slot].tolist()
            request.done = len(request.ids) - 1
            if not active[slot]:
                stopped = request.tokens and request.tokens[-1] in request.stop_ids
                if stopped:
                    request.tokens.pop()
                self.finish(request, "stop" if stopped else "length")
        return decoding

    # --- pages

    def _extend(self, request: Request, length: int) -> bool:
        """Gives a request pages for `length` tokens. Returns whether it has them.

        If no page is free, the request that arrived last gives up its pages: it is processed again later, up to where
        it was.
        """
        wanted = min(-(-length // self.pool.size), self._pages_per_slot)
        while len(request.pages) < wanted:
            try:
                request.pages.append(self.pool.allocate())
            except OutOfPages:
                last = max(filter(None, self._slots), key=lambda other: other.number)
                self._suspend(last)
                if last is request:
                    return False
        self._table[request.slot, : len(request.pages)] = request.pages
        return True

    def _suspend(self, request: Request) -> None:
        """Puts a request back into the queue."""
        if request in self._prefilling:
            self._prefilling.remove(request)
        self._release(request)
        self._waiting.appendleft(request)

    def _release(self, request: Request) -> None:
        """Takes the slot and the pages of a request; their content can still be found."""
        if request.slot is None:
            return
        self.pool.publish(request.ids[: request.done], request.pages)
        self.pool.release(request.pages)
        self._table[request.slot] = 0
        self._slots[request.slot] = None
        self._rows = self._fill(self._rows, *decode.slot_values(request.slot, self.llama.vocab_size))
        request.pages, request.done, request.slot = [], 0, None


def _prefill(llama: Llama, weights: forward.Weights, cache: forward.Cache, *inputs: jax.Array) -> forward.Cache:
    return forward.forward(weights, llama, cache, *inputs)[1]
