"""The settings of sampling in requests, under the names that OpenAI's API and the servers beside it use."""

import secrets
from typing import Any

from codellama_jax.config.generation import Sampling
from codellama_jax.serving.http import ApiError, Fields

STOPS, STOP_CHARACTERS = 32, 1000  # limits: every stop string is searched for at every token


def read(
    fields: Fields,
    context: int,
    *,
    max_tokens: int | None,
    temperature: float = 1.0,
    length: str = "max_tokens",
    seed: str = "seed",
    **others: Any,
) -> Sampling:
    """Reads the settings of a request.

    Args:
        fields: of the request.
        context: number of tokens of prompt and answer; larger limits mean as many as fit.
        max_tokens: the limit if the request has none; None: as many as fit.
        temperature: if the request has none.
        length, seed: names of the fields of the limit and the seed. Without a seed, it is random.
        others: further settings.

    Raises:
        ApiError, ValueError: a field has a wrong type or value.
    """
    return Sampling(
        max_tokens=min(fields.integer(length, max_tokens or context, 0), context),
        min_tokens=min(fields.integer("min_tokens", 0, 0), context),
        temperature=fields.number("temperature", temperature, 0, 100),
        top_p=max(fields.number("top_p", 1.0, 0, 1), 1e-6),  # 0: the most likely token
        top_k=min(max(fields.integer("top_k", 0, -1), 0), 2**31 - 1),
        min_p=fields.number("min_p", 0.0, 0, 1),
        repetition_penalty=fields.number("repetition_penalty", 1.0, 0.01, 100),
        presence_penalty=fields.number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", 0.0, -2, 2),
        seed=fields.integer(seed, secrets.randbits(63)) % 2**64,
        stop=stop_strings(fields, empty=False),
        **others,
    )


def stop_strings(fields: Fields, empty: bool) -> tuple[str, ...]:
    """The field `stop`: a string or several.

    Args:
        fields: of the request.
        empty: whether empty strings are left out; otherwise they are refused.
    """
    stops = tuple(stop for stop in fields.texts("stop") if stop or not empty)
    if len(stops) > STOPS or any(not 0 < len(stop) <= STOP_CHARACTERS for stop in stops):
        raise ApiError(400, f"stop has at most {STOPS} strings of 1 to {STOP_CHARACTERS} characters", "stop")
    return stops
