"""The programs that generate: one processes a chunk of a prompt, two extend the answers of all slots."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from codellama_jax.config.model import Llama
from codellama_jax.generation import forward, logprobs, sampling
from codellama_jax.generation.forward import Cache
from codellama_jax.generation.logprobs import Logprobs
from codellama_jax.generation.rows import Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Generated:
    """What a program generated.

    Attributes:
        tokens: int32 [steps, S].
        emitted: bool [steps, S], which of them belong to an answer.
        logprobs: [steps, S], zeros if no active slot reports them.
        active: bool [S], the slots that are still active.
    """

    tokens: jax.Array
    emitted: jax.Array
    logprobs: Logprobs
    active: jax.Array


def prefill(
    llama: Llama,
    vocabulary: int,
    weights: forward.Weights,
    cache: Cache,
    tokens_SC: jax.Array,
    positions_SC: jax.Array,
    valid_SC: jax.Array,
    table_SM: jax.Array,
    next_C: jax.Array,
    wanted: jax.Array,
) -> tuple[Cache, Logprobs]:
    """Processes a chunk of one prompt.

    Args:
        llama, vocabulary: see decode.
        weights, cache, tokens_SC, positions_SC, valid_SC, table_SM: see forward.forward. There is one row.
        next_C: the token after each one.
        wanted: whether the log-probabilities of these are computed, a scalar.

    Returns:
        The new cache, and the log-probabilities of next_C, [C]; zeros unless wanted.
    """
    x_SCD, cache = forward.forward(weights, llama, cache, tokens_SC, positions_SC, valid_SC, table_SM)

    def computed(x_CD: jax.Array) -> Logprobs:
        return logprobs.of_tokens(_logits(llama, vocabulary, weights, x_CD), next_C)

    return cache, _if(wanted, computed, x_SCD[0])


def decode(
    llama: Llama,
    vocabulary: int,
    steps: int,
    weights: forward.Weights,
    cache: Cache,
    rows: Rows,
    table_SM: jax.Array,
) -> tuple[Cache, Rows, Generated]:
    """Decodes the next tokens of every active slot.

    Args:
        llama: the model.
        vocabulary: number of ids that may be generated; further rows are padding.
        steps: number of tokens.
        weights, cache, table_SM: see forward.forward.
        rows: the state of the slots.

    Returns:
        The new cache and state, and what was generated.
    """

    def one(carry: tuple[Cache, Rows], _: None) -> tuple[tuple[Cache, Rows], tuple[jax.Array, jax.Array, Logprobs]]:
        cache, rows = carry
        x_SCD, cache = forward.forward(
            weights,
            llama,
            cache,
            rows.token[:, None],
            jnp.where(rows.active, rows.position, 0)[:, None],
            rows.active[:, None],
            table_SM,
        )
        emitted = rows.active
        token, reported = _chosen(rows, _logits(llama, vocabulary, weights, x_SCD[:, 0]), emitted)
        return (cache, _extended(rows, token, emitted)), (token, emitted, reported)

    (cache, rows), generated = jax.lax.scan(one, (cache, rows), length=steps)
    return cache, rows, Generated(*generated, rows.active)


def verify(
    llama: Llama,
    vocabulary: int,
    weights: forward.Weights,
    cache: Cache,
    rows: Rows,
    table_SM: jax.Array,
    drafts_SC: jax.Array,
    drafted_S: jax.Array,
) -> tuple[Cache, Rows, Generated]:
    """Generates the next tokens of every active slot in one pass, as long as they are those of a draft.

    The token at a position is a function of the logits, the seed and the position. So the tokens are those that
    `decode` gives: a draft decides only how many there are.

    Args:
        llama, vocabulary, weights, cache, rows, table_SM: see decode.
        drafts_SC: the tokens that may come next; C is one less than the tokens that a slot can get.
        drafted_S: number of tokens of each draft. A slot without a draft gets one token.

    Returns:
        The new cache and state, and what was generated, with C + 1 steps.
    """
    count = drafts_SC.shape[1] + 1
    tokens_SC = jnp.concatenate([rows.token[:, None], drafts_SC], axis=1)
    offsets = jnp.arange(count, dtype=jnp.int32)[None, :]
    valid_SC = rows.active[:, None] & (offsets <= drafted_S[:, None])
    positions_SC = jnp.where(valid_SC, rows.position[:, None] + offsets, 0)
    x_SCD, cache = forward.forward(weights, llama, cache, tokens_SC, positions_SC, valid_SC, table_SM)
    logits_SCV = _logits(llama, vocabulary, weights, x_SCD)
    # the draft at the end never counts: there is no draft after C tokens
    expected_SC = jnp.where(offsets < drafted_S[:, None], jnp.pad(drafts_SC, ((0, 0), (0, 1))), -1)

    def one(
        carry: tuple[Rows, jax.Array], inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[Rows, jax.Array], tuple[jax.Array, jax.Array, Logprobs]]:
        (rows, emitted), (logits_SV, expected_S) = carry, inputs
        token, reported = _if(jnp.any(emitted), _chosen, rows, logits_SV, emitted)
        rows = _extended(rows, token, emitted)
        return (rows, emitted & rows.active & (token == expected_S)), (token, emitted, reported)

    inputs = logits_SCV.swapaxes(0, 1), expected_SC.T
    (rows, _), generated = jax.lax.scan(one, (rows, rows.active), inputs)
    return cache, rows, Generated(*generated, rows.active)


def _logits(llama: Llama, vocabulary: int, weights: forward.Weights, x: jax.Array) -> jax.Array:
    """The logits of outputs of the final norm, -inf for the ids that are padding."""
    logits = forward.logits(weights, x)
    padding = jnp.arange(llama.vocab_size) >= vocabulary
    return jnp.where(padding.reshape((1,) * (logits.ndim - 1) + (-1,)), -jnp.inf, logits)


def _if(wanted: jax.Array, function: Callable, *arguments: Any) -> Any:
    """What a function returns, or zeros in its shapes if that is not wanted."""

    def zeros(*arguments: Any) -> Any:
        return jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), jax.eval_shape(function, *arguments))

    return jax.lax.cond(wanted, function, zeros, *arguments)


def _chosen(rows: Rows, logits_SV: jax.Array, emitted: jax.Array) -> tuple[jax.Array, Logprobs]:
    """The next token of each slot, and its log-probabilities, for the slots `emitted`."""
    position = rows.position + 1
    too_early = position < rows.stops_from

    def without_stops(logits_SV: jax.Array) -> jax.Array:
        outside = logits_SV.shape[1]
        stops = jnp.where(too_early[:, None] & (rows.stops >= 0), rows.stops, outside)
        return logits_SV.at[jnp.arange(len(stops))[:, None], stops].set(-jnp.inf, mode="drop")

    possible_SV = jax.lax.cond(jnp.any(too_early), without_stops, lambda x: x, logits_SV)
    token = sampling.sample(possible_SV, rows.sampling, position)
    return token, _if(jnp.any(emitted & rows.logprobs), logprobs.of_tokens, logits_SV, token)


def _extended(rows: Rows, token: jax.Array, emitted: jax.Array) -> Rows:
    """The state after the next token of the slots `emitted`."""
    position = rows.position + 1
    ended = (position + 1 >= rows.end) | jnp.any(token[:, None] == rows.stops, axis=1)
    slots = jnp.arange(len(token))
    seen = rows.sampling.seen.at[slots, token].max(emitted)
    counts = rows.sampling.counts.at[slots, token].add(emitted.astype(jnp.int32))
    return dataclasses.replace(
        rows,
        token=jnp.where(emitted, token, rows.token),
        position=jnp.where(emitted, position, rows.position),
        active=rows.active & ~(emitted & ended),
        sampling=dataclasses.replace(rows.sampling, seen=seen, counts=counts),
    )
