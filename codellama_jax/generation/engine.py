"""Generates the answers of many requests together: requests join and leave a running batch.

    engine = Engine(weights, llama, Serving(slots=8), vocabulary=tokenizer.rows)
    request = engine.submit(prompt_ids, Sampling(max_tokens=64), stop_ids=(tokenizer.eos_id,))
    while not request.finished:
        engine.step()

A request's tokens are a function of the weights, its prompt and its settings alone. Every program has fixed shapes and
computes its rows independently, and random numbers are functions of (seed, position); the order of arrival, the other
requests, the sizes of pages and chunks, the prefix cache and the guesses of speculation change nothing.

The programs are stated in programs.py; none is compiled after warm_up.
"""

from collections import deque
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.model import Llama
from codellama_jax.config.rope import check_length
from codellama_jax.errors import UserError
from codellama_jax.generation import forward, logprobs, rows, speculation
from codellama_jax.generation.kv_cache import OutOfPages, PagePool
from codellama_jax.generation.programs import Programs
from codellama_jax.generation.request import Request
from codellama_jax.generation.speculation import PromptLookup


class Engine:
    """A running batch.

    Args:
        weights: from forward.weights_of.
        llama: the model.
        serving: the sizes. Its context must be set.
        vocabulary: number of ids that may be generated; the model's further rows are padding.
        mesh: the devices of the weights (shards.py); None: one device.

    Raises:
        UserError: the rotary embedding is not defined for this context (config.rope.check_length).

    Attributes:
        pool: the pages of the cache.
        programs: the compiled programs.
    """

    def __init__(
        self, weights: forward.Weights, llama: Llama, serving: Serving, vocabulary: int, mesh: Mesh | None = None
    ):
        if serving.context < 2:
            raise ValueError("Serving.context must be at least 2")
        check_length(llama, serving.context)
        self.llama, self.serving, self.vocabulary, self.mesh = llama, serving, vocabulary, mesh
        size, slots = serving.page, serving.slots
        # The steps of a dispatch may pass the end of a request.
        self._pages_per_slot = -(-(serving.context + serving.steps) // size)
        pages = max((serving.cache_tokens or slots * self._pages_per_slot * size) // size, self._pages_per_slot)
        self.pool = PagePool(pages, size, serving.prefix_cache)
        self.programs = Programs(weights, llama, serving, vocabulary, pages, self._pages_per_slot, mesh)
        self._slots: list[Request | None] = [None] * slots
        self._waiting: deque[Request] = deque()
        self._prefilling: deque[Request] = deque()
        self._submitted = 0

    @property
    def compilations(self) -> int:
        """Number of programs compiled."""
        return self.programs.compilations

    # --- requests

    def submit(
        self,
        prompt: Sequence[int],
        settings: Sampling,
        stop_ids: Sequence[int] = (),
        allowed: np.ndarray | None = None,
        adapter: int = 0,
    ) -> Request:
        """Adds a request to the queue.

        Args:
            prompt: token ids, at least one.
            settings: how tokens are chosen. Stop strings are not read here (see stopping.TextStream).
            stop_ids: ids that end the answer, at most rows.STOP_IDS.
            allowed: bool [vocabulary], the tokens that may come first; None: all.
            adapter: number of the adapter (adapters.with_adapters), from 1; 0: none.

        Raises:
            UserError: the prompt is empty, or leaves no room for an answer, or has ids outside the vocabulary.
        """
        request = Request(self._submitted, prompt, settings, stop_ids, allowed, adapter)
        self.check(request.prompt, settings.max_tokens)
        if len(request.stop_ids) > rows.STOP_IDS:
            raise ValueError(f"{len(request.stop_ids)} stop ids; at most {rows.STOP_IDS} are possible")
        self._submitted += 1
        self._waiting.append(request)
        return request

    def check(self, prompt: Sequence[int], max_tokens: int) -> None:
        """Raises UserError for a prompt that `submit` refuses. May be called from any thread."""
        if not prompt:
            raise UserError("the prompt has no tokens")
        if len(prompt) + min(max_tokens, 1) > self.serving.context:
            raise UserError(
                f"the prompt has {len(prompt):,} tokens; prompt and answer must fit"
                f" {self.serving.context:,}: shorten it, or use a larger context"
            )
        if not 0 <= min(prompt) <= max(prompt) < self.llama.vocab_size:
            raise UserError(f"the prompt has ids outside 0 to {self.llama.vocab_size - 1}")

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
        """One round: admits requests, processes a chunk of every new prompt, and decodes some tokens of the others.

        Returns:
            The requests that have new tokens or are finished.
        """
        self._admit()
        return self._prefill_new() + self._decode_next()

    def warm_up(self) -> None:
        """Compiles every program, by running it without effect."""
        self.programs.warm_up()

    def _admit(self) -> None:
        """Gives free slots to waiting requests, in the order of arrival."""
        while self._waiting and None in self._slots:
            request = self._waiting[0]
            if -(-(request.length + self.serving.steps) // self.pool.size) > self.pool.available and any(self._slots):
                return
            self._waiting.popleft()
            request.slot = self._slots.index(None)
            self._slots[request.slot] = request
            self._prefilling.append(request)

    def _prefill_new(self) -> list[Request]:
        """Processes a chunk of every new prompt: while requests wait for the first one, their rows would be idle.

        The requests with the same prompt wait for one of them, to share its pages.

        Returns:
            The requests that are finished: they generate nothing.
        """
        finished, processed = list[Request](), list[tuple[int, list[int]]]()
        for request in list(self._prefilling):
            if request in self._prefilling and (request.adapter, request.prompt) not in processed:
                # it is in the queue still: it may have lost its slot
                finished += self._prefill_next(request)
                if request in self._prefilling:
                    processed.append((request.adapter, request.prompt))
        return finished

    def _prefill_next(self, request: Request) -> list[Request]:
        """Processes a chunk of the tokens before the last one; the last one is the first input of decoding.

        The prefix cache is searched only now, so that requests with one prompt that arrive together process it once.

        Returns:
            The request if it is finished: it generates nothing.
        """
        *tokens, last = request.ids
        if not request.started:
            request.started = True
            if request.needs_prompt_logprobs:
                request.prompt_logprobs = [None]
            else:
                request.pages = self.pool.find(tokens, request.adapter)
            request.done = len(request.pages) * self.pool.size
            if not request.prefilled and not request.tokens:  # later, these may be pages of its own
                request.cached = request.done
        rest = len(tokens) - request.done
        if rest:
            size = next((size for size in self.serving.chunks if size >= rest), self.serving.chunks[-1])
            chunk = tokens[request.done : request.done + size]
            if not self._extend(request, request.done + len(chunk)):
                return []
            wanted = request.needs_prompt_logprobs
            following = tokens[request.done + len(chunk)] if len(chunk) < rest else last
            # A copy: the program may read its arguments after this step has given the pages to another request.
            pages = self.programs.table[request.slot].copy()
            found = self.programs.prefill(size, chunk, following, request.done, pages, wanted, request.adapter)
            if wanted:
                targets = [*chunk[1:], following][: len(request.prompt) - len(request.prompt_logprobs)]
                request.prompt_logprobs += self._reported(request, targets, found, [(n,) for n in range(size)])
            request.done += len(chunk)
            request.prefilled += len(chunk)
        if request.done < len(tokens) or not self._extend(request, request.done + 1):
            return []
        self.pool.publish(tokens, request.pages, request.adapter)
        self._prefilling.remove(request)
        if request.settings.max_tokens == 0:
            self.finish(request, "length")
            return [request]
        end = min(len(request.prompt) + request.settings.max_tokens, self.serving.context)
        allowed = None if request.tokens else request.allowed
        text = request.prompt, request.tokens, end
        assert request.slot is not None
        self.programs.fill(request.slot, *text, request.settings, request.stop_ids, allowed, request.adapter)
        return []

    def _decode_next(self) -> list[Request]:
        decoding = [request for request in self._slots if request is not None and request not in self._prefilling]
        guesses = self._guesses(decoding)
        for request in decoding:
            if request.slot is not None:  # it may have lost its slot to an earlier one
                steps = self.serving.steps if guesses is None else len(guesses[request]) + 1
                self._extend(request, request.length + steps)
        decoding = [request for request in decoding if request.slot is not None]
        if not decoding:
            return []
        slots = [request.slot for request in decoding if request.slot is not None]
        batch = self.programs.batch(slots)
        if guesses is None:
            generated = self.programs.decode(batch)
        else:
            drafts = [guesses[request] for request in decoding]
            generated = self.programs.verify(batch, list(zip(slots, drafts, strict=True)))
        tokens, emitted, active = map(np.asarray, (generated.tokens, generated.emitted, generated.active))
        for request, slot in zip(decoding, slots, strict=True):
            row = batch.index(slot)
            count = int(emitted[:, row].sum())  # the first ones
            new = tokens[:count, row].tolist()
            stopped = bool(new) and not active[row] and new[-1] in request.stop_ids
            if request.lookup is not None:
                request.lookup.add(new)
            if guesses is not None:
                request.drafted += len(guesses[request])
                request.accepted += len(new) - 1
            if stopped:
                new.pop()
            request.tokens += new
            if request.settings.logprobs is not None:
                request.logprobs += self._reported(
                    request, new, generated.logprobs, [(step, row) for step in range(count)]
                )
            request.done = request.length - 1 + stopped
            if not active[row]:
                self.finish(request, "stop" if stopped else "length")
        return decoding

    def _guesses(self, decoding: Sequence[Request]) -> dict[Request, list[int]] | None:
        """The guesses of every active request, or None if they are not to be verified."""
        if not self.serving.draft_tokens or not decoding:
            return None
        guesses = {}
        for request in decoding:
            if request.lookup is None:
                request.lookup = PromptLookup(request.ids)
            left = min(len(request.prompt) + request.settings.max_tokens, self.serving.context) - request.length
            guesses[request] = request.lookup.guess(self.serving.draft_tokens)[: left - 1]
        cost = self.programs.verify_cost[len(self.programs.batch(range(len(decoding))))]
        pays = speculation.pays([request.lookup.expected for request in decoding if request.lookup], cost)
        return guesses if pays else None

    def _reported(
        self, request: Request, tokens: Sequence[int], found: logprobs.Logprobs, places: Sequence[tuple[int, ...]]
    ) -> list[logprobs.TokenLogprobs]:
        """The log-probabilities of some tokens of a request, at their places in what a program returned."""
        found = jax.tree.map(np.asarray, found)
        count = request.settings.logprobs or 0
        return [
            logprobs.reported(token, found, place, count, self.vocabulary)
            for token, place in zip(tokens, places, strict=False)
        ]

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
        self.programs.table[request.slot, : len(request.pages)] = request.pages
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
        self.pool.publish(request.ids[: request.done], request.pages, request.adapter)
        self.pool.release(request.pages)
        self.programs.table[request.slot] = 0
        self._slots[request.slot] = None
        self.programs.fill(request.slot)
        request.pages, request.done, request.slot, request.started = [], 0, None, False
