"""The dialogue formats as token ids, with the loss on answers only.

Of Code Llama - Instruct, 7B, 13B and 34B use "inst", 70B uses "source". Other models have a template beside their
tokenizer, which is the format "template" (chat_template.py). The loss on answers only is that of Llama 2 (assumption).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from codellama_jax import chat_template
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer

# role: system, user or assistant; content; and weight, which is 0, for an answer that has no loss
Message = dict[str, Any]

INST, END_INST = "[INST]", "[/INST]"
SYS, END_SYS = "<<SYS>>\n", "\n<</SYS>>\n\n"
RESERVED = (INST, END_INST, "<<SYS>>", "<</SYS>>")


def encode_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str = "dialogue"
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a dialogue that ends with an answer.

    Args:
        where: names the dialogue in error messages.

    Returns:
        The ids, int32, and the weight of each id as a target, float32: 1 in answers, 0 in prompts and in answers with
        weight 0.

    Raises:
        UserError: roles out of order, a message that contains a reserved tag, an unknown format, or as
            chat_template.encode_dialogue.
    """
    return _encoded(tokenizer, messages, chat_format, where, last="assistant")


def encode_open_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str = "dialogue"
) -> np.ndarray:
    """Encodes a dialogue that ends with a user message, followed by the start of the model's answer. Returns int32 ids.

    Raises:
        UserError: as in encode_dialogue.
    """
    if chat_format == "template":
        if problem := wrong_roles(messages, "user"):
            raise UserError(f"{where}: {problem}")
        return np.asarray(chat_template.encode_open_dialogue(tokenizer, messages, where), np.int32)
    ids, _ = _encoded(tokenizer, messages, chat_format, where, last="user")
    if chat_format == "source":
        # In the published ids, the answer to generate names its destination, and earlier answers do not.
        reply = [*_header(tokenizer, "assistant\nDestination: user"), *tokenizer.encode_continuation("\n\n ")]
        ids = np.concatenate([ids, np.asarray(reply, np.int32)])
    return ids


def _encoded(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str, last: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of a dialogue that must end with the role `last`."""
    if problem := wrong_roles(messages, last):
        raise UserError(f"{where}: {problem}")
    if chat_format == "inst":
        ids, weights = _inst(tokenizer, messages, where)
    elif chat_format == "source":
        ids, weights = _source(tokenizer, messages, where)
    elif chat_format == "template":
        losses = [loss_weight(message) for message in messages]
        ids, weights = chat_template.encode_dialogue(tokenizer, messages, losses, where)
    else:
        raise UserError(f"Chat.format={chat_format!r} must be 'inst', 'source' or 'template'")
    return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def wrong_roles(messages: Sequence[Message], last: str) -> str:
    """An error message if the roles are in a wrong order or the last one is not `last`, otherwise ""."""
    roles = [message["role"] for message in messages]
    rest = roles[1:] if roles[:1] == ["system"] else roles
    if rest == [("user", "assistant")[index % 2] for index in range(len(rest))] and rest[-1:] == [last]:
        return ""
    return (
        f"roles are {roles}; they must be an optional system message, then user and assistant in turn, ending with the"
        f" {last}"
    )


def loss_weight(message: Message) -> float:
    """The weight of a message's ids as targets: 1, or the weight that an answer states; 0 for other roles."""
    return float(message.get("weight", 1)) if message["role"] == "assistant" else 0.0


def reserved_tag(text: str) -> str | None:
    """The first of the tags that the format "inst" reserves in a text; None if it contains none."""
    return next((tag for tag in RESERVED if tag in text), None)


def _inst(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """Encodes each turn as BOS "[INST] user [/INST] answer " EOS.

    The system text precedes the first user message. A last turn without an answer ends with [/INST].
    """
    contents = [message["content"] for message in messages]
    loss = [loss_weight(message) for message in messages if message["role"] == "assistant"]
    for index, message in enumerate(messages):
        if tag := reserved_tag(message["content"]):
            name = f"messages[{index}] ({message['role']})"
            raise UserError(f"{where}: {name} contains {tag}, a tag that the format 'inst' reserves; remove the tag")
    system = contents.pop(0) if messages[0]["role"] == "system" else None
    ids: list[int] = []
    weights: list[float] = []
    for index in range(0, len(contents), 2):
        user, *answer = contents[index : index + 2]
        # The system text is part of the first user message, and is stripped with it.
        user = f"{SYS}{system}{END_SYS}{user}" if system is not None and index == 0 else user
        prompt = f"{INST} {user.strip()} {END_INST}"
        turn = prompt_ids = [*tokenizer.start_ids, *map(int, tokenizer.encode(prompt))]
        if answer:
            text_ids = tokenizer.encode(f"{prompt} {answer[0].strip()} ")
            turn = [*tokenizer.start_ids, *map(int, text_ids), tokenizer.eos_id]
        # The answer starts at the first id at which prompt and turn differ: a token that spans both is in the answer.
        start = next((i for i, (a, b) in enumerate(zip(prompt_ids, turn, strict=False)) if a != b), len(prompt_ids))
        ids += turn
        weights += [0.0] * start + [loss[index // 2] if answer else 1.0] * (len(turn) - start)
    return ids, weights


def _source(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """Encodes BOS, then each message as " Source: role" "\\n\\n content" <step>."""
    if tokenizer.step_id is None:
        raise UserError(
            f"{where}: Chat.format='source' needs <step>, the last infilling row: bind Tokenizer.infilling=True"
        )
    ids: list[int] = tokenizer.start_ids
    weights: list[float] = [0.0] * len(ids)
    for message in messages:
        header = _header(tokenizer, message["role"])
        content = [*tokenizer.encode_continuation("\n\n " + message["content"].strip()), tokenizer.step_id]
        ids += [int(token) for token in (*header, *content)]
        weights += [0.0] * len(header) + [loss_weight(message)] * len(content)
    return ids, weights


def _header(tokenizer: Tokenizer, role: str) -> np.ndarray:
    return tokenizer.encode_continuation(f" Source: {role}")
