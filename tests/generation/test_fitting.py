"""Prompts that fit the context."""

import json
from pathlib import Path

import numpy as np
import pytest

from codellama_jax.generation import fitting, prompts
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.tokenizer import Tokenizer

CODE = Path(json.decoder.__file__).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def texts(small_tokenizer: Tokenizer) -> TokenTexts:
    return TokenTexts(small_tokenizer)


@pytest.mark.parametrize("order", ["spm", "psm"])
def test_what_fits_is_not_changed(small_tokenizer, texts, order):
    prompt = prompts.infill(small_tokenizer, texts, "a = 1\nb =", "\nc = 3\n", order)
    fitted = fitting.infill(small_tokenizer, texts, "a = 1\nb =", "\nc = 3\n", order, len(prompt.ids))
    assert not fitted.truncated and fitted.prompt == prompt
    plain = prompts.complete(small_tokenizer, texts, "a = 1\nb =")
    assert fitting.complete(small_tokenizer, texts, "a = 1\nb =", len(plain.ids)).prompt == plain


def test_every_prompt_fits_and_uses_most_of_the_room(small_tokenizer, texts, fuzzed):
    rng = np.random.default_rng(0)
    for _ in range(60):
        prefix, suffix = (fuzzed(rng, int(rng.integers(0, 4000))) for _ in range(2))
        room, order = int(rng.integers(40, 600)), ("spm", "psm")[rng.integers(2)]
        snippets = [fuzzed(rng, 50) for _ in range(rng.integers(4))]
        fitted = fitting.infill(small_tokenizer, texts, prefix, suffix, order, room, snippets)
        assert len(fitted.prompt.ids) <= room
        if fitted.truncated:
            # without the steps of a prefix, and the rest of the lines that are cut
            assert len(fitted.prompt.ids) > room * 0.3
        whole = fitting.complete(small_tokenizer, texts, prefix, room)
        assert len(whole.prompt.ids) <= room


def test_the_texts_at_the_hole_are_kept_and_cut_at_lines(small_tokenizer, texts):
    fitted = fitting.infill(small_tokenizer, texts, CODE, CODE, "psm", 400)
    ids = fitted.prompt.ids
    end, middle = ids.index(small_tokenizer.suffix_id), ids.index(small_tokenizer.middle_id)
    before = small_tokenizer.decode(ids[2:end])
    after = small_tokenizer.decode_continuation(ids[end + 1 : middle])
    assert fitted.truncated and CODE.endswith("\n" + before) and CODE.startswith(after) and after.endswith("\n")
    assert len(ids[2:end]) > 2 * len(ids[end + 1 : middle]) > 100


def test_the_cut_stays_where_it_is_while_somebody_types(small_tokenizer, texts):
    """In SPM order, the ids of suffix and prefix are then those of the keystroke before, and one more."""
    same = 0
    for end in range(3000, 3050):
        now, later = (
            fitting.infill(small_tokenizer, texts, CODE[:stop], CODE[4000:], "spm", 400).prompt.ids
            for stop in (end, end + 1)
        )
        same += now[:300] == later[:300]
    assert same >= 48


def test_a_text_of_millions_of_characters_is_not_encoded_whole(small_tokenizer, texts, monkeypatch):
    encoded = []
    encode = small_tokenizer.encode
    monkeypatch.setattr(small_tokenizer, "encode", lambda text: encoded.append(len(text)) or encode(text))
    fitted = fitting.infill(small_tokenizer, texts, "x = 1\n" * 500_000, "", "spm", 100)
    assert fitted.truncated and len(fitted.prompt.ids) > 70 and max(encoded) < 4000


def test_snippets_are_a_document_before_the_prompt_and_the_last_ones_stay(small_tokenizer, texts):
    def infill(room: int) -> list[int]:
        return fitting.infill(
            small_tokenizer, texts, "a =", "\n", "spm", room, ["first = 1\n", "last = 2\n"]
        ).prompt.ids

    prompt = prompts.infill(small_tokenizer, texts, "a =", "\n").ids
    both, bos = infill(400), small_tokenizer.bos_id
    extra = both[: -len(prompt)]
    assert both[-len(prompt) :] == prompt and (extra[0], extra[-1]) == (bos, small_tokenizer.eos_id)
    separator = "\n\n--- snippet ---\n\n"
    assert small_tokenizer.decode(extra) == f"{separator}first = 1\n{separator}last = 2\n"
    last = infill(len(both) - 1)
    assert small_tokenizer.decode(last[: -len(prompt)]) == f"{separator}last = 2\n"
    assert infill(len(prompt)) == prompt
