"""An answer while it is generated, and how it is reported."""

import os
from collections.abc import Iterator
from typing import Any

from codellama_jax.config.generation import Sampling
from codellama_jax.generation.engine import Engine
from codellama_jax.generation.prompts import Prompt, text_stream
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.runtime.signals import StopSignals


class Answer:
    """The answer to one prompt, on an engine without other callers. Iterating generates it.

    The iterator yields the text in parts, some of which are empty: one for each step of the engine.

    Attributes:
        text: the text so far.
        tokens: ids of the answer so far, without the stop id.
        finish_reason: "stop", "length" or "interrupted"; None while it is generated.
        signal: name of the signal that interrupted it, such as "SIGINT"; None: none did.

    Raises:
        UserError: the engine refuses the prompt.
    """

    def __init__(self, engine: Engine, texts: TokenTexts, prompt: Prompt, sampling: Sampling):
        self.signal: str | None = None
        self._engine = engine
        self._stream = text_stream(prompt, texts, sampling.stop)
        self._request = engine.submit(prompt.ids, sampling, prompt.stop_ids, prompt.allowed)

    def __iter__(self) -> Iterator[str]:
        read = 0
        while not self._request.finished:
            self._engine.step()
            part = self._stream.add(self._request.tokens[read:])
            read = len(self._request.tokens)
            if self._stream.stopped is not None:
                self._engine.finish(self._request)
            yield part
        if part := self._stream.finish():
            yield part

    @property
    def text(self) -> str:
        return self._stream.text

    @property
    def tokens(self) -> list[int]:
        return self._request.tokens

    @property
    def finish_reason(self) -> str | None:
        return self._request.finish_reason

    @property
    def filled_context(self) -> bool:
        """Whether it ended because prompt and answer fill the context."""
        request = self._request
        return request.finish_reason == "length" and len(request.tokens) < request.settings.max_tokens

    def until_signal(self, exit_code: int) -> Iterator[str]:
        """Generates the answer, and ends it after the current step of the engine if a signal such as Ctrl-C arrives.

        At a second signal, the process exits at once with `exit_code`: the current step may be a compilation, and a
        process that ends in an orderly way while a program runs may crash.
        """

        def on_signal(_: int) -> None:
            if signals.count > 1:
                os._exit(exit_code)

        signals = StopSignals(on_signal)
        with signals:
            for part in self:
                yield part
                if signals.received:
                    self._engine.finish(self._request, "interrupted")
        self.signal = signals.name

    def as_json(self) -> dict[str, Any]:
        """The answer as the commands print it."""
        return {"text": self.text, "tokens": self.tokens, "finish_reason": self.finish_reason}
