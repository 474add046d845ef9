"""The tokens of an answer as parts of its text, with their log-probabilities, in the forms of OpenAI's API."""

import codecs
import dataclasses
from collections import deque
from collections.abc import Iterable
from typing import Any

from codellama_jax.generation.logprobs import TokenLogprobs
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.serving.jobs import Delta
from codellama_jax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ShownToken:
    """A token of a text.

    Attributes:
        text, data: what it shows, as text and as bytes.
        offset: number of characters of the text before it.
        logprob: its log-probability; None: it was not computed.
        top: the most likely tokens at its place: their text, bytes and log-probability.
    """

    text: str
    data: bytes
    offset: int
    logprob: float | None
    top: list[tuple[str, bytes, float]]


class ShownTokens:
    """Finds which tokens of an answer its text shows: not those of a stop string.

    Args:
        tokenizer, texts: of the model.
        skip: bytes at the start of the answer that are not part of its text.
        offset: number of characters before the answer.
        crlf: whether line feeds have become CRLF.
        strip: whether white space at the start is not part of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: TokenTexts,
        skip: bytes = b"",
        offset: int = 0,
        crlf: bool = False,
        strip: bool = False,
    ):
        self._tokenizer, self._texts, self._skip, self._crlf, self._strip = tokenizer, texts, skip, crlf, strip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before, self._start, self._shown = offset, 0, 0  # numbers of characters
        self._held: deque[TokenLogprobs] = deque()

    def add(self, delta: Delta) -> list[ShownToken]:
        """The tokens that are shown since the last delta."""
        self._held.extend(delta.logprobs)
        self._shown += len(delta.text.replace("\r\n", "\n") if self._crlf else delta.text)
        all_shown = delta.finish_reason is not None and delta.stop is None
        shown = []
        while self._held and (all_shown or self._start < self._shown or not self._texts(self._held[0].token)):
            shown.append(self.next(self._held[0].token, self._held.popleft()))
        return shown

    def next(self, id: int, logprobs: TokenLogprobs | None) -> ShownToken:
        """The next token of the text."""
        data = self._texts(id)
        skipped = min(len(self._skip), len(data)) if data[: len(self._skip)] == self._skip[: len(data)] else 0
        self._skip, rest = self._skip[skipped:], data[skipped:]
        if self._strip:
            rest = rest.lstrip()
            self._strip = not rest
        text = self._name(id, rest) if rest or not data else ""
        top = []
        for other, value in logprobs.top if logprobs else []:
            shown = rest if other == id else self._texts(other)
            top.append((text if other == id else self._name(other, shown), shown, value))
        token = ShownToken(text, rest, self._before + self._start, logprobs.logprob if logprobs else None, top)
        self._start += len(self._decoder.decode(rest))
        return token

    def _name(self, id: int, data: bytes) -> str:
        """A token's text, or a name for a token that has none of its own."""
        if data:
            try:
                return data.decode()
            except UnicodeDecodeError:  # a part of a character; OpenAI's API shows it like this
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        return self._tokenizer.token_name(id)


def of_completion(tokens: Iterable[ShownToken], alternatives: bool) -> dict[str, Any]:
    """The form of /v1/completions: parallel lists."""
    tokens = list(tokens)
    # tokens of one text, such as a letter and its byte, share a key: the first of them is the most likely
    top = [{text: logprob for text, _, logprob in reversed(token.top)} or None for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top if alternatives else None,
        "text_offset": [token.offset for token in tokens],
    }


def of_chat(tokens: Iterable[ShownToken]) -> dict[str, Any]:
    """The form of /v1/chat/completions: a list of objects."""

    def form(text: str, data: bytes, logprob: float | None) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(data)}

    content = [
        {**form(token.text, token.data, token.logprob), "top_logprobs": [form(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
