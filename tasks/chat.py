"""The two dialogue formats of Code Llama - Instruct as token ids, with the loss on answers only.

"inst" is that of 7B, 13B and 34B; "source" that of 70B. Loss on answers only is Llama 2's habit (assumption).
"""

from collections.abc import Sequence

import numpy as np

from codellama_jax.errors import UserError
from codellama_jax.tokenizer import Tokenizer

Message = dict[str, str]  # role: system, user or assistant; content

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
    system, turns = _turns(messages, where)
    if chat_format == "inst":
        return _inst(tokenizer, system, turns, where)
    if chat_format == "source":
        return _source(tokenizer, messages, where)
    raise UserError(f"Chat.format={chat_format!r} must be 'inst' or 'source'")


def _turns(messages: Sequence[Message], where: str) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text and the (user, answer) turns."""
    rest = list(messages)
    system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else None
    roles = [message["role"] for message in rest]
    if not rest or roles != ["user", "assistant"] * (len(rest) // 2):
        raise UserError(
            f"{where}: roles are {[m['role'] for m in messages]}; they must be an optional system message, then user"
            " and assistant in turn, ending with the assistant"
        )
    contents = [message["content"] for message in rest]
    return system, list(zip(contents[::2], contents[1::2], strict=True))


def _inst(
    tokenizer: Tokenizer, system: str | None, turns: list[tuple[str, str]], where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Every turn on its own as BOS "[INST] user [/INST] answer " EOS, the system text in front of the first user's."""
    for text in (system or "", *(text for turn in turns for text in turn)):
        if tag := next((tag for tag in RESERVED if tag in text), None):
            raise UserError(f"{where}: a message contains the reserved tag {tag}; remove it or leave the dialogue out")
    ids: list[int] = []
    weights: list[float] = []
    for index, (user, answer) in enumerate(turns):
        # the system text is part of the first user message, and is stripped with it
        user = f"{SYS}{system}{END_SYS}{user}" if system is not None and index == 0 else user
        prompt = f"{INST} {user.strip()} {END_INST}"
        turn = [tokenizer.bos_id, *tokenizer.encode(f"{prompt} {answer.strip()} "), tokenizer.eos_id]
        # The answer begins where the ids of prompt and turn part, so that a token across the seam counts as answer.
        prompt_ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
        seam = next((i for i, (a, b) in enumerate(zip(prompt_ids, turn, strict=False)) if a != b), len(prompt_ids))
        ids += [int(token) for token in turn]
        weights += [0.0] * seam + [1.0] * (len(turn) - seam)
    return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def _source(tokenizer: Tokenizer, messages: Sequence[Message], where: str) -> tuple[np.ndarray, np.ndarray]:
    """BOS, then each message as " Source: role" "\\n\\n content" <step>; an answer also names its destination."""
    if tokenizer.step_id is None:
        raise UserError(f"{where}: Chat.format='source' needs the id <step>: bind Tokenizer.infilling=True")
    ids: list[int] = [tokenizer.bos_id]
    weights: list[float] = [0.0]
    for message in messages:
        header = source_header(tokenizer, message["role"])
        content = [*tokenizer.encode_continuation("\n\n " + message["content"].strip()), tokenizer.step_id]
        ids += [int(token) for token in (*header, *content)]
        weights += [0.0] * len(header) + [float(message["role"] == "assistant")] * len(content)
    return np.asarray(ids, np.int32), np.asarray(weights, np.float32)


def source_header(tokenizer: Tokenizer, role: str) -> np.ndarray:
    """Ids of " Source: role"."""
    return tokenizer.encode_continuation(f" Source: {role}")


def encode_open_dialogue(tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str) -> np.ndarray:
    """Ids of a dialogue that ends with the user, ready for the model's answer.

    Raises:
        UserError: as encode_dialogue does.
    """
    if not messages or messages[-1]["role"] != "user":
        raise UserError("an open dialogue must end with the user")
    last = messages[-1]["content"]
    if chat_format == "source":
        if tokenizer.step_id is None:
            raise UserError("Chat.format='source' needs the id <step>: bind Tokenizer.infilling=True")
        ids: list[int] = [tokenizer.bos_id]
        for message in messages:
            ids += [*source_header(tokenizer, message["role"])]
            ids += [*tokenizer.encode_continuation("\n\n " + message["content"].strip()), tokenizer.step_id]
        ids += [*source_header(tokenizer, "assistant\nDestination: user"), *tokenizer.encode_continuation("\n\n ")]
        return np.asarray(ids, np.int32)
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    closed = list(messages[:-1])
    head = np.asarray([], np.int32)
    if len(closed) > (system is not None):
        head, _ = encode_dialogue(tokenizer, closed, chat_format)
    elif system is not None:
        last = f"{SYS}{system}{END_SYS}{last}"
    if tag := next((tag for tag in RESERVED if tag in messages[-1]["content"]), None):
        raise UserError(f"dialogue: a message contains the reserved tag {tag}; remove it or leave the dialogue out")
    return np.concatenate([head, [tokenizer.bos_id], tokenizer.encode(f"{INST} {last.strip()} {END_INST}")]).astype(
        np.int32
    )
