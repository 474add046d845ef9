"""Validation: loss of the validation batches, and perplexity by context length."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.sharding import batch_parts, put_copies
from codellama_jax.training.step import Params, make_loss, stream_sums


class Evaluator:
    """Compiled validation passes for parameters of one shape.

    Args:
        llama: the model.
        mesh: mesh of its parameters.
        mask_documents: whether documents of a window are masked from each other, as in training.
        streams: names of the streams, in the order of their ids.
    """

    def __init__(self, llama: Llama, mesh: Mesh, mask_documents: bool, streams: Sequence[str]):
        self.llama, self._mesh, self._streams = llama, mesh, streams
        self._rows = batch_parts(mesh)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        # inference needs no rematerialisation
        loss = make_loss(dataclasses.replace(llama, remat="none"), mask_documents, mesh)

        def losses(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
            return loss(params, batch)[1]

        def sums(params: Params, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
            weights = batch["loss_weights"]
            weighted = losses(params, batch) * weights
            return (
                stream_sums(weighted, batch["stream_ids"], len(streams)),
                stream_sums(weights, batch["stream_ids"], len(streams)),
            )

        self._sums = jax.jit(sums, out_shardings=self._replicated)
        self._losses = jax.jit(losses, out_shardings=self._replicated)

    def validation(self, params: Params, batches: Sequence[dict[str, jax.Array]]) -> dict[str, float]:
        """Mean loss in nats over all tokens (loss), and over the tokens of each stream (loss/STREAM)."""
        totals = np.zeros((2, len(self._streams)))
        for batch in batches:
            totals += np.asarray(self._sums(params, batch), np.float64)
        losses, weights = totals
        result = {"loss": float(losses.sum() / max(weights.sum(), 1))}
        for name, loss, weight in zip(self._streams, losses, weights, strict=True):
            if weight:
                result[f"loss/{name}"] = float(loss / weight)
        return result

    def context_curve(self, params: Params, windows: np.ndarray, trained_length: int) -> dict[str, Any]:
        """Perplexity of tokens by the length of their context.

        One pass over each window is enough: attention is causal, so the token at position p has a context of p tokens.

        Args:
            params: the parameters.
            windows: token ids [windows, length + 1]; the tokens of a window are consecutive in one document.
            trained_length: the curve has the lengths trained_length / 8 times powers of two, up to `length`.

        Returns:
            lengths: context lengths.
            perplexity: for each length, of the tokens whose context is at most that long, but longer than the length
            before it.
        """
        length = windows.shape[1] - 1
        lengths = [n for i in range(32) if (n := max(trained_length // 8, 1) << i) <= length]
        total = np.zeros(length)
        for start in range(0, len(windows), self._rows):
            part = windows[start : start + self._rows]
            losses = self._losses(params, put_copies(self._mesh, _plain_batch(part, self._rows)))
            total += np.asarray(losses, np.float64)[: len(part)].sum(0)
        nats = total / len(windows)
        starts = [0, *lengths[:-1]]
        perplexity = [math.exp(nats[a:b].mean()) for a, b in zip(starts, lengths, strict=True)]
        return {"lengths": lengths, "perplexity": perplexity}


def _plain_batch(windows: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """A batch of `rows` rows: windows of one document each, then padding."""
    padded = np.zeros((rows, windows.shape[1]), np.int32)
    padded[: len(windows)] = windows
    positions = np.broadcast_to(np.arange(windows.shape[1] - 1, dtype=np.int32), (rows, windows.shape[1] - 1))
    return {
        "tokens": padded[:, :-1],
        "targets": padded[:, 1:],
        "positions": positions,
        "segment_ids": np.ones_like(positions),
        "loss_weights": np.ones(positions.shape, np.float32),
    }
