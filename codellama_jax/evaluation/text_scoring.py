"""Log-probabilities of long texts, also under another RoPE base or scale than the model's own.

The cache of keys and values holds one text, and a chunk of it is processed at a time: besides the cache, the memory
does not depend on the length of the text. The programs are those of the engine's prompts.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.model import Llama
from codellama_jax.config.rope import check_length, plain
from codellama_jax.generation import decode, forward, shards
from codellama_jax.kernels import row_products

CHUNK = 512  # tokens processed at a time

Rope = tuple[float, float]  # base and scale


class TextScorer:
    """Scores texts, one at a time.

    Args:
        weights: from forward.weights_of.
        llama: the model.
        vocabulary: number of ids that count; the model's further rows are padding.
        length: the most tokens of a text, with BOS.
        mesh: the devices of the weights; None: one device.
    """

    def __init__(self, weights: forward.Weights, llama: Llama, vocabulary: int, length: int, mesh: Mesh | None = None):
        check_length(llama, length)
        self.length = length
        self._llama, self._vocabulary, self._mesh = llama, vocabulary, mesh
        # the cache has the compute dtype, also if the engine's has 8-bit integers
        layers = [{name: array for name, array in layer.items() if name != "kv_scale"} for layer in weights["layers"]]
        self._weights = {**weights, "layers": layers}
        self._pages = np.arange(1, -(-(length + CHUNK) // forward.BLOCK) + 1, dtype=np.int32)[None]
        groups = shards.head_groups(llama, mesh, llama.compute_dtype)
        empty = functools.partial(forward.new_cache, llama, self._pages.size, forward.BLOCK, None, groups)
        self._cache = shards.zeros(mesh, empty, shards.CACHE)
        self._programs = dict[Rope | None, Callable]()

    def logprobs(
        self, ids: Sequence[int], rope: Rope | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> np.ndarray | None:
        """The log-probability of each token but the first one, given those before it, float32 [len(ids) - 1].

        Args:
            ids: the tokens, the first of which is BOS.
            rope: RoPE base and scale; None: the model's own.
            stopped: whether to stop, which returns None.
        """
        if not 1 < len(ids) <= self.length:
            raise ValueError(f"a text of {len(ids)} tokens, not of 2 to {self.length}")
        if rope not in self._programs:
            self._programs[rope] = self._program(rope)
        found = []
        for start in range(0, len(ids) - 1, CHUNK):
            if stopped():
                return None
            window = np.zeros(CHUNK + 1, np.int32)
            part = ids[start : start + CHUNK + 1]
            window[: len(part)] = part
            valid = np.arange(CHUNK) < len(part) - 1
            positions = np.where(valid, start + np.arange(CHUNK), 0).astype(np.int32)
            inputs = window[None, :-1], positions[None], valid[None], self._pages, window[1:], np.bool_(True)
            self._cache, scores = self._programs[rope](self._weights, self._cache, *inputs)
            found.append((scores.token, len(part) - 1))  # not fetched yet: the next chunk is dispatched meanwhile
        return np.concatenate([np.asarray(array)[:count] for array, count in found])

    def _program(self, rope: Rope | None) -> Callable:
        llama = self._llama
        if rope is not None:
            llama = plain(llama, *rope)
        prefill = functools.partial(decode.prefill, llama, self._vocabulary)
        program = shards.program(prefill, self._mesh, self._weights)
        return jax.jit(program, donate_argnums=1, compiler_options=row_products.compiler_options())
