"""Log-probabilities as the text that records have: little-endian float32 in base64."""

import base64
import binascii

import numpy as np

from codellama_jax.errors import UserError


def packed(logprobs: np.ndarray) -> str:
    """The text of log-probabilities."""
    return base64.b64encode(logprobs.astype("<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The log-probabilities of a packed text, float64.

    Raises:
        UserError: it is not one.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except (ValueError, binascii.Error):
        raise UserError("a record of perplexity is damaged: its raw output is not base64 of float32 numbers") from None
