"""The state of the slots on the device, from the settings of their requests."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codellama_jax.config.generation import Sampling
from codellama_jax.generation import sampling
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
        stops_from: int32 [S], the first position at which a stop id may be generated.
        logprobs: bool [S], whether log-probabilities are reported.
        sampling: the settings of sampling.
        adapter: int32 [S], the number of the adapter, 0 for none; None: the model has no adapters.
    """

    token: jax.Array
    position: jax.Array
    end: jax.Array
    active: jax.Array
    stops: jax.Array
    stops_from: jax.Array
    logprobs: jax.Array
    sampling: RowSampling
    adapter: jax.Array | None = None


def empty(slots: int, vocab_size: int, adapters: bool = False) -> Rows:
    """The state of inactive slots, which may have adapters.

    Each array has a buffer of its own, since the programs reuse the buffers.
    """
    return Rows(
        token=jnp.zeros(slots, jnp.int32),
        position=jnp.zeros(slots, jnp.int32),
        end=jnp.zeros(slots, jnp.int32),
        active=jnp.zeros(slots, bool),
        stops=jnp.full((slots, STOP_IDS), -1, jnp.int32),
        stops_from=jnp.zeros(slots, jnp.int32),
        logprobs=jnp.zeros(slots, bool),
        sampling=sampling.empty(slots, vocab_size),
        adapter=jnp.zeros(slots, jnp.int32) if adapters else None,
    )


def slot_values(
    slot: int,
    vocab_size: int,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    end: int = 0,
    settings: Sampling | None = None,
    stop_ids: Sequence[int] = (),
    allowed_first: np.ndarray | None = None,
    adapter: int = 0,
) -> tuple[Any, ...]:
    """The arguments of fill_slot after the rows.

    Args:
        slot: the slot.
        vocab_size: rows of the model's vocabulary.
        prompt: its ids; none: the slot becomes inactive.
        answer: ids of the text so far.
        end: the position after the last token that may be generated.
        settings: how tokens are chosen.
        stop_ids: ids that end the text, at most STOP_IDS.
        allowed_first: bool, the ids that may come next; None: all. Ids beyond it may not.
        adapter: number of the adapter, which the state has only if the model has adapters.
    """
    settings = settings or Sampling()
    ids = [*prompt, *answer]
    seen, allowed = np.zeros(vocab_size, bool), np.ones(vocab_size, bool)
    stops = np.full(STOP_IDS, -1, np.int32)
    stops[: len(stop_ids)] = stop_ids
    seen[ids] = True
    counts = np.bincount(np.asarray(answer, np.int64), minlength=vocab_size).astype(np.int32)
    if allowed_first is not None:
        allowed[:] = np.pad(allowed_first, (0, vocab_size - len(allowed_first)))
    where = [ids[-1] if ids else 0, len(ids) - 1, end, min(len(prompt) + settings.min_tokens, end), adapter]
    flags = np.array([bool(ids), settings.logprobs is not None])
    first = np.int32(-1 if allowed_first is None else len(ids))
    return np.int32(slot), np.array(where, np.int32), flags, stops, _packed(settings), seen, counts, allowed, first


def _packed(settings: Sampling) -> tuple[np.ndarray, np.int32, np.ndarray]:
    """The settings as arrays: floats, top_k, and the seed."""
    floats = [
        settings.temperature if settings.temperature >= 1e-5 else 0,
        settings.top_p,
        settings.min_p,
        settings.repetition_penalty,
        settings.presence_penalty,
        settings.frequency_penalty,
    ]
    seed = int(settings.seed)
    key = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return np.array(floats, np.float32), np.int32(min(settings.top_k, 2**31 - 1)), key


def fill_slot(
    rows: Rows,
    slot: jax.Array,
    where: jax.Array,
    flags: jax.Array,
    stops: jax.Array,
    packed: tuple[jax.Array, ...],
    seen: jax.Array,
    counts: jax.Array,
    allowed: jax.Array,
    first: jax.Array,
) -> Rows:
    """Sets the state of one slot.

    Args:
        rows: the state of all slots.
        where: the last token, its position, the end, the first position of a stop id, and the adapter.
        flags: whether the slot is active, and whether log-probabilities are reported.
        slot, stops, packed, seen, counts, allowed, first: see slot_values.
    """
    floats, top_k, key = packed
    old = rows.sampling
    return Rows(
        token=rows.token.at[slot].set(where[0]),
        position=rows.position.at[slot].set(where[1]),
        end=rows.end.at[slot].set(where[2]),
        active=rows.active.at[slot].set(flags[0]),
        stops=rows.stops.at[slot].set(stops),
        stops_from=rows.stops_from.at[slot].set(where[3]),
        logprobs=rows.logprobs.at[slot].set(flags[1]),
        sampling=RowSampling(
            temperature=old.temperature.at[slot].set(floats[0]),
            top_p=old.top_p.at[slot].set(floats[1]),
            min_p=old.min_p.at[slot].set(floats[2]),
            repetition=old.repetition.at[slot].set(floats[3]),
            presence=old.presence.at[slot].set(floats[4]),
            frequency=old.frequency.at[slot].set(floats[5]),
            top_k=old.top_k.at[slot].set(top_k),
            key=old.key.at[slot].set(key),
            seen=old.seen.at[slot].set(seen),
            counts=old.counts.at[slot].set(counts),
            allowed=old.allowed.at[slot].set(allowed),
            first=old.first.at[slot].set(first),
        ),
        adapter=None if rows.adapter is None else rows.adapter.at[slot].set(where[4]),
    )
