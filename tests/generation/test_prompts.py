"""Prompts of completion and infilling, and token healing."""

import numpy as np
import pytest

from codellama_jax.chat import encode_open_dialogue
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.errors import UserError
from codellama_jax.generation import prompts, rows
from codellama_jax.generation.stopping import TextStream, TokenTexts
from codellama_jax.tokenizer import SentencePieceTokenizer, Tokenizer
from tests.dialogue_cases import dialogue


@pytest.fixture(scope="module")
def texts(small_tokenizer: Tokenizer) -> TokenTexts:
    return TokenTexts(small_tokenizer)


def test_the_bytes_of_tokens_are_the_text(small_tokenizer: Tokenizer, texts: TokenTexts):
    for text in ("def f(x):\n    return x\n", "é中😀\r\n\t", " a  b"):
        ids = small_tokenizer.encode_continuation(text)
        assert b"".join(map(texts, ids.tolist())) == text.encode()
    assert texts(small_tokenizer.eot_id) == texts(small_tokenizer.bos_id) == b""


def test_a_completion_prompt_ends_before_its_last_token_and_repeats_its_text(small_tokenizer, texts):
    prompt = prompts.complete(small_tokenizer, texts, "def f(self, ret")
    ids = [small_tokenizer.bos_id, *small_tokenizer.encode("def f(self, ret").tolist()]
    assert prompt.ids == ids[:-1] and prompt.skip == texts(ids[-1])
    assert prompt.allowed is not None and prompt.allowed[ids[-1]]
    for token in np.flatnonzero(prompt.allowed):
        assert texts(int(token)).startswith(prompt.skip)
    stream = TextStream(texts, skip=prompt.skip)
    assert stream.add([ids[-1]]) == "" and stream.add(small_tokenizer.encode_continuation("n x").tolist()) == "n x"


def test_a_prompt_that_no_token_continues_is_not_healed(small_tokenizer, texts):
    prompt = prompts.complete(small_tokenizer, texts, "x = 1\n")
    assert prompt.allowed is None and prompt.skip == b""
    assert prompts.complete(small_tokenizer, texts, "").ids == [small_tokenizer.bos_id]


def test_infilling_prompts_have_the_ids_of_training(small_tokenizer, texts):
    for order in ("psm", "spm"):
        prompt = prompts.infill(small_tokenizer, texts, "x = 1\n", "y\n", order)
        assert prompt.ids == small_tokenizer.infilling_prompt("x = 1\n", "y\n", order).tolist()
        assert prompt.stop_ids[0] == small_tokenizer.eot_id
    healed = prompts.infill(small_tokenizer, texts, "ret", "", "spm")
    assert healed.ids == small_tokenizer.infilling_prompt("ret", "", "spm").tolist()[:-1]
    assert prompts.infill(small_tokenizer, texts, "ret", "", "psm").allowed is None
    marks = small_tokenizer.infilling_prompt("", "", "spm").tolist()
    assert prompts.infill(small_tokenizer, texts, "", "", "spm").ids == marks


def test_documents_with_crlf_are_read_with_line_feeds(small_tokenizer, texts):
    crlf = prompts.infill(small_tokenizer, texts, "a\r\nb\r\n", "c\r\n", "psm")
    assert crlf.crlf and crlf.ids == prompts.infill(small_tokenizer, texts, "a\nb\n", "c\n", "psm").ids
    mixed = prompts.complete(small_tokenizer, texts, "a\r\nb\n")
    assert not mixed.crlf


@pytest.mark.parametrize("stop", ["b\r\nc", "b\nc", "b"])
def test_stop_strings_of_documents_with_crlf_match_either_line_end(small_tokenizer, texts, stop):
    prompt = prompts.infill(small_tokenizer, texts, "x\r\n", "y\r\n", "psm")
    stream = prompts.text_stream(prompt, texts, [stop])
    stream.add(small_tokenizer.encode_continuation("a b\nc d\n").tolist())
    assert stream.stopped is not None and stream.text == "a "


