"""The programs that generate: the state of the slots on the device, and the steps that extend it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codellama_jax.config.generation import Sampling
from codellama_jax.config.model import Llama
from codellama_jax.generation import forward, sampling, shards
from codellama_jax.generation.forward import Cache
from codellama_jax.generation.sampling import RowSampling

STOP_IDS = 8  # the most stop ids of a slot


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Rows:
    """The state of the slots on the device.

    Attributes:
        token: int32 [S], the last token, whose keys and values are not in the cache yet.
        position: int32 [S], its position.
        end: int32 [S], the position after the last token that may be generated.
        active: bool [S].
        stops: int32 [S, STOP_IDS], padded with -1.
        sampling: the settings of sampling.
    """

    token: jax.Array
    position: jax.Array
    end: jax.Array
    active: jax.Array
    stops: jax.Array
    sampling: RowSampling


def empty_rows(slots: int, vocab_size: int) -> Rows:
    """The state of inactive slots. Each array has a buffer of its own, since the programs reuse the buffers."""
    return Rows(
        token=jnp.zeros(slots, jnp.int32),
        position=jnp.zeros(slots, jnp.int32),
        end=jnp.zeros(slots, jnp.int32),
        active=jnp.zeros(slots, bool),
        stops=jnp.full((slots, STOP_IDS), -1, jnp.int32),
        sampling=sampling.empty(slots, vocab_size),
    )


def decode(
    llama: Llama,
    vocabulary: int,
    steps: int,
    weights: forward.Weights,
    cache: Cache,
    rows: Rows,
    table_SM: jax.Array,
) -> tuple[Cache, Rows, jax.Array, jax.Array, jax.Array]:
    """Decodes the next tokens of every active slot.

    Args:
        llama: the model.
        vocabulary: number of ids that may be generated; further rows are padding.
        steps: number of tokens.
        weights, cache, table_SM: see forward.forward.
        rows: the state of the slots.

    Returns:
        The new cache and state; the tokens, int32 [steps, S]; which of them were generated, bool [steps, S]; and which
        slots are still active, bool [S].
    """
    padding = (jnp.arange(llama.vocab_size) >= vocabulary)[None, :]

    def one(carry: tuple[Cache, Rows], _: None) -> tuple[tuple[Cache, Rows], tuple[jax.Array, jax.Array]]:
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
        logits_SV = jnp.where(padding, -jnp.inf, forward.logits(weights, x_SCD[:, 0]))
        position = rows.position + 1
        token = shards.by_rows(sampling.sample, logits_SV, rows.sampling, position)
        emitted = rows.active
        active = emitted & (position + 1 < rows.end) & ~jnp.any(token[:, None] == rows.stops, axis=1)
        slots = jnp.arange(len(token))
        seen = rows.sampling.seen.at[slots, token].max(emitted)
        rows = Rows(
            token=jnp.where(emitted, token, rows.token),
            position=jnp.where(emitted, position, rows.position),
            end=rows.end,
            active=active,
            stops=rows.stops,
            sampling=dataclasses.replace(rows.sampling, seen=seen),
        )
        return (cache, rows), (token, emitted)

    (cache, rows), (tokens, emitted) = jax.lax.scan(one, (cache, rows), length=steps)
    return cache, rows, tokens, emitted, rows.active


def slot_values(
    slot: int,
    vocab_size: int,
    ids: Sequence[int] = (),
    end: int = 0,
    settings: Sampling | None = None,
    stop_ids: Sequence[int] = (),
    allowed_first: np.ndarray | None = None,
) -> tuple[Any, ...]:
    """The arguments of fill_slot after the rows.

    Args:
        slot: the slot.
        vocab_size: rows of the model's vocabulary.
        ids: prompt and text so far; none: the slot becomes inactive.
        end: the position after the last token that may be generated.
        settings: how tokens are chosen.
        stop_ids: ids that end the text, at most STOP_IDS.
        allowed_first: bool, the ids that may come next; None: all.
    """
    seen, allowed = np.zeros(vocab_size, bool), np.ones(vocab_size, bool)
    stops = np.full(STOP_IDS, -1, np.int32)
    stops[: len(stop_ids)] = stop_ids
    seen[list(ids)] = True
    if allowed_first is not None:
        allowed[: len(allowed_first)] = allowed_first
    where = np.array([ids[-1], len(ids) - 1, end] if ids else [0, 0, 0], np.int32)
    first = np.int32(-1 if allowed_first is None else len(ids))
    return np.int32(slot), where, bool(ids), stops, _packed(settings or Sampling()), seen, allowed, first


def _packed(settings: Sampling) -> tuple[np.ndarray, np.int32, np.ndarray]:
    """The settings as arrays: floats, top_k, and the seed."""
    floats = [settings.temperature, settings.top_p, settings.min_p, settings.repetition_penalty]
    key = np.array([settings.seed >> 32, settings.seed & 0xFFFFFFFF], np.uint32)
    return np.array(floats, np.float32), np.int32(min(settings.top_k, 2**31 - 1)), key


def fill_slot(
    rows: Rows,
    slot: jax.Array,
    where: jax.Array,
    active: jax.Array,
    stops: jax.Array,
    packed: tuple[jax.Array, ...],
    seen: jax.Array,
    allowed: jax.Array,
    first: jax.Array,
) -> Rows:
    """Sets the state of one slot. `where` has the last token, its position, and the end."""
    floats, top_k, key = packed
    old = rows.sampling
    return Rows(
        token=rows.token.at[slot].set(where[0]),
        position=rows.position.at[slot].set(where[1]),
        end=rows.end.at[slot].set(where[2]),
        active=rows.active.at[slot].set(active),
        stops=rows.stops.at[slot].set(stops),
        sampling=RowSampling(
            temperature=old.temperature.at[slot].set(floats[0]),
            top_p=old.top_p.at[slot].set(floats[1]),
            min_p=old.min_p.at[slot].set(floats[2]),
            penalty=old.penalty.at[slot].set(floats[3]),
            top_k=old.top_k.at[slot].set(top_k),
            key=old.key.at[slot].set(key),
            seen=old.seen.at[slot].set(seen),
            allowed=old.allowed.at[slot].set(allowed),
            first=old.first.at[slot].set(first),
        ),
    )
