"""Prompts for completion, infilling and chat, as token ids, and what their answers need to become text."""

import bisect
import dataclasses
from collections.abc import Sequence

import numpy as np

from codellama_jax.chat import RESERVED, Message, encode_open_dialogue
from codellama_jax.chat_template import end_ids
from codellama_jax.errors import UserError
from codellama_jax.generation.stopping import TextStream, TokenTexts
from codellama_jax.tokenizer import Order, Tokenizer


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        ids: token ids.
        stop_ids: ids that end the answer.
        allowed: bool [pieces], the tokens that may come first; None: all.
        skip: bytes at the start of the answer that the prompt has already shown.
        crlf: whether line ends of the answer become CRLF.
        stop: strings that end the answer, besides those of a request.
        strip: whether white space at both ends of the answer belongs to the format, and not to its text.
    """

    ids: list[int]
    stop_ids: tuple[int, ...]
    allowed: np.ndarray | None = None
    skip: bytes = b""
    crlf: bool = False
    stop: tuple[str, ...] = ()
    strip: bool = False


def complete(tokenizer: Tokenizer, texts: TokenTexts, text: str, healing: bool = True) -> Prompt:
    """The prompt of a text to continue. Without healing, the answer begins after the last token of the text."""
    text, crlf = _without_crlf(text)
    prompt = of_ids(tokenizer, tokenizer.prompt_ids(text))
    prompt = dataclasses.replace(prompt, crlf=crlf)
    return heal(prompt, texts) if healing else prompt


def of_ids(tokenizer: Tokenizer, ids: list[int]) -> Prompt:
    """The prompt of token ids to continue, as they are."""
    return Prompt(ids, tokenizer.stop_ids())


def infill(
    tokenizer: Tokenizer,
    texts: TokenTexts,
    prefix: str,
    suffix: str,
    order: Order | None = None,
    healing: bool = True,
) -> Prompt:
    """The prompt of a hole between two texts (arXiv 2308.12950, section 2.3).

    In PSM order the model has learned to continue a prefix that ends anywhere. In SPM order prefix and middle are
    encoded together, so the last token of the prefix is healed, unless `healing` is False. Without an order, it is
    the one that models with the tokenizer's infilling ids prefer.

    Raises:
        UserError: the tokenizer has no infilling ids.
    """
    (prefix, crlf), (suffix, crlf_after) = _without_crlf(prefix), _without_crlf(suffix)
    order = order or tokenizer.orders[0]
    ids = tokenizer.infilling_prompt(prefix, suffix, order).tolist()
    ends = tokenizer.stop_ids(tokenizer.eot_id, tokenizer.eos_id, *tokenizer.separator_ids)
    prompt = Prompt(ids, ends, crlf=crlf or crlf_after)
    return heal(prompt, texts) if healing and order == "spm" and prefix else prompt


def text_stream(prompt: Prompt, texts: TokenTexts, stop: Sequence[str]) -> TextStream:
    """The text of an answer to a prompt while it is generated, with the stop strings of the request.

    The model reads and writes line feeds, whatever the line ends of the prompt are, and so are those of stop strings.
    """
    own = [text.replace("\r\n", "\n") for text in stop] if prompt.crlf else stop
    return TextStream(texts, (*own, *prompt.stop), prompt.skip, prompt.strip, prompt.crlf)


def chat(
    tokenizer: Tokenizer, messages: Sequence[Message], chat_format: str, room: int, where: str = "dialogue"
) -> tuple[Prompt, int]:
    """The prompt of the next answer in a dialogue.

    In training, the white space at both ends of an answer was removed, and a space put before it. So that of a
    generated answer is not part of its text. In the format "inst", an answer ends before a reserved tag.

    Args:
        messages: they end with a question. A system message may come first; question and answer are a turn.
        chat_format: "inst", "source" or "template".
        room: the most tokens that the prompt may have, see `chat_room`. The oldest turns are left out until it fits;
            the system message and the last question are kept.
        where: names the dialogue in error messages.

    Returns:
        The prompt, and the number of turns that were left out.

    Raises:
        UserError: the last question does not fit; roles out of order; a message contains a reserved tag; or the
            format needs <step>, which the tokenizer does not have; or as chat_template.encode_dialogue.
    """
    system = list(messages[:1]) if messages and messages[0]["role"] == "system" else []
    turns = (len(messages) - len(system)) // 2

    def encoded(left_out: int) -> list[int]:
        kept = [*system, *messages[len(system) + 2 * left_out :]]
        return encode_open_dialogue(tokenizer, kept, chat_format, where).tolist()

    # all messages are checked first: those that are left out may be wrong too
    ids, left_out = encoded(0), 0
    if len(ids) > room:
        counts = range(1, turns + 1)
        left_out = 1 + bisect.bisect_left(counts, -room, key=lambda count: -len(encoded(count)))
        if left_out > turns:
            kept = "the system message and the last question have" if system else "the last question has"
            raise UserError(
                f"{where}: {kept} {len(encoded(turns)):,} tokens, and {room:,} fit: shorten it, or use a larger context"
            )
        ids = encoded(left_out)
    ends: tuple[int | None, ...] = (tokenizer.step_id,) if chat_format == "source" else ()
    ends = end_ids(tokenizer) if chat_format == "template" else ends
    stop_ids = tokenizer.stop_ids(*ends)
    return Prompt(ids, stop_ids, stop=RESERVED if chat_format == "inst" else (), strip=True), left_out


def chat_room(context: int, max_tokens: int) -> int:
    """The tokens of a dialogue that leave room for an answer: for all of it, but at most for half of the context."""
    return context - min(max_tokens, context // 2)


def heal(prompt: Prompt, texts: TokenTexts) -> Prompt:
    """Token healing: the last token of a prompt is generated again, with the text of that token as its beginning.

    A prompt that ends inside a word otherwise forces a border between tokens that the model has not seen in training.
    A prompt whose last token no other token continues is returned unchanged.
    """
    text = texts(prompt.ids[-1])
    allowed = texts.starting_with(text) if text and len(prompt.ids) > 1 else None
    if allowed is None or allowed.sum() < 2:
        return prompt
    return dataclasses.replace(prompt, ids=prompt.ids[:-1], allowed=allowed, skip=text)


def _without_crlf(text: str) -> tuple[str, bool]:
    """The text with LF as its line ends, and whether its line ends are CRLF."""
    crlf = text.count("\r\n")
    return (text.replace("\r\n", "\n"), True) if crlf and crlf == text.count("\n") else (text, False)
