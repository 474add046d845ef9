"""Dialogues as training examples: which ones a stage trains on, and how much of a long one it keeps."""

import bisect
from collections.abc import Sequence

import numpy as np

from codellama_jax import chat_template
from codellama_jax.chat import Message, encode_dialogue, loss_weight, reserved_tag, wrong_roles
from codellama_jax.config.data import TEMPLATE
from codellama_jax.tokenizer import Tokenizer
from tasks.sources.filters import LeftOut


def encode_in_window(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    chat_format: str,
    length: int,
    last_turns: bool,
    where: str = "dialogue",
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Encodes a dialogue for a window of `length` tokens.

    Args:
        last_turns: a dialogue that is longer keeps as many of its last turns, a question and its answer each, as fit
            together with the system message. If none does, it keeps the last turns that fit without that message.
        where: names the dialogue in error messages.

    Returns:
        ids and weights as encode_dialogue returns them, and whether the dialogue was shortened.

    Raises:
        LeftOut: "too_long": it does not fit; "no_loss": no answer of the turns that fit has a loss.
        UserError: as in encode_dialogue.
    """
    ids, weights = encode_dialogue(tokenizer, messages, chat_format, where)
    if len(ids) <= length:
        return ids, weights, False
    system = list(messages[:1]) if messages[0]["role"] == "system" else []
    rest = messages[len(system) :]
    turns = len(rest) // 2

    def encoded(count: int, system: list[Message]) -> tuple[np.ndarray, np.ndarray]:
        return encode_dialogue(tokenizer, [*system, *rest[len(rest) - 2 * count :]], chat_format, where)

    for kept in (system, []) if system else ([],):
        if not last_turns:
            break
        if not kept and not rest[0]["content"].strip():
            turns -= 1  # its question was the system message
        count = bisect.bisect_right(range(1, turns + 1), length, key=lambda count: len(encoded(count, kept)[0]))
        if count:
            ids, weights = encoded(count, kept)
            if not weights.any():
                raise LeftOut("no_loss")
            return ids, weights, True
    raise LeftOut("too_long")


def validate(messages: Sequence[Message], chat_format: str, tokenizer: Tokenizer | None = None) -> None:
    """Raises LeftOut for a dialogue that is not a training example.

    The reasons are "roles" (their order), "reserved_tag" (a message contains one), "blank" (an answer is blank, or a
    question, unless it is the first and there is a system text), "no_loss" (no answer has a loss) and "template" (the
    chat template raises an error, such as for a system message that it does not know).
    """
    if wrong_roles(messages, "assistant"):
        raise LeftOut("roles")
    answers = [message for message in messages if message["role"] == "assistant"]
    # The system text is part of the first question.
    start = 2 if messages[0]["role"] == "system" and messages[0]["content"].strip() else 0
    if not all(message["content"].strip() for message in messages[start:] if message["role"] != "system"):
        raise LeftOut("blank")
    if not any(map(loss_weight, answers)):
        raise LeftOut("no_loss")
    if chat_format == "inst" and any(reserved_tag(message["content"]) for message in messages):
        raise LeftOut("reserved_tag")
    if chat_format == TEMPLATE and tokenizer is not None:
        try:
            chat_template.check(tokenizer, messages)
        except chat_template.TemplateRefusal:
            raise LeftOut("template") from None
