"""Settings of generation."""

import math

import pytest

from codellama_jax.config.generation import Sampling, Serving


@pytest.mark.parametrize(
    "settings",
    [
        *({name: -1} for name in ("max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed")),
        *({name: 2.5} for name in ("top_p", "min_p", "presence_penalty", "frequency_penalty", "top_k", "seed")),
        *({name: math.nan} for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")),
        *({name: math.inf} for name in ("temperature", "top_k", "frequency_penalty", "max_tokens")),
        *({name: "0.7"} for name in ("temperature", "top_p", "max_tokens", "seed", "logprobs", "prompt_logprobs")),
        *({name: True} for name in ("temperature", "max_tokens", "top_k", "logprobs", "seed")),
        *({name: None} for name in ("temperature", "top_k", "stop", "prompt_logprobs")),
        *({name: []} for name in ("temperature", "top_k", "logprobs")),
        *({name: 10**5000} for name in ("temperature", "seed", "logprobs")),
        *({"stop": stop} for stop in ("text", ("",), [1], {"a": 1}, [None])),
        {"repetition_penalty": 0},
        {"repetition_penalty": 1e-300},
        {"temperature": 1e300},
        {"top_p": 0},
        {"seed": 2**64},
        {"logprobs": 21},
        {"min_tokens": 5, "max_tokens": 4},
    ],
)
def test_settings_of_wrong_types_or_out_of_range_are_refused_by_name(settings: dict):
    with pytest.raises(ValueError, match=f"^{next(iter(settings))}="):
        Sampling(**settings)


def test_extreme_settings_are_possible():
    settings = Sampling(top_k=2**70, max_tokens=2**70, seed=2**64 - 1, temperature=1e-300, top_p=1e-300, stop=["a"])
    assert settings.stop == ("a",) and hash(settings)


@pytest.mark.parametrize(
    "sizes",
    [{"slots": 0}, {"draft_tokens": -1}, {"chunks": (32, 8)}, {"chunks": ()}, {"batches": (0,)}, {"context": -1}],
)
def test_sizes_out_of_range_are_refused(sizes: dict):
    with pytest.raises(ValueError, match=r"at least|ascending"):
        Serving(**sizes)
