"""Chooses the next token of every row, each with its own settings.

The random numbers of a row are a function of its seed and the position of the token, so that a request gives the same
tokens beside any other requests.
"""

import dataclasses

import jax
import jax.numpy as jnp

_NEVER = -jnp.inf
_COLUMNS = 128


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class RowSampling:
    """The settings of all rows; see config.generation.Sampling.

    Attributes:
        temperature, top_p, min_p, repetition, presence, frequency: float32 [S]; the last three are penalties.
        top_k: int32 [S].
        key: uint32 [S, 2], the seed.
        seen: bool [S, V], the tokens of the prompt and the text, for the repetition penalty.
        counts: int32 [S, V], how often each token was generated, for the other penalties.
        allowed: bool [S, V], the tokens that may come first.
        first: int32 [S], the position of the token that `allowed` restricts.
    """

    temperature: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition: jax.Array
    presence: jax.Array
    frequency: jax.Array
    top_k: jax.Array
    key: jax.Array
    seen: jax.Array
    counts: jax.Array
    allowed: jax.Array
    first: jax.Array


def empty(slots: int, vocabulary: int) -> RowSampling:
    """Settings of greedy rows."""
    return RowSampling(
        temperature=jnp.zeros(slots, jnp.float32),
        top_p=jnp.ones(slots, jnp.float32),
        min_p=jnp.zeros(slots, jnp.float32),
        repetition=jnp.ones(slots, jnp.float32),
        presence=jnp.zeros(slots, jnp.float32),
        frequency=jnp.zeros(slots, jnp.float32),
        top_k=jnp.zeros(slots, jnp.int32),
        key=jnp.zeros((slots, 2), jnp.uint32),
        seen=jnp.zeros((slots, vocabulary), bool),
        counts=jnp.zeros((slots, vocabulary), jnp.int32),
        allowed=jnp.ones((slots, vocabulary), bool),
        first=jnp.full(slots, -1, jnp.int32),
    )


def sample(logits_SV: jax.Array, rows: RowSampling, position_S: jax.Array) -> jax.Array:
    """The next token of each row, int32 [S]. `position_S` is the position that it will have."""
    logits_SV = jnp.where((position_S == rows.first)[:, None] & ~rows.allowed, _NEVER, logits_SV)
    penalties = (rows.repetition != 1) | (rows.presence != 0) | (rows.frequency != 0)
    logits_SV = jax.lax.cond(jnp.any(penalties), lambda x: _penalized(x, rows), lambda x: x, logits_SV)
    greedy = _argmax(logits_SV)

    def drawn(logits_SV: jax.Array) -> jax.Array:
        scaled = logits_SV / jnp.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
        filtering = (rows.top_k > 0) | (rows.top_p < 1) | (rows.min_p > 0)
        filtered = jax.lax.cond(jnp.any(filtering), lambda x: _filtered(x, rows), lambda x: x, scaled)
        noise = jax.vmap(_noise, (0, 0, None))(rows.key, position_S, logits_SV.shape[1])
        return _argmax(filtered + noise)

    sampled = jax.lax.cond(jnp.any(rows.temperature > 0), drawn, lambda _: greedy, logits_SV)
    return jnp.where(rows.temperature > 0, sampled, greedy)


def _argmax(x_SV: jax.Array) -> jax.Array:
    """The first index of the largest element of each row, int32 [S]; of the first NaN if there is one."""
    return jax.lax.platform_dependent(
        x_SV, cpu=_argmax_by_columns, default=lambda x: jnp.argmax(x, axis=-1).astype(jnp.int32)
    )


def _argmax_by_columns(x_SV: jax.Array) -> jax.Array:
    """The same by reductions over columns of a matrix: XLA for CPUs vectorizes these, and not jnp.argmax, which takes
    more than ten times as long."""
    rows, length = x_SV.shape
    padding = -length % _COLUMNS
    x_SNM = jnp.pad(x_SV, ((0, 0), (0, padding)), constant_values=-jnp.inf).reshape(rows, -1, _COLUMNS)
    largest = jnp.max(jnp.max(x_SNM, axis=1), axis=1)[:, None, None]
    index = jnp.arange(length + padding, dtype=jnp.int32).reshape(x_SNM.shape[1:])
    found = jnp.where((x_SNM == largest) | jnp.isnan(x_SNM), index, length)
    return jnp.min(jnp.min(found, axis=1), axis=1)


def _penalized(logits_SV: jax.Array, rows: RowSampling) -> jax.Array:
    """Logits with the penalties subtracted. A row without penalties is not changed, bit for bit."""
    repetition = jnp.where(rows.seen, rows.repetition[:, None], 1.0)
    logits_SV = jnp.where(logits_SV > 0, logits_SV / repetition, logits_SV * repetition)
    presence = jnp.where(rows.counts > 0, rows.presence[:, None], 0.0)
    return logits_SV - rows.frequency[:, None] * rows.counts - presence


def _noise(key: jax.Array, position: jax.Array, size: int) -> jax.Array:
    """Gumbel noise: the argmax of logits plus noise is a sample of their distribution."""
    return jax.random.gumbel(jax.random.fold_in(jax.random.wrap_key_data(key), position), (size,))


def _filtered(logits_SV: jax.Array, rows: RowSampling) -> jax.Array:
    """Logits with those of the tokens outside top_k, top_p and min_p removed. A row without filters is not changed."""
    ordered = jnp.sort(logits_SV, axis=-1, descending=True)
    ranks = jnp.arange(logits_SV.shape[1])[None, :]
    top_k = jnp.where(rows.top_k > 0, rows.top_k, logits_SV.shape[1])[:, None]
    ordered_probability = jax.nn.softmax(jnp.where(ranks < top_k, ordered, _NEVER), axis=-1)
    before = jnp.cumsum(ordered_probability, axis=-1) - ordered_probability
    kept = (ranks < top_k) & ((before < rows.top_p[:, None]) | (rows.top_p[:, None] >= 1))
    # the first token has the largest probability
    kept &= ordered_probability >= rows.min_p[:, None] * ordered_probability[:, :1]
    kept = kept.at[:, 0].set(True)
    threshold = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits_SV >= threshold, logits_SV, _NEVER)
