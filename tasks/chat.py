"""The two dialogue formats of Code Llama - Instruct as token ids, with the loss on answers only.

7B, 13B and 34B use "inst", 70B uses "source". The loss on answers only is taken from Llama 2 (assumption).
"""

import bisect
from collections.abc import Sequence

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer
from tasks.sources.base import Message
from tasks.sources.filters import LeftOut

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
        UserError: roles out of order, a message that contains a reserved tag, or an unknown format.
    """
    return _encoded(tokenizer, messages, chat_format, where, last="assistant")


def encode_open_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str = "dialogue"
) -> np.ndarray:
    """Encodes a dialogue that ends with a user message, followed by the start of the model's answer. Returns int32 ids.

    Raises:
        UserError: as in encode_dialogue.
    """
    ids, _ = _encoded(tokenizer, messages, chat_format, where, last="user")
    if chat_format == "source":
        # In the published ids, the answer to generate names its destination, and earlier answers do not.
        reply = [*_header(tokenizer, "assistant\nDestination: user"), *tokenizer.encode_continuation("\n\n ")]
        ids = np.concatenate([ids, np.asarray(reply, np.int32)])
    return ids


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


def validate(messages: Sequence[Message], chat_format: str) -> None:
    """Raises LeftOut for a dialogue that is not a training example.

    The reasons are "roles" (their order), "reserved_tag" (a message contains one), "blank" (an answer is blank, or a
    question, unless it is the first and there is a system text) and "no_loss" (no answer has a loss).
    """
    if _wrong_roles(messages, "assistant"):
        raise LeftOut("roles")
    answers = [message for message in messages if message["role"] == "assistant"]
    # The system text is part of the first question.
    start = 2 if messages[0]["role"] == "system" and messages[0]["content"].strip() else 0
    if not all(message["content"].strip() for message in messages[start:] if message["role"] != "system"):
        raise LeftOut("blank")
    if not any(map(_weight, answers)):
        raise LeftOut("no_loss")
    if chat_format == "inst" and any(_tag(message["content"]) for message in messages):
        raise LeftOut("reserved_tag")


def _encoded(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str, last: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of a dialogue that must end with the role `last`."""
    if problem := _wrong_roles(messages, last):
        raise UserError(f"{where}: {problem}")
    if chat_format == "inst":
        ids, weights = _inst(tokenizer, messages, where)
    elif chat_format == "source":
        ids, weights = _source(tokenizer, messages, where)
    else:
        raise UserError(f"Chat.format={chat_format!r} must be 'inst' or 'source'")
    return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def _wrong_roles(messages: Sequence[Message], last: str) -> str:
    """A message if the roles are in a wrong order, otherwise ""."""
    roles = [message["role"] for message in messages]
    rest = roles[1:] if roles[:1] == ["system"] else roles
    if rest == [("user", "assistant")[index % 2] for index in range(len(rest))] and rest[-1:] == [last]:
        return ""
    return (
        f"roles are {roles}; they must be an optional system message, then user and assistant in turn, ending with the"
        f" {last}"
    )


def _weight(message: Message) -> float:
    """The weight of a message's ids as targets."""
    return float(message.get("weight", 1)) if message["role"] == "assistant" else 0.0


def _tag(text: str) -> str | None:
    """The first of the reserved tags that a text contains; None if it contains none."""
    return next((tag for tag in RESERVED if tag in text), None)


def _inst(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """Encodes each turn as BOS "[INST] user [/INST] answer " EOS.

    The system text precedes the first user message. A last turn without an answer ends with [/INST].
    """
    contents = [message["content"] for message in messages]
    loss = [_weight(message) for message in messages if message["role"] == "assistant"]
    for text in contents:
        if tag := _tag(text):
            raise UserError(f"{where}: a message contains the reserved tag {tag}; remove it or the dialogue")
    system = contents.pop(0) if messages[0]["role"] == "system" else None
    ids: list[int] = []
    weights: list[float] = []
    for index in range(0, len(contents), 2):
        user, *answer = contents[index : index + 2]
        # The system text is part of the first user message, and is stripped with it.
        user = f"{SYS}{system}{END_SYS}{user}" if system is not None and index == 0 else user
        prompt = f"{INST} {user.strip()} {END_INST}"
        turn = prompt_ids = [tokenizer.bos_id, *map(int, tokenizer.encode(prompt))]
        if answer:
            text_ids = tokenizer.encode(f"{prompt} {answer[0].strip()} ")
            turn = [tokenizer.bos_id, *map(int, text_ids), tokenizer.eos_id]
        # The answer starts at the first id at which prompt and turn differ: a token that spans both is in the answer.
        start = next((i for i, (a, b) in enumerate(zip(prompt_ids, turn, strict=False)) if a != b), len(prompt_ids))
        ids += turn
        weights += [0.0] * start + [loss[index // 2] if answer else 1.0] * (len(turn) - start)
    return ids, weights


def _source(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """Encodes BOS, then each message as " Source: role" "\\n\\n content" <step>."""
    if tokenizer.step_id is None:
        raise UserError(f"{where}: Chat.format='source' needs the id <step>: bind Tokenizer.infilling=True")
    ids: list[int] = [tokenizer.bos_id]
    weights: list[float] = [0.0]
    for message in messages:
        header = _header(tokenizer, message["role"])
        content = [*tokenizer.encode_continuation("\n\n " + message["content"].strip()), tokenizer.step_id]
        ids += [int(token) for token in (*header, *content)]
        weights += [0.0] * len(header) + [_weight(message)] * len(content)
    return ids, weights


def _header(tokenizer: Tokenizer, role: str) -> np.ndarray:
    return tokenizer.encode_continuation(f" Source: {role}")
