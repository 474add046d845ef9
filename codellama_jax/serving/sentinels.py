"""Infilling markers in the text of a raw prompt: what clients send to servers whose protocol has no field for a suffix.

Text never becomes control tokens, with this exception: a raw prompt that consists, from its first character to its
last, of one of the documented forms is read as a prefix and a suffix. The blanks in the forms belong to the markers.

    <PRE> {prefix} <SUF>{suffix} <MID>    Code Llama's own; Continue, Tabby, Ollama's template, Hugging Face
    <PRE> <SUF>{suffix} <MID> {prefix}    Code Llama's own, suffix first
    {context}# File:{name}
    <PRE>{prefix}<SUF>{suffix}<MID>       without blanks, both lines indented: jupyterlab-cellsense

A model whose tokenizer names its own markers is sent these, without blanks (tokenizer/infilling.py has the names):

    <|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>    Qwen2.5-Coder; so do StarCoder and DeepSeek-Coder
    <|fim_prefix|><|fim_suffix|>{suffix}<|fim_middle|>{prefix}    suffix first

The context and the line of the file in the last form, which may be missing, become the start of the prefix. Each marker
must occur exactly once: a prompt in which one of them is also part of the file stays text. A prompt that has more than
one of the forms is read as the first of these. A prefix of the third form that starts and ends with a blank, before a
suffix that ends with one, therefore loses these blanks; all other texts are preserved.
"""

import re
from collections.abc import Callable

from codellama_jax.tokenizer import Tokenizer

_FORMS = (
    re.compile(r"<PRE> (?P<prefix>.*) <SUF>(?P<suffix>.*) <MID>", re.DOTALL),
    re.compile(r"<PRE> <SUF>(?P<suffix>.*) <MID> (?P<prefix>.*)", re.DOTALL),
    re.compile(
        r"((?P<context>.*) {12}(?P<file># File:[^\n]*\n) {16})?<PRE>(?P<prefix>.*)<SUF>(?P<suffix>.*)<MID>", re.DOTALL
    ),
)
_MARKERS = ("<PRE>", "<SUF>", "<MID>")
_CODE_LLAMA = ("<PRE> ", " <SUF>", " <MID>")  # with blanks


class Sentinels:
    """Reads infilling markers in raw prompts.

    Args:
        enabled: whether it does so.
        observe: called for each prompt that has them.
        tokenizer: of the model; None: Code Llama's markers.

    Attributes:
        count: number of prompts that had them.
    """

    def __init__(self, enabled: bool, observe: Callable[[], None] = lambda: None, tokenizer: Tokenizer | None = None):
        self.enabled, self.count, self._observe = enabled, 0, observe
        self._markers: tuple[str, ...] = _MARKERS
        self._forms: tuple[re.Pattern[str], ...] = _FORMS
        own = tokenizer.markers.in_prompts if tokenizer is not None and tokenizer.markers is not None else _CODE_LLAMA
        if own != _CODE_LLAMA:
            self._markers = own
            before, after, middle = map(re.escape, self._markers)
            self._forms = (
                re.compile(f"{before}{after}(?P<suffix>.*){middle}(?P<prefix>.*)", re.DOTALL),
                re.compile(f"{before}(?P<prefix>.*){after}(?P<suffix>.*){middle}", re.DOTALL),
            )

    def split(self, prompt: str) -> tuple[str, str] | None:
        """Prefix and suffix of a raw prompt in one of the forms; None for all other text. Counts the prompt."""
        found = self._found(prompt)
        if found is None:
            return None
        self.count += 1
        self._observe()
        parts = found.groupdict()
        return (parts.get("context") or "") + (parts.get("file") or "") + parts["prefix"], parts["suffix"]

    def __contains__(self, prompt: str) -> bool:
        """Whether a raw prompt has one of the forms."""
        return self._found(prompt) is not None

    def _found(self, prompt: str) -> re.Match[str] | None:
        if not self.enabled or any(prompt.count(marker) != 1 for marker in self._markers):
            return None
        return next(filter(None, (form.fullmatch(prompt) for form in self._forms)), None)
