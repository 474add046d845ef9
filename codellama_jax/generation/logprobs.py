"""Log-probabilities of tokens, under the model's own distribution: before temperature, penalties and filters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from codellama_jax.config.generation import MOST_LOGPROBS


@dataclasses.dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of a token, and those of the most likely tokens at its position.

    Attributes:
        token: its id.
        logprob: its natural logarithm of the probability.
        top: (id, log-probability) of the most likely tokens, in descending order.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Logprobs:
    """Log-probabilities as the programs compute them. The dims before the last are those of the tokens.

    Attributes:
        token: float32 [...], of the token.
        top: float32 [..., MOST_LOGPROBS], of the most likely tokens, in descending order.
        ids: int32 [..., MOST_LOGPROBS], their ids.
    """

    token: jax.Array
    top: jax.Array
    ids: jax.Array


def of_tokens(logits_SV: jax.Array, token_S: jax.Array) -> Logprobs:
    """The log-probabilities of one token for each row of logits."""
    logprobs_SV = jax.nn.log_softmax(logits_SV, axis=-1)
    top, ids = jax.lax.top_k(logprobs_SV, min(MOST_LOGPROBS, logits_SV.shape[1]))
    return Logprobs(jnp.take_along_axis(logprobs_SV, token_S[:, None], axis=1)[:, 0], top, ids.astype(jnp.int32))


def reported(token: int, logprobs: Logprobs, index: tuple[int, ...], count: int, vocabulary: int) -> TokenLogprobs:
    """One token as it is reported to the user.

    Args:
        token: its id.
        logprobs: with arrays of NumPy.
        index: the token's place in the arrays.
        count: number of alternatives.
        vocabulary: number of ids that may be generated; there are no more alternatives than these.
    """
    count = min(count, vocabulary)
    ids, top = np.asarray(logprobs.ids)[index][:count].tolist(), np.asarray(logprobs.top)[index][:count].tolist()
    return TokenLogprobs(token, float(np.asarray(logprobs.token)[index]), tuple(zip(ids, top, strict=True)))
