"""The text of a request while it is generated: characters are never split, and stop strings never shown."""

import bisect
import codecs
from collections.abc import Sequence

import numpy as np

from codellama_jax.tokenizer import Tokenizer


class TokenTexts:
    """The bytes that each token stands for; b"" for tokens without text."""

    def __init__(self, tokenizer: Tokenizer):
        self._bytes = tokenizer.token_bytes()
        self._sorted = sorted(range(len(self._bytes)), key=self._bytes.__getitem__)

    def __call__(self, token: int) -> bytes:
        return self._bytes[token] if token < len(self._bytes) else b""

    def starting_with(self, beginning: bytes) -> np.ndarray:
        """Whether the text of each token starts with these bytes, bool [pieces]."""
        start = bisect.bisect_left(self._sorted, beginning, key=self._bytes.__getitem__)
        size = len(beginning)
        end = bisect.bisect_right(self._sorted, beginning, lo=start, key=lambda token: self._bytes[token][:size])
        found = np.zeros(len(self._bytes), bool)
        found[self._sorted[start:end]] = True
        return found


class TextStream:
    """Turns the tokens of a request into text, piece by piece.

    A character whose bytes are not all there is held back, and so is text that could be the start of a stop string.
    Bytes that are not UTF-8 become U+FFFD.

    Args:
        texts: the bytes of the tokens.
        stop: strings that end the text.
        skip: text that the first tokens repeat, and that is not part of the answer (see prompts.heal).
        strip: whether white space at the start and the end is not part of the answer (see prompts.chat). It is held
            back until other text follows. At the start, stop strings do not see it.
        crlf: whether line feeds are shown as CRLF. Stop strings see line feeds.

    Attributes:
        text: all text so far that may be shown.
        stopped: the stop string that ended the text; None if none did.
    """

    def __init__(
        self,
        texts: TokenTexts,
        stop: Sequence[str] = (),
        skip: bytes = b"",
        strip: bool = False,
        crlf: bool = False,
    ):
        self._texts, self._stop, self._skip, self._strip, self._crlf = texts, tuple(stop), skip, strip, crlf
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.text = ""
        self.stopped: str | None = None

    def add(self, tokens: Sequence[int]) -> str:
        """Adds tokens; returns the text that may be shown now. After a stop string, further tokens have no text."""
        return self._add(b"".join(map(self._texts, tokens)), final=False)

    def finish(self) -> str:
        """Ends the text; returns the rest of it."""
        return self._add(b"", final=True)

    def _add(self, data: bytes, final: bool) -> str:
        if self.stopped is not None:
            return ""
        skipped = min(len(self._skip), len(data))
        self._skip, data = self._skip[skipped:], data[skipped:]
        text = self._held + self._decoder.decode(data, final)
        if self._strip and not self.text:
            text = text.lstrip()
        found = [(text.find(stop), -len(stop), stop) for stop in self._stop if stop in text]
        if found:
            position, _, self.stopped = min(found)
            text, self._held = text[:position].rstrip() if self._strip else text[:position], ""
        else:
            held = 0 if final else max((_overlap(text, stop) for stop in self._stop), default=0)
            shown = text[: len(text) - held]
            shown = shown.rstrip() if self._strip else shown
            text, self._held = shown, text[len(shown) :]
        text = text.replace("\n", "\r\n") if self._crlf else text
        self.text += text
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of a text with which a stop string starts."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
