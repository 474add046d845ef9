"""The compiled programs of an engine, and the state on the device that they extend: weights, cache and slots.

There is one program for each size of a chunk; one that fills a slot; for each size of a batch one that decodes, and,
with Serving.draft_tokens, one that verifies guesses. Log-probabilities, penalties and filters are conditions inside
them, so that no request compiles anything.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.generation import Serving
from codellama_jax.config.model import Llama
from codellama_jax.generation import adapters, calibration, decode, forward, rows, shards
from codellama_jax.generation.decode import Generated
from codellama_jax.generation.logprobs import Logprobs
from codellama_jax.kernels import row_products

_VERIFY_COST = 2.0  # of a verification, in steps of decoding, before warm_up has measured it


class Programs:
    """The programs of one engine.

    Args:
        weights: from forward.weights_of.
        llama: the model.
        serving: the sizes.
        vocabulary: number of ids that may be generated; the model's further rows are padding.
        pages: number of pages of the cache.
        pages_per_slot: number of pages that a slot can have.
        mesh: the devices of the weights (shards.py); None: one device.

    Attributes:
        table: int32 [slots, pages_per_slot], the pages of each slot. The engine writes it.
        verify_cost: for each size of a batch, seconds of a verification over seconds of a step of decoding.
    """

    def __init__(
        self,
        weights: forward.Weights,
        llama: Llama,
        serving: Serving,
        vocabulary: int,
        pages: int,
        pages_per_slot: int,
        mesh: Mesh | None = None,
    ):
        self._llama, self._serving, self._mesh = llama, serving, mesh
        dtype = serving.cache_dtype or llama.compute_dtype
        self._weights = calibration.with_scales(weights, llama, mesh) if dtype == "int8" else weights
        groups = shards.head_groups(llama, mesh, dtype)
        empty = functools.partial(forward.new_cache, llama, pages, serving.page, dtype, groups)
        self._cache = shards.zeros(mesh, empty, shards.CACHE)
        self._adapters = adapters.are_in(weights)
        self._rows = shards.zeros(mesh, lambda: rows.empty(serving.slots, llama.vocab_size, self._adapters))
        self.table = np.zeros((serving.slots, pages_per_slot), np.int32)
        self._compiled: list[Callable] = []  # the function of each program
        self._sizes = sorted({*(size for size in serving.batches if size < serving.slots), serving.slots})
        self.verify_cost = dict.fromkeys(self._sizes, _VERIFY_COST)
        self._fill = self._program(rows.fill_slot, (0,), model=False)
        prefill = functools.partial(decode.prefill, llama, vocabulary)
        steps = functools.partial(decode.decode, llama, vocabulary, serving.steps)
        verify = functools.partial(decode.verify, llama, vocabulary)
        self._prefill = {size: self._program(prefill, (1,)) for size in serving.chunks}
        self._decode = {size: self._program(steps, (1, 2)) for size in self._sizes}
        self._verify = {size: self._program(verify, (1, 2)) for size in self._sizes}

    @property
    def compilations(self) -> int:
        """Number of programs compiled."""
        return len(self._compiled)

    def _program(self, function: Callable, donated: tuple[int, ...], model: bool = True) -> Callable:
        """A compiled function; with `model`, of weights, cache and others. Tracing counts its compilations."""
        function = shards.program(function, self._mesh, self._weights if model else None)
        compiled = self._compiled  # not self: weights and cache would be in a cycle, and outlive the engine

        def counted(*arguments: Any) -> Any:
            compiled.append(function)
            return function(*arguments)

        return jax.jit(counted, donate_argnums=donated, compiler_options=row_products.compiler_options())

    def warm_up(self) -> None:
        """Compiles every program, by running it without effect, and measures the costs of verifications."""
        for size in self._serving.chunks:
            self.prefill(size, [], 0, 0, np.zeros(self.table.shape[1], np.int32), False)
        self.fill(0)
        for size in self._sizes:
            slots = range(size)
            self.decode(slots)
            if self._serving.draft_tokens:
                self.verify(slots, [])
                runs = functools.partial(self.verify, slots, []), functools.partial(self.decode, slots)
                pairs = [[_seconds(run) for run in runs] for _ in range(7)]
                verification, dispatch = map(min, zip(*pairs, strict=True))
                self.verify_cost[size] = verification * self._serving.steps / dispatch

    def fill(self, slot: int, *values: Any) -> None:
        """Sets the state of a slot; without values, the slot becomes inactive. See rows.slot_values."""
        self._rows = self._fill(self._rows, *rows.slot_values(slot, self._llama.vocab_size, *values))

    def prefill(
        self,
        size: int,
        chunk: Sequence[int],
        last: int,
        start: int,
        pages: np.ndarray,
        wanted: bool,
        adapter: int = 0,
    ) -> Logprobs:
        """Processes a chunk of a prompt; see decode.prefill.

        Args:
            size: one of Serving.chunks.
            chunk: at most so many tokens.
            last: the token after them.
            start: the position of the first one.
            pages: the pages of the prompt.
            wanted: whether log-probabilities are computed.
            adapter: number of the adapter, 0 for none.
        """
        tokens, valid = np.zeros(size + 1, np.int32), np.arange(size) < len(chunk)
        tokens[: len(chunk) + 1] = [*chunk, last]
        positions = np.where(valid, start + np.arange(size), 0).astype(np.int32)
        inputs = tokens[None, :-1], positions[None], valid[None], pages[None], tokens[1:], np.bool_(wanted)
        chosen = (np.full(1, adapter, np.int32),) if self._adapters else ()
        self._cache, found = self._prefill[size](self._weights, self._cache, *inputs, *chosen)
        return found

    def batch(self, active: Sequence[int]) -> list[int]:
        """The slots of the smallest batch that has room for the active ones: these come first."""
        size = next(size for size in self._sizes if size >= len(active))
        if size == self._serving.slots:
            return list(range(size))
        inactive = (slot for slot in range(self._serving.slots) if slot not in active)
        return [*active, *(slot for slot, _ in zip(inactive, range(size - len(active)), strict=False))]

    def decode(self, batch: Sequence[int]) -> Generated:
        """Decodes the next tokens of the active slots of a batch."""
        inputs = self._rows, self.table, np.array(batch, np.int32)
        self._cache, self._rows, generated = self._decode[len(batch)](self._weights, self._cache, *inputs)
        return generated

    def verify(self, batch: Sequence[int], guesses: Sequence[tuple[int, list[int]]]) -> Generated:
        """Verifies the guesses of some slots of a batch; the other active ones generate one token."""
        drafts = np.zeros((len(batch), self._serving.draft_tokens), np.int32)
        drafted = np.zeros(len(batch), np.int32)
        for slot, guess in guesses:
            row = batch.index(slot)
            drafts[row, : len(guess)], drafted[row] = guess, len(guess)
        inputs = self._rows, self.table, np.array(batch, np.int32), drafts, drafted
        self._cache, self._rows, generated = self._verify[len(batch)](self._weights, self._cache, *inputs)
        return generated


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
