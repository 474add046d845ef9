"""Prompts for completion and infilling, as token ids, and what their answers need to become text."""

import dataclasses

import numpy as np

from codellama_jax.generation.stopping import TokenTexts
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
    """

    ids: list[int]
    stop_ids: tuple[int, ...]
    allowed: np.ndarray | None = None
    skip: bytes = b""
    crlf: bool = False


def complete(tokenizer: Tokenizer, texts: TokenTexts, text: str, healing: bool = True) -> Prompt:
    """The prompt of a text to continue. Without healing, the answer begins after the last token of the text."""
    text, crlf = _without_crlf(text)
    ids = [tokenizer.bos_id, *tokenizer.encode(text).tolist()]
    stops = [tokenizer.eos_id] + ([tokenizer.eot_id] if tokenizer.eot_id is not None else [])
    prompt = Prompt(ids, tuple(stops), crlf=crlf)
    return heal(prompt, texts) if healing else prompt


def infill(tokenizer: Tokenizer, texts: TokenTexts, prefix: str, suffix: str, order: Order = "spm") -> Prompt:
    """The prompt of a hole between two texts (arXiv 2308.12950, section 2.3).

    In PSM order the model has learned to continue a prefix that ends anywhere. In SPM order prefix and middle are
    encoded together, so the last token of the prefix is healed.

    Raises:
        UserError: the tokenizer has no infilling ids.
    """
    (prefix, crlf), (suffix, crlf_after) = _without_crlf(prefix), _without_crlf(suffix)
    ids = tokenizer.infilling_prompt(prefix, suffix, order).tolist()
    assert tokenizer.eot_id is not None
    prompt = Prompt(ids, (tokenizer.eot_id, tokenizer.eos_id), crlf=crlf or crlf_after)
    return heal(prompt, texts) if order == "spm" and prefix else prompt


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
