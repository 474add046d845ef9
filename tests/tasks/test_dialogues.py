"""Dialogues that a stage leaves out, and the encoder of documents and dialogues."""

import itertools

import pytest

from codellama_jax.chat import Message, encode_dialogue
from codellama_jax.config.data import Chat, Fim
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.dialogues import validate
from tasks.encoder import Encoder
from tasks.sources.base import Dialogue, Document
from tasks.sources.filters import LeftOut
from tests.dialogue_cases import dialogue, of_roles


def left_out(messages: list[Message], chat_format: str) -> str | None:
    try:
        validate(messages, chat_format)
    except LeftOut as error:
        return error.reason
    return None


@pytest.mark.parametrize("chat_format", TEMPLATES)
def test_dialogues_with_wrong_roles_are_left_out(small_tokenizer: Tokenizer, chat_format: str):
    """Exactly those that cannot be encoded, among all sequences of up to four roles."""
    valid = 0
    for length in range(5):
        for roles in itertools.product(("system", "user", "assistant"), repeat=length):
            messages = of_roles(list(roles))
            reason = left_out(messages, chat_format)
            if reason is None:
                valid += 1
                assert len(encode_dialogue(small_tokenizer, messages, chat_format)[0])
            else:
                assert reason == "roles"
                with pytest.raises(UserError):
                    encode_dialogue(small_tokenizer, messages, chat_format)
    assert valid == 3  # one turn, with and without a system message, and two turns
    assert left_out(of_roles(["system", *("user", "assistant") * 2]), chat_format) is None


@pytest.mark.parametrize("tag", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
@pytest.mark.parametrize("index", range(5))
def test_dialogues_with_a_reserved_tag_are_left_out_of_inst(tag: str, index: int):
    messages = dialogue("one", "two", "three", "four", system="be kind")
    messages[index]["content"] += f"{tag}x"
    assert left_out(messages, "inst") == "reserved_tag" and left_out(messages, "source") is None
    assert left_out([*messages, *messages[1:2]], "inst") == "roles"  # checked first


@pytest.mark.parametrize("chat_format", TEMPLATES)
@pytest.mark.parametrize("blank", ["", " \n"])
def test_dialogues_with_a_blank_question_or_answer_are_left_out(chat_format: str, blank: str):
    for index in range(4):
        messages = dialogue("one", "two", "three", "four")
        messages[index]["content"] = blank
        assert left_out(messages, chat_format) == "blank"
        # The system text is part of the first question.
        system: list[Message] = [{"role": "system", "content": "be kind"}]
        assert left_out([*system, *messages], chat_format) == (None if index == 0 else "blank")
        assert left_out([{"role": "system", "content": blank}, *messages], chat_format) == "blank"


def test_an_encoder_leaves_out_dialogues_but_not_documents(small_tokenizer: Tokenizer):
    for chat_format in TEMPLATES:
        encoder = Encoder(small_tokenizer, Fim(), Chat(chat_format), seed=(0,))
        encoder.validate(Document("[INST] <<SYS>>", "a.py"))
        encoder.validate(Dialogue(dialogue("a", "b"), "a"))
        with pytest.raises(LeftOut, match="roles"):
            encoder.validate(Dialogue(dialogue("a"), "a"))


def test_errors_name_the_path_of_a_dialogue(small_tokenizer: Tokenizer):
    encoder = Encoder(small_tokenizer, fim=None, chat=Chat("inst"), seed=(0,))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^talks/a\.jsonl:12: "):
        encoder.plain(Dialogue(dialogue("a"), "talks/a.jsonl:12"))
