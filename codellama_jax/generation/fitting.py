"""Fits prompts into the context: editors send whole files, and more than a model can read.

Of the text before a hole, its end is kept, and of the text after it, its beginning. Texts are cut at line ends, and in
steps: while somebody types, the cut stays where it is, so that the prefix cache still holds what follows it.
"""

import dataclasses
from collections.abc import Callable, Sequence

from codellama_jax.generation import prompts
from codellama_jax.generation.prompts import Prompt
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.tokenizer import Order, Tokenizer

# Precedes each snippet of other files. llama.cpp writes the same for models without tokens for file names.
SNIPPET = "\n\n--- snippet ---\n\n"
_STEPS = 8  # a text is cut in steps of an eighth of what is kept
_LONGEST = 16  # characters of a token. The parts of a text that are certainly too far away are not encoded
_MARGIN = 8  # tokens for the ids around the texts, and for those that a text has more than it had as a part


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A prompt that fits.

    Attributes:
        prompt: the prompt.
        truncated: whether text was cut.
    """

    prompt: Prompt
    truncated: bool


def infill(
    tokenizer: Tokenizer,
    texts: TokenTexts,
    prefix: str,
    suffix: str,
    order: Order,
    room: int,
    snippets: Sequence[str] = (),
) -> Fitted:
    """The prompt of a hole, of at most `room` tokens.

    A suffix that is too long has at least a quarter of the room, and the prefix has the rest. Snippets precede the
    prompt as a document of their own, as documents precede each other in training; those at the beginning are left out
    if there is no room for all.

    Raises:
        UserError: the tokenizer has no infilling ids.
    """
    near, following = _near_end(prefix, room), suffix[: room * _LONGEST]
    truncated = len(near) + len(following) < len(prefix) + len(suffix)
    prefix, suffix = near, following
    prompt = prompts.infill(tokenizer, texts, prefix, suffix, order)
    if len(prompt.ids) > room:
        truncated = True
        before = len(tokenizer.encode(prefix))
        step = max(1, room // _STEPS)
        kept = max(room // 4, room - -(-before // step) * step)

        def cut(available: int) -> Prompt:
            shorter = _beginning(tokenizer, texts, suffix, min(kept, available))
            rest = available - len(tokenizer.encode_continuation(shorter))
            return prompts.infill(tokenizer, texts, _end(tokenizer, texts, prefix, rest), shorter, order)

        prompt = _fitting(cut, room)
    return Fitted(_after(tokenizer, snippets, prompt, room), truncated)


def complete(tokenizer: Tokenizer, texts: TokenTexts, text: str, room: int) -> Fitted:
    """The prompt of a text to continue, of at most `room` tokens: the end of the text."""
    near = _near_end(text, room)
    prompt = prompts.complete(tokenizer, texts, near)
    if len(prompt.ids) <= room:
        return Fitted(prompt, len(near) < len(text))
    end = _fitting(lambda count: prompts.complete(tokenizer, texts, _end(tokenizer, texts, near, count)), room)
    return Fitted(end, truncated=True)


def _fitting(cut: Callable[[int], Prompt], room: int) -> Prompt:
    """A prompt that fits, from a function of the tokens that its texts may have."""
    available = room - _MARGIN
    while len((prompt := cut(available)).ids) > room:
        available -= max(1, len(prompt.ids) - room)
    return prompt


def _near_end(text: str, room: int) -> str:
    """The end of a text, of more than `room` tokens if the text has that many. It is cut in steps, too."""
    step = room * _LONGEST
    return text[max(0, len(text) // step - 1) * step :]


def _end(tokenizer: Tokenizer, texts: TokenTexts, text: str, count: int) -> str:
    """The end of a text, of about `count` tokens or fewer; it starts with a line if one starts in its first half."""
    ids = tokenizer.encode_continuation(text).tolist()
    if len(ids) <= count:
        return text
    if count <= 0:
        return ""
    step = max(1, count // _STEPS)
    data, dropped = text.encode(), -(-(len(ids) - count) // step) * step
    start = _bytes(texts, ids[:dropped])
    line = data.find(b"\n", start, start + _bytes(texts, ids[dropped : dropped + count // 2])) + 1
    return data[line or start :].decode(errors="ignore")


def _beginning(tokenizer: Tokenizer, texts: TokenTexts, text: str, count: int) -> str:
    """The beginning of a text, of about `count` tokens or fewer; it ends with a line if one ends in its second half."""
    ids = tokenizer.encode_continuation(text).tolist()
    if len(ids) <= count:
        return text
    end = _bytes(texts, ids[: max(count, 0)])
    line = text.encode().rfind(b"\n", end // 2, end) + 1
    return text.encode()[: line or end].decode(errors="ignore")


def _bytes(texts: TokenTexts, ids: Sequence[int]) -> int:
    return sum(len(texts(token)) for token in ids)


def _after(tokenizer: Tokenizer, snippets: Sequence[str], prompt: Prompt, room: int) -> Prompt:
    """The prompt after the last snippets for which there is room."""
    kept = list(snippets)
    while kept:
        ids = tokenizer.encode("".join(SNIPPET + text for text in kept)).tolist()
        before = [*tokenizer.start_ids, *ids, tokenizer.eos_id]
        if len(before) + len(prompt.ids) <= room:
            return dataclasses.replace(prompt, ids=[*before, *prompt.ids])
        del kept[0]
    return prompt
