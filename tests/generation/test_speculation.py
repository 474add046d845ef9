"""Prompt lookup: guesses, when they pay, and that they change no token."""

import numpy as np
import pytest
from generation_engines import answer, engine

from codellama_jax.generation.request import Request
from codellama_jax.generation.speculation import NGRAMS, PromptLookup, pays

pytestmark = pytest.mark.compares_bits


def test_a_guess_follows_the_latest_earlier_occurrence_of_the_last_tokens():
    lookup = PromptLookup([1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 1, 2, 3])
    assert lookup.guess(3) == [6, 7, 1]
    lookup.add([9])
    assert lookup.guess(3) == []
    lookup.add([1, 2, 3])
    assert lookup.guess(2) == [9, 1]


def test_a_longer_occurrence_comes_first():
    assert NGRAMS == (6, 3, 2)
    assert PromptLookup([1, 2, 3, 8, 2, 3, 9, 0, 1, 2, 3]).guess(1) == [8]
    assert PromptLookup([1, 2, 3, 8, 2, 3, 9, 0, 2, 3]).guess(1) == [9]
    assert PromptLookup([1, 2, 3, 4, 5, 6, 8, 4, 5, 6, 9, 1, 2, 3, 4, 5, 6]).guess(1) == [8]


def test_a_guess_that_reaches_the_end_of_the_text_continues_in_itself():
    assert PromptLookup([7, 1, 2, 1, 2, 1]).guess(5) == [2, 1, 2, 1, 2]
    assert PromptLookup([4, 4, 4, 4]).guess(3) == [4, 4, 4]
    assert PromptLookup([1, 2, 3]).guess(3) == PromptLookup([1]).guess(3) == []


def test_the_expected_number_follows_what_was_right():
    lookup = PromptLookup([1, 2, 3] * 4)
    lookup.guess(4)
    first = lookup.expected
    for _ in range(5):
        lookup.add(lookup.guess(4))
    lookup.guess(4)
    assert first < 1 < 3 < lookup.expected < 4
    for token in range(100, 120):
        lookup.add([token])
        lookup.add([1, 2, 3])
        lookup.guess(4)
    assert lookup.expected < 0.5


def test_guesses_are_verified_where_tokens_are_expected_to_come_faster():
    assert pays([3.0], 2.0) and not pays([0.5], 2.0)
    assert not pays([3.0] + [0.0] * 15, 2.0) and pays([3.0] * 16, 2.0)
    assert not pays([0.0, 0.0], 0.5)  # nothing to verify


def repeating(length: int) -> list[int]:
    return (np.random.default_rng(8).integers(3, 300, 7).tolist() * length)[:length]


@pytest.mark.parametrize(
    "settings",
    [
        {"frequency_penalty": -2},  # more likely with every occurrence: the text repeats itself
        {"frequency_penalty": -2, "temperature": 0.7, "seed": 5},
        {"presence_penalty": -2, "repetition_penalty": 0.7, "logprobs": 3},
        {"frequency_penalty": -2, "min_tokens": 30, "top_p": 0.9, "temperature": 0.5},
    ],
)
def test_answers_that_repeat_are_the_same_and_need_fewer_passes(settings: dict, monkeypatch: pytest.MonkeyPatch):
    running = engine(draft_tokens=5)
    monkeypatch.setattr(running.pool, "share", False)

    def plain(prompt: list[int], stop_ids: tuple[int, ...] = (), **settings) -> Request:
        with monkeypatch.context() as patch:
            patch.setattr(running.programs, "verify_cost", {4: np.inf})
            request = answer(running, prompt, stop_ids, **settings)
        assert request.drafted == 0
        return request

    for prompt in (repeating(100), [5]):
        expected = plain(prompt, max_tokens=70, **settings)
        found = answer(running, prompt, max_tokens=70, **settings)
        assert found.tokens == expected.tokens and found.finish_reason == expected.finish_reason == "length"
        assert found.accepted > len(found.tokens) / 3
        for one, other in zip(found.logprobs, expected.logprobs, strict=True):
            assert one.logprob == other.logprob
        # a stop id inside a guess, and the end inside a guess
        stop = found.tokens[len(found.tokens) // 2]
        for end in ({"stop_ids": (stop,)}, {"max_tokens": 23}, {"max_tokens": 24}):
            limits = settings | {"max_tokens": 60} | end
            limits["min_tokens"] = min(limits.get("min_tokens", 0), limits["max_tokens"])
            assert answer(running, prompt, **limits).tokens == plain(prompt, **limits).tokens
