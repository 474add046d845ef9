"""The two dialogue formats of Code Llama - Instruct as token ids, with the loss on answers only.

"inst" is that of 7B, 13B and 34B; "source" that of 70B. Loss on answers only is Llama 2's habit (assumption).
"""

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
    """Ids of a dialogue that ends with an answer, and the weight of each as a target: 1 on answers, 0 on prompts.

    Raises:
        UserError: roles out of order, a message that contains a reserved tag, or an unknown format.
    """
    return _encoded(tokenizer, messages, chat_format, where, last="assistant")


def encode_open_dialogue(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str = "dialogue"
) -> np.ndarray:
    """Ids of a dialogue that ends with the user, ready for the model's answer.

    Raises:
        UserError: as encode_dialogue does.
    """
    ids, _ = _encoded(tokenizer, messages, chat_format, where, last="user")
    if chat_format == "source":
        # What is asked for names its destination, closed answers do not: so are the published ids.
        reply = [*_header(tokenizer, "assistant\nDestination: user"), *tokenizer.encode_continuation("\n\n ")]
        ids = np.concatenate([ids, np.asarray(reply, np.int32)])
    return ids


def check(messages: Sequence[Message], chat_format: str) -> None:
    """Raises LeftOut if a dialogue is no training example: "roles", "reserved_tag", "blank" (an answer is)."""
    if _disorder(messages, "assistant"):
        raise LeftOut("roles")
    if any(message["role"] == "assistant" and not message["content"].strip() for message in messages):
        raise LeftOut("blank")
    if chat_format == "inst" and any(_tag(message["content"]) for message in messages):
        raise LeftOut("reserved_tag")


def _encoded(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, where: str, last: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids and weights of a dialogue that must end with the role `last`."""
    if disorder := _disorder(messages, last):
        raise UserError(f"{where}: {disorder}")
    if chat_format == "inst":
        ids, weights = _inst(tokenizer, messages, where)
    elif chat_format == "source":
        ids, weights = _source(tokenizer, messages, where)
    else:
        raise UserError(f"Chat.format={chat_format!r} must be 'inst' or 'source'")
    return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def _disorder(messages: Sequence[Message], last: str) -> str:
    """What is wrong with the order of the roles; "" if nothing is."""
    roles = [message["role"] for message in messages]
    rest = roles[1:] if roles[:1] == ["system"] else roles
    if rest == [("user", "assistant")[index % 2] for index in range(len(rest))] and rest[-1:] == [last]:
        return ""
    return (
        f"roles are {roles}; they must be an optional system message, then user and assistant in turn, ending with the"
        f" {last}"
    )


def _tag(text: str) -> str | None:
    """The reserved tag that a text contains."""
    return next((tag for tag in RESERVED if tag in text), None)


def _inst(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """Every turn on its own as BOS "[INST] user [/INST] answer " EOS, the system text in front of the first user's.

    A turn that still waits for its answer stops at [/INST].
    """
    contents = [message["content"] for message in messages]
    for text in contents:
        if tag := _tag(text):
            raise UserError(f"{where}: a message contains the reserved tag {tag}; remove it or leave the dialogue out")
    system = contents.pop(0) if messages[0]["role"] == "system" else None
    ids: list[int] = []
    weights: list[float] = []
    for index in range(0, len(contents), 2):
        user, *answer = contents[index : index + 2]
        # the system text is part of the first user message, and is stripped with it
        user = f"{SYS}{system}{END_SYS}{user}" if system is not None and index == 0 else user
        prompt = f"{INST} {user.strip()} {END_INST}"
        turn = prompt_ids = [tokenizer.bos_id, *map(int, tokenizer.encode(prompt))]
        if answer:
            whole = tokenizer.encode(f"{prompt} {answer[0].strip()} ")
            turn = [tokenizer.bos_id, *map(int, whole), tokenizer.eos_id]
        # The answer begins where the ids of prompt and turn part, so that a token across the seam counts as answer.
        seam = next((i for i, (a, b) in enumerate(zip(prompt_ids, turn, strict=False)) if a != b), len(prompt_ids))
        ids += turn
        weights += [0.0] * seam + [1.0] * (len(turn) - seam)
    return ids, weights


def _source(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[list[int], list[float]]:
    """BOS, then each message as " Source: role" "\\n\\n content" <step>."""
    if tokenizer.step_id is None:
        raise UserError(f"{where}: Chat.format='source' needs the id <step>: bind Tokenizer.infilling=True")
    ids: list[int] = [tokenizer.bos_id]
    weights: list[float] = [0.0]
    for message in messages:
        header = _header(tokenizer, message["role"])
        content = [*tokenizer.encode_continuation("\n\n " + message["content"].strip()), tokenizer.step_id]
        ids += [int(token) for token in (*header, *content)]
        weights += [0.0] * len(header) + [float(message["role"] == "assistant")] * len(content)
    return ids, weights


def _header(tokenizer: Tokenizer, role: str) -> np.ndarray:
    return tokenizer.encode_continuation(f" Source: {role}")