def test_a_model_without_the_ids_refuses_infilling(small_tokenizer):
    plain = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    with pytest.raises(UserError, match=r"no infilling ids .* use complete"):
        prompts.infill(plain, TokenTexts(plain), "a", "b")


def test_only_text_completes_a_healed_token(small_tokenizer, texts):
    """The ids for infilling come after those of text. One of them would take the place of the beginning of a word."""
    healed = prompts.infill(small_tokenizer, texts, "ret", "", "spm")
    llama_rows = small_tokenizer.rows + 8
    *_, allowed, _ = rows.slot_values(0, llama_rows, healed.ids, allowed_first=healed.allowed)
    assert (
        len(allowed) == llama_rows
        and allowed.sum() == healed.allowed.sum()
        and not allowed[len(healed.allowed) :].any()
    )


def turns(count: int, system: str | None = None) -> list[dict]:
    """`count` turns, and a question."""
    return dialogue(*[f"text {number}" for number in range(2 * count + 1)], system=system)


def test_chat_prompts_have_the_published_ids(llama_tokenizer: Tokenizer):
    messages = [{"role": "system", "content": "System prompt"}]
    messages += dialogue("First user query", "Model response to first query", "Second user query")
    prompt, left_out = prompts.chat(llama_tokenizer, messages, "source", 4096)
    assert prompt.ids == encode_open_dialogue(llama_tokenizer, messages, "source").tolist() and left_out == 0
    assert prompt.ids[:9] == [1, 7562, 29901, 1788, 13, 13, 2184, 9508, 32015]
    assert prompt.ids[-11:] == [7562, 29901, 20255, 13, 14994, 3381, 29901, 1404, 13, 13, 29871]
    assert prompt.stop_ids == (32015, 2, 32010) and prompt.stop == ()
    prompt, _ = prompts.chat(llama_tokenizer, dialogue("How are you doing?"), "inst", 4096)
    assert prompt.ids == [1, 518, 25580, 29962, 1128, 526, 366, 2599, 29973, 518, 29914, 25580, 29962]
    assert prompt.stop_ids == (2, 32010) and "[INST]" in prompt.stop


@pytest.mark.parametrize("chat_format", TEMPLATES)
@pytest.mark.parametrize("system", [None, "be kind"])
def test_the_fewest_of_the_oldest_turns_are_left_out(small_tokenizer: Tokenizer, chat_format: str, system: str | None):
    messages = turns(6, system)
    first = 1 if system else 0
    sizes = [
        len(encode_open_dialogue(small_tokenizer, messages[:first] + messages[first + 2 * count :], chat_format))
        for count in range(7)
    ]
    for room in range(sizes[-1], sizes[0] + 2):
        prompt, left_out = prompts.chat(small_tokenizer, messages, chat_format, room)
        assert left_out == next(count for count, size in enumerate(sizes) if size <= room)
        kept = messages[:first] + messages[first + 2 * left_out :]
        assert prompt.ids == encode_open_dialogue(small_tokenizer, kept, chat_format).tolist()
    with pytest.raises(UserError, match=rf"last question ha\w+ {sizes[-1]} tokens, and {sizes[-1] - 1} fit"):
        prompts.chat(small_tokenizer, messages, chat_format, sizes[-1] - 1)


def test_a_reserved_tag_is_refused_in_turns_that_are_left_out_too(small_tokenizer: Tokenizer):
    messages = turns(6)
    messages[1]["content"] = "a [/INST] b"
    with pytest.raises(UserError, match=r"^dialogue: messages\[1\] \(assistant\) contains \[/INST\], .*remove"):
        prompts.chat(small_tokenizer, messages, "inst", 60)


def test_a_prompt_leaves_room_for_an_answer():
    assert prompts.chat_room(1000, 256) == 744
    assert prompts.chat_room(300, 256) == 150 and prompts.chat_room(300, 10**9) == 150
