"""What a stage measures of itself: validation loss, perplexity against context length, infilling samples."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.model.llama import hidden_states
from codellama_jax.sharding import batch_parts, constrain, spec
from codellama_jax.tokenizer import Order, Tokenizer
from codellama_jax.training.step import Params, make_loss, merged, stream_sums


class Evaluator:
    """Compiled validation passes for parameters of one shape.

    Args:
        config: the model.
        mesh: where it lies.
        mask_documents: as in training.
        streams: names of the streams, in the order of their ids.
    """

    def __init__(self, config: Llama, mesh: Mesh, mask_documents: bool, streams: Sequence[str]):
        self._config, self._mesh, self._streams = config, mesh, streams
        self._rows = batch_parts(mesh)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        # inference needs no rematerialisation
        loss = make_loss(dataclasses.replace(config, remat="none"), mask_documents, mesh)

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
        self._next = jax.jit(self._next_ids, out_shardings=self._replicated)

    def validation(self, params: Params, batches: Sequence[dict[str, jax.Array]]) -> dict[str, float]:
        """Mean loss in nats over all tokens, and over each stream's: loss, loss/STREAM."""
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
        """Perplexity of tokens by how much context they have.

        One pass over whole windows is enough: under causal attention the loss at position p is that of a context of p
        tokens.

        Args:
            params: the parameters.
            windows: ids [windows, length + 1], each a stretch of one document.
            trained_length: sets the lengths of the curve: trained_length / 8 times powers of two, up to `length`.

        Returns:
            lengths, and for each the perplexity of the tokens with more than half that context, up to all of it.
        """
        length = windows.shape[1] - 1
        lengths = [n for i in range(32) if (n := max(trained_length // 8, 1) << i) <= length]
        total = np.zeros(length)
        for start in range(0, len(windows), self._rows):
            part = windows[start : start + self._rows]
            losses = np.asarray(self._losses(params, self._put(_plain_batch(part, self._rows))), np.float64)
            total += losses[: len(part)].sum(0)
        nats = total / len(windows)
        starts = [0, *lengths[:-1]]
        perplexity = [math.exp(nats[a:b].mean()) for a, b in zip(starts, lengths, strict=True)]
        return {"lengths": lengths, "perplexity": perplexity}

    def greedy(self, params: Params, prompts: Sequence[np.ndarray], tokens: int, stop: int) -> list[list[int]]:
        """Up to `tokens` most probable ids after each prompt, without the id `stop` at which one ends.

        The whole sequence passes through the model for every token: simple, and enough for a few samples.
        """
        length = 1 << math.ceil(math.log2(max(len(prompt) for prompt in prompts) + tokens))
        rows = -(-len(prompts) // self._rows) * self._rows
        ids = np.zeros((rows, length), np.int32)
        ends = np.ones(rows, np.int32)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
            ends[row] = len(prompt)
        for _ in range(tokens):
            batch = self._put({"tokens": ids, "ends": np.repeat(ends[:, None], length, 1)})
            ids[np.arange(rows), ends] = np.asarray(self._next(params, batch))
            ends += 1
        results = []
        for row, prompt in enumerate(prompts):
            generated = ids[row, len(prompt) : ends[row]].tolist()
            results.append(generated[: generated.index(stop)] if stop in generated else generated)
        return results

    def _next_ids(self, params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        model = merged(self._config, params)
        tokens_BS = batch["tokens"]
        positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1]), tokens_BS.shape)
        x_BSD = hidden_states(model, self._config, tokens_BS, positions_BS, None, constrain)
        last_BD = jnp.take_along_axis(x_BSD, batch["ends"][:, :1, None] - 1, axis=1)[:, 0]
        return jnp.argmax(last_BD.astype(jnp.float32) @ model.head[...], axis=-1)

    def _put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Arrays that every host has whole, as global arrays."""
        sharding = NamedSharding(self._mesh, spec(("batch", "sequence")))
        return {name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for name, x in batch.items()}


def _plain_batch(windows: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Stretches of one document each as a batch of `rows`, the missing rows all padding."""
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


@dataclasses.dataclass(frozen=True)
class Hole:
    """A document with a hole to be filled: what stands before, in, and after it."""

    stream: str
    prefix: str
    middle: str
    suffix: str


def punch_holes(texts: Sequence[tuple[str, str]], count: int, characters: int) -> list[Hole]:
    """Takes the end of one line out of an excerpt of each text, up to `count` of them; the same ones each time.

    Args:
        texts: (stream, document); those without a line to choose are passed over.
        count: holes wanted.
        characters: length of an excerpt.
    """
    rng = np.random.default_rng(0)
    holes = []
    for stream, text in texts:
        starts = [0, *(match.end() for match in re.finditer("\n", text[: characters // 2]))]
        lines = [(start, text[start:].split("\n", 1)[0].rstrip()) for start in starts]
        lines = [(start, line) for start, line in lines if start and 20 <= len(line.strip()) <= 80]
        if not lines:
            continue
        start, line = lines[rng.integers(len(lines))]
        indent = len(line) - len(line.lstrip())
        cut = start + int(rng.integers(indent + 2, (indent + len(line)) // 2 + 1))
        end = start + len(line)
        holes.append(Hole(stream, text[:cut], text[cut:end], text[end:characters]))
    return holes[:count]


def infilling_samples(
    evaluator: Evaluator, params: Params, tokenizer: Tokenizer, holes: Sequence[Hole], tokens: int
) -> list[dict[str, Any]]:
    """Fills the holes greedily, in PSM and SPM order in turn; without infilling ids, continues the prefix."""
    if not holes:
        return []
    orders: list[Order | None] = [
        None if tokenizer.eot_id is None else ("psm", "spm")[i % 2] for i in range(len(holes))
    ]
    prompts = [
        np.array([tokenizer.bos_id, *tokenizer.encode(hole.prefix)], np.int32)
        if order is None
        else np.asarray(tokenizer.infilling_prompt(hole.prefix, hole.suffix, order), np.int32)
        for hole, order in zip(holes, orders, strict=True)
    ]
    stop = tokenizer.eos_id if tokenizer.eot_id is None else tokenizer.eot_id
    completions = evaluator.greedy(params, prompts, tokens, stop)
    return [
        {**dataclasses.asdict(hole), "order": order or "completion", "generated": tokenizer.decode_continuation(ids)}
        for hole, order, ids in zip(holes, orders, completions, strict=True)
    ]
