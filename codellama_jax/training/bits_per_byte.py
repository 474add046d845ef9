"""Bits per byte of the gold texts of benchmarks: how likely a model finds the right answers, without generating any.

The measure of a benchmark is the sum of -log2 p(token | prompt, tokens before) over the tokens of all its gold texts,
divided by the bytes of those texts, as OLMo-core measures HumanEval and MBPP during training. Unlike pass@1 it moves
from the first steps on, and no program runs.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.config.training import Stage
from codellama_jax.sharding import batch_parts, put_copies
from codellama_jax.training.passages import Passage, batch_shape, packed, passages
from codellama_jax.training.step import Params, make_loss

if TYPE_CHECKING:
    from codellama_jax.evaluation.gold import GoldText


class BitsPerByte:
    """Measures the bits per byte of gold texts. The program is compiled once: all batches have one shape.

    Texts of different tasks share windows of the stage's length, and do not attend to each other. A gold text that does
    not fit into a window with its prompt is scored in parts: every token is scored once, those of later parts with the
    tokens before them that fit.

    Args:
        llama: the model.
        mesh: mesh of its parameters.
        stage: the stage, whose windows and micro-batches bound the shape of the batches.
        texts: the gold texts.

    Attributes:
        batches: the batches, arrays [windows of a batch, length]. `benchmarks` has for every position the index of the
            benchmark that its target counts for, or the number of benchmarks where it counts for none.
        tokens: number of positions in all batches, including padding.
    """

    def __init__(self, llama: Llama, mesh: Mesh, stage: Stage, texts: Sequence["GoldText"]):
        self._mesh = mesh
        self._names = list(dict.fromkeys(text.benchmark for text in texts))
        self._bytes = {name: sum(text.nbytes for text in texts if text.benchmark == name) for name in self._names}
        self._shortened = {name: sum(t.shortened for t in texts if t.benchmark == name) for name in self._names}
        length = stage.sequence_length
        index = {name: i for i, name in enumerate(self._names)}
        found = [passages(text.prompt, text.gold, index[text.benchmark], length) for text in texts]
        windows = packed([passage for each in found for passage in each], length)
        count, rows = batch_shape(len(windows), stage.batch_size // stage.micro_batches, batch_parts(mesh))
        self.batches = [
            _batch(windows[start : start + rows], rows, length, len(self._names))
            for start in range(0, count * rows, rows)
        ]
        self.tokens = count * rows * length

        # inference needs no rematerialisation
        loss = make_loss(dataclasses.replace(llama, remat="none", offload=""), True, mesh)

        def losses(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
            return loss(params, batch)[1]

        self._losses = jax.jit(losses, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def measure(self, params: Params) -> dict[str, float | int]:
        """bits_per_byte/NAME of every benchmark; shortened/NAME, its number of shortened prompts, where there are any.

        Every process of the mesh must call it; all return the same.
        """
        losses = []
        for batch in self.batches:
            inputs = {name: array for name, array in batch.items() if name != "benchmarks"}
            losses.append(self._losses(params, put_copies(self._mesh, inputs)))  # returns before it is computed
        nats = np.zeros(len(self._names) + 1)
        for batch, values in zip(self.batches, losses, strict=True):
            weights = np.asarray(values, np.float64).ravel()
            nats += np.bincount(batch["benchmarks"].ravel(), weights, len(nats))
        result: dict[str, float | int] = {}
        for name, total in zip(self._names, nats, strict=False):
            result[f"bits_per_byte/{name}"] = float(total / math.log(2) / self._bytes[name])
        return result | {f"shortened/{name}": count for name, count in self._shortened.items() if count}


def _batch(windows: Sequence[Sequence[Passage]], rows: int, length: int, benchmarks: int) -> dict[str, np.ndarray]:
    """The arrays of a batch. Padding is a segment of its own in every window."""
    batch = {name: np.zeros((rows, length), np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
    batch["benchmarks"] = np.full((rows, length), benchmarks, np.int32)
    for row, window in enumerate(windows):
        start = 0
        for number, passage in enumerate(window, start=1):
            end = start + passage.positions
            batch["tokens"][row, start:end] = passage.ids[:-1]
            batch["targets"][row, start:end] = passage.ids[1:]
            batch["positions"][row, start:end] = np.arange(passage.positions)
            batch["segment_ids"][row, start:end] = number
            batch["benchmarks"][row, end - passage.scored : end] = passage.benchmark
            start = end
    return batch | {"loss_weights": np.ones((rows, length), np.float32)}
